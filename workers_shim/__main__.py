"""`python -m workers_shim` is `workers-shim`."""

import sys

from workers_shim.cli import main

if __name__ == "__main__":
    sys.exit(main())
