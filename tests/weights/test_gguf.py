"""Our GGUF reader on files that the gguf package wrote."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize, quantize

from darkroom.api.errors import CheckpointError
from darkroom.quant.packed import PackedTensor
from darkroom.weights.checkpoint import open_checkpoint
from darkroom.weights.gguf import TYPES


def finish(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def header(
    version: int = 3, tensors: bytes = b"", count: int = 0, pairs: bytes = b"", npairs: int = 0
) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, count, npairs) + pairs + tensors


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def tensor(name: str, dims: list[int], kind: int, offset: int = 0) -> bytes:
    return string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def test_type_numbers_are_ggmls() -> None:
    assert {number: name.upper() for number, name in TYPES.items()} == {
        number: GGMLQuantizationType(number).name for number in TYPES
    }


def test_arrays_of_the_metadata(tmp_path: Path) -> None:
    arrays = {
        "strings": ["", "Ġa", "größer", "猫" * 1000],
        "floats": [0.5, -1e4],
        "ints": [1, -2, 3],
        "bytes": bytes(range(256)),
        "flags": [True, False],
    }
    writer = GGUFWriter(tmp_path / "x.gguf", "t5")
    for key, values in arrays.items():
        writer.add_array(key, values)
    writer.add_tensor("x", np.zeros(1, dtype=np.float32))
    finish(writer)
    with open_checkpoint(tmp_path / "x.gguf") as checkpoint:
        metadata = checkpoint.index.metadata
        assert [len(metadata[key]) for key in arrays] == [len(values) for values in arrays.values()]
    assert {key: list(metadata[key]) for key in arrays} == {key: list(v) for key, v in arrays.items()}
    assert metadata["strings"][1:3] == ["Ġa", "größer"]


@pytest.mark.parametrize("alignment", [32, 64])
def test_reads_what_the_package_wrote(tmp_path: Path, alignment: int) -> None:
    rng = np.random.default_rng(5)
    plain = {
        "f32": rng.normal(size=(3, 5)).astype(np.float32),
        "f16": rng.normal(size=(2, 3, 4)).astype(np.float16),
        "f64": rng.normal(size=7),
        "i8": np.arange(-3, 4, dtype=np.int8),
        "i64": np.arange(5),
    }
    packed = {
        name: rng.normal(size=(6, 256)).astype(np.float32) for name in ("q8_0", "q4_1", "bf16", "tq2_0")
    }
    writer = GGUFWriter(tmp_path / "x.gguf", "sd1")
    writer.add_custom_alignment(alignment)
    writer.add_string("note", "größer")
    for name, array in plain.items():
        writer.add_tensor(name, array)
    for name, array in packed.items():
        qtype = GGMLQuantizationType[name.upper()]
        writer.add_tensor(name, quantize(array, qtype), raw_dtype=qtype)
    finish(writer)

    with open_checkpoint(tmp_path / "x.gguf") as checkpoint:
        assert checkpoint.index.metadata["note"] == "größer"
        assert checkpoint.index.metadata["general.architecture"] == "sd1"
        assert {name: info.dtype for name, info in checkpoint.index.items()} == {n: n for n in plain | packed}
        for name, array in plain.items():
            np.testing.assert_array_equal(checkpoint.read(name).numpy(), array)
        for name, array in packed.items():
            qtype, ours = GGMLQuantizationType[name.upper()], checkpoint.read(name)
            decoded = ours.decode(torch.float32) if isinstance(ours, PackedTensor) else ours.float()
            np.testing.assert_array_equal(decoded.numpy(), dequantize(quantize(array, qtype), qtype))
        assert isinstance(checkpoint.read("q8_0"), PackedTensor)
        assert isinstance(checkpoint.read("bf16"), torch.Tensor)


def test_comfyui_s_original_shape_is_honoured(tmp_path: Path) -> None:
    conv = np.random.default_rng(6).normal(size=(16, 16, 3, 3)).astype(np.float32)
    writer = GGUFWriter(tmp_path / "x.gguf", "sd1")
    writer.add_array("comfy.gguf.orig_shape.conv.weight", list(conv.shape))
    flat = quantize(conv.reshape(-1, 256), GGMLQuantizationType.Q8_0)
    writer.add_tensor("conv.weight", flat, raw_dtype=GGMLQuantizationType.Q8_0)
    finish(writer)
    with open_checkpoint(tmp_path / "x.gguf") as checkpoint:
        assert checkpoint.index["conv.weight"].shape == conv.shape
        decoded = checkpoint.read("conv.weight").decode(torch.float32)
    np.testing.assert_array_equal(
        decoded.numpy(), dequantize(flat, GGMLQuantizationType.Q8_0).reshape(conv.shape)
    )


def test_a_vocabulary_in_the_metadata_is_walked_over(tmp_path: Path) -> None:
    """150 000 strings, as Qwen has; none of them becomes an object."""
    words = b"".join(string(f"token{i}") for i in range(150_000))
    pairs = string("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 150_000) + words
    text = header(pairs=pairs, npairs=1, tensors=tensor("x", [4], 0), count=1)
    path = tmp_path / "x.gguf"
    path.write_bytes(text + bytes(-len(text) % 32) + bytes(16))
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.index.shapes() == {"x": (4,)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header(version=1), "GGUF version 1; versions 2 and 3"),
        (header(version=3 << 24), "big-endian"),
        (header(count=3), "header breaks off"),
        (header(count=1 << 60), "header breaks off"),
        (header(npairs=1 << 60), "header breaks off"),
        (header(npairs=1, pairs=struct.pack("<Q", 1 << 62)), "header breaks off"),
        (header(npairs=1, pairs=string("k") + struct.pack("<IIQ", 9, 8, 1 << 62)), "header breaks off"),
        (header(npairs=1, pairs=string("k") + struct.pack("<IIQ", 9, 4, 1 << 62)), "header breaks off"),
        (header(npairs=1, pairs=string("k") + struct.pack("<I", 77)), "'k' has unknown type 77"),
        (header(npairs=1, pairs=string("k") + struct.pack("<IIQ", 9, 9, 1)), "array of arrays"),
        (header(count=1, tensors=tensor("x", [4], 31)), "'x' is of ggml type 31, which is not read"),
        (header(count=1, tensors=tensor("x", [9] * 9, 0)), "'x' has 9 dimensions"),
        (header(count=1, tensors=tensor("x", [33], 8)), "no whole number of q8_0 blocks of 32"),
        (header(count=1, tensors=tensor("x", [1 << 40], 0)), "is truncated: tensor 'x' ends at byte"),
        (header(count=2, tensors=tensor("x", [0], 0) * 2), "holds tensor 'x' twice"),
        (header(npairs=1, pairs=string("general.alignment") + struct.pack("<II", 4, 0)), "alignment is 0"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_a_damaged_header_is_one_clear_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content + bytes(64 if "breaks off" not in message else 0))
    with pytest.raises(CheckpointError, match=message) as raised:
        open_checkpoint(path)
    assert str(raised.value).startswith(f"{path}: ")


def test_an_original_shape_of_another_size_is_an_error(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "sd1")
    writer.add_array("comfy.gguf.orig_shape.x", [3, 3])
    writer.add_tensor("x", np.zeros(8, np.float32))
    finish(writer)
    with pytest.raises(CheckpointError, match=r"'x' is stored as .8., and its own shape .3, 3."):
        open_checkpoint(tmp_path / "x.gguf")
