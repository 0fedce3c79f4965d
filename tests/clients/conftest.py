"""Client libraries that are too large for every run: `make test-clients` has them, in .venv-clients.

Where they are not installed nothing here is collected.
"""

import importlib.util

from tests.acceptance.openai_fleet import talking as talking

_LIBRARIES = ("instructor", "langchain_openai", "litellm")

collect_ignore_glob = [] if all(map(importlib.util.find_spec, _LIBRARIES)) else ["test_*.py"]
