"""What is loaded, and what is refused at the start, in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.transformers.checkpoints import CONTEXT
from workers_shim.engines.transformers import Transformers


@pytest.fixture
def broken(tmp_path: Path, llava: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(llava, tmp_path / "broken"))


def set_config(folder: Path, **fields: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def lose_a_weight(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    del weights[min(weights)]
    save_file(weights, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lose_a_weight, "lacks weights of its model"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"garbage" * 9), "cannot be loaded"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no file named model.safetensors"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be loaded"),
        (lambda folder: set_config(folder, mm_vision_tower="clip"), "LLaVA's first format"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "vit"}'), "does not write text"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "no-such"}'), "'?no-such"),
        (shutil.rmtree, "there is no folder"),
    ],
)
def test_what_cannot_be_served_is_refused(broken: Path, spoil: Callable[[Path], object], words: str) -> None:
    spoil(broken)

    with pytest.raises(ValueError, match=words) as caught:
        Transformers.load(str(broken), device="cpu")

    assert "\n" not in str(caught.value)


def test_llavas_processor_is_read_as_older_versions_wrote_it(broken: Path) -> None:
    file = broken / "processor_config.json"
    processor = json.loads(file.read_text())
    images = processor.pop("image_processor")
    file.write_text(json.dumps(processor))
    (broken / "preprocessor_config.json").write_text(json.dumps(images | {"processor_class": "LlavaProcessor"}))

    assert "vision" in Transformers.load(str(broken), device="cpu").abilities


def test_a_shorter_context_can_be_said(language_model: Path) -> None:
    assert Transformers.load(str(language_model), context_length=100).context_length == 100
    for wrong in (0, CONTEXT + 1):
        with pytest.raises(ValueError, match=f"from 1 to the model's own {CONTEXT}, not {wrong}"):
            Transformers.load(str(language_model), context_length=wrong)


def test_the_type_of_the_weights_can_be_said(language_model: Path) -> None:
    assert Transformers.load(str(language_model))._checkpoint.model.dtype is torch.float32
    assert Transformers.load(str(language_model), dtype="bfloat16")._checkpoint.model.dtype is torch.bfloat16


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(language_model: Path) -> None:
    with pytest.raises(ValueError, match="torch finds no CUDA device here"):
        Transformers.load(str(language_model), device="cuda")
