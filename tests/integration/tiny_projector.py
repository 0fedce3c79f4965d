"""Writes a projector for llama.cpp: eyes of LLaVA's kind, so small and untaught that they see nothing but colours.

The layout of the file: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import random
import struct
from collections.abc import Iterator
from pathlib import Path

_IMAGE_SIDE = 28
_PATCH_SIDE = 14
_WIDTH = 16
_INNER_WIDTH = 32
IMAGE_TOKENS = (_IMAGE_SIDE // _PATCH_SIDE) ** 2

_UINT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 6, 7, 8, 9
_ALIGNMENT = 32


def write_projector(path: Path, *, language_width: int) -> Path:
    """For a language model whose embeddings have `language_width` numbers."""
    tensors = dict(_tensors(language_width))
    facts = _facts(language_width)
    head = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(facts)), *facts]
    at = 0
    for name, shape in tensors.items():
        head.append(_text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, at))
        at += _padded(4 * _count(shape))
    data = b"".join(head)
    dice = random.Random(1)
    with path.open("wb") as file:
        file.write(data.ljust(_padded(len(data)), b"\0"))
        for name, shape in tensors.items():
            numbers = [
                dice.gauss(1.0 if "ln" in name and name.endswith("weight") else 0.0, 0.3) for _ in range(_count(shape))
            ]
            file.write(struct.pack(f"<{len(numbers)}f", *numbers).ljust(_padded(4 * len(numbers)), b"\0"))
    return path


def _facts(language_width: int) -> list[bytes]:
    vision = {
        "image_size": _IMAGE_SIDE,
        "patch_size": _PATCH_SIDE,
        "embedding_length": _WIDTH,
        "feed_forward_length": _INNER_WIDTH,
        "projection_dim": language_width,
        "block_count": 1,
        "attention.head_count": 2,
    }
    return [
        _fact("general.architecture", _STRING, _text("clip")),
        _fact("clip.projector_type", _STRING, _text("mlp")),
        _fact("clip.has_vision_encoder", _BOOL, b"\1"),
        _fact("clip.use_gelu", _BOOL, b"\1"),
        *(_fact(f"clip.vision.{name}", _UINT32, struct.pack("<I", number)) for name, number in vision.items()),
        _fact("clip.vision.attention.layer_norm_epsilon", _FLOAT32, struct.pack("<f", 1e-5)),
        *(
            _fact(f"clip.vision.{name}", _ARRAY, struct.pack("<IQ3f", _FLOAT32, 3, 0.5, 0.5, 0.5))
            for name in ("image_mean", "image_std")
        ),
    ]


def _tensors(language_width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes, the fastest dimension first."""
    yield "v.class_embd", (_WIDTH,)
    yield "v.patch_embd.weight", (_PATCH_SIDE, _PATCH_SIDE, 3, _WIDTH)
    yield "v.position_embd.weight", (_WIDTH, IMAGE_TOKENS + 1)
    layers = {
        "v.pre_ln": (_WIDTH,),
        "v.blk.0.ln1": (_WIDTH,),
        "v.blk.0.ln2": (_WIDTH,),
        **{f"v.blk.0.attn_{part}": (_WIDTH, _WIDTH) for part in ("q", "k", "v", "out")},
        "v.blk.0.ffn_up": (_WIDTH, _INNER_WIDTH),
        "v.blk.0.ffn_down": (_INNER_WIDTH, _WIDTH),
        "mm.0": (_WIDTH, _INNER_WIDTH),
        "mm.2": (_INNER_WIDTH, language_width),
    }
    for name, shape in layers.items():
        yield f"{name}.weight", shape
        yield f"{name}.bias", shape[-1:]


def _fact(key: str, kind: int, value: bytes) -> bytes:
    return _text(key) + struct.pack("<I", kind) + value


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
