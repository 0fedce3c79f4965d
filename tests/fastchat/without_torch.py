"""Runs a program of FastChat's that imports PyTorch for nothing that it does, where there is none.

.venv-fastchat/bin/python -m tests.fastchat.without_torch fastchat.serve.test_message …
"""

import importlib.abc
import importlib.machinery
import runpy
import sys
from collections.abc import Sequence
from types import ModuleType
from unittest.mock import MagicMock

ABSENT = ("torch", "transformers", "accelerate", "peft", "psutil", "huggingface_hub", "tqdm", "einops")


class Nothing(MagicMock):
    """Has every name, and is a package."""

    __path__: Sequence[str] = []


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds an empty module for each of them."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] not in ABSENT:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module: ModuleType = Nothing(name=spec.name)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing in it."""


if __name__ == "__main__":
    sys.meta_path.insert(0, Absent())
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__")
