"""Runs a program of FastChat's or LLaVA's that imports PyTorch for nothing that it does, where there is none.

.venv-fastchat/bin/python -m tests.upstream.without_torch fastchat.serve.test_message …
"""

import importlib.abc
import importlib.machinery
import runpy
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

ABSENT = (
    "accelerate",
    "einops",
    "huggingface_hub",
    "peft",
    "psutil",
    "torch",
    "tqdm",
    "transformers",
)


class Nothing(MagicMock):
    """Has every name, is a package, and as a base class adds nothing."""

    __path__: Sequence[str] = []

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return ()


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds an empty module for each of them that is not installed: the last finder that is asked."""

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
    sys.meta_path.append(Absent())
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__")
