"""Client libraries that are too large for every run: `make test-clients` has them, in .venv-clients.

Where they are not installed nothing here is collected.
"""

import importlib.util
import os

from tests.acceptance.openai_fleet import talking as talking

# LiteLLM fetches a list of prices as it is imported.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

_LIBRARIES = ("instructor", "langchain_openai", "litellm")

collect_ignore_glob = [] if all(map(importlib.util.find_spec, _LIBRARIES)) else ["test_*.py"]
