"""These tests need torch, which `make setup` does not install: `make test-transformers` runs them."""

import importlib.util
from pathlib import Path

import pytest

if importlib.util.find_spec("torch") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """For models so small, several wait for each other longer than they work."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint's folder."""
    from tests.transformers.checkpoints import save_language_model

    return save_language_model(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint's folder."""
    from tests.transformers.checkpoints import save_llava

    return save_llava(tmp_path_factory.mktemp("models") / "tiny-llava")
