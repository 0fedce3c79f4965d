"""`python -m broker_controller`."""

import sys

from broker_controller.cli import main

sys.exit(main())
