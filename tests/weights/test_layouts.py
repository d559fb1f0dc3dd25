"""Headers that we write, read by the packages of their formats."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from safetensors import safe_open
from torch import Tensor

from darkroom.weights.checkpoint import open_checkpoint
from darkroom.weights.index import DTYPES, TensorInfo
from darkroom.weights.layouts import SAFETENSORS_TYPES, gguf_layout, safetensors_layout
from darkroom.weights.output import OutputFile
from darkroom.weights.source import describe_tensor


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def write_safetensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    layout = safetensors_layout([describe_tensor(name, t) for name, t in tensors.items()], metadata)
    with OutputFile(path, layout.size) as file:
        file.write(0, layout.header)
        for name, tensor in tensors.items():
            file.write(layout.starts[name], tensor)


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    tensors = {
        "odd": random(3).half(),
        "größe": random(2, 3),
        "f8": random(5).to(torch.float8_e4m3fn),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "long": torch.arange(3),
    }
    path = tmp_path / "x.safetensors"
    write_safetensors(path, tensors, {"format": "pt"})
    with safe_open(path, "pt") as theirs:
        assert theirs.metadata() == {"format": "pt"}
        assert set(theirs.keys()) == set(tensors)
        for name, tensor in tensors.items():
            assert torch.equal(theirs.get_tensor(name).float(), tensor.float())
    with open_checkpoint(path) as ours:
        assert ours.index.shapes() == {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def test_wide_elements_are_aligned() -> None:
    layout = safetensors_layout([TensorInfo("a", (3,), "i8"), TensorInfo("b", (3,), "f64")])
    assert layout.starts["b"] % 8 == 0
    assert layout.size == layout.starts["a"] + 3


def test_safetensors_has_no_blocks() -> None:
    with pytest.raises(ValueError, match="no tensor type q8_0"):
        safetensors_layout([TensorInfo("a", (32,), "q8_0")])
    assert set(SAFETENSORS_TYPES) == set(DTYPES)


def test_metadata_of_another_file_is_kept_byte_by_byte(tmp_path: Path) -> None:
    """Arrays of text among it, which a vocabulary is."""
    from gguf import GGUFWriter

    theirs = GGUFWriter(tmp_path / "theirs.gguf", "qwen3")
    theirs.add_token_list(["a", "b", "ü"])
    theirs.add_uint32("qwen3.block_count", 7)
    theirs.add_tensor("x", random(2, 3).numpy())
    theirs.write_header_to_file()
    theirs.write_kv_data_to_file()
    theirs.write_tensors_to_file()
    theirs.close()
    with open_checkpoint(tmp_path / "theirs.gguf") as checkpoint:
        metadata = checkpoint.gguf_metadata()
    layout = gguf_layout([TensorInfo("y", (2,), "f32")], {**metadata, "general.name": "ours"})
    with OutputFile(tmp_path / "ours.gguf", layout.size) as file:
        file.write(0, layout.header)
    reader = GGUFReader(tmp_path / "ours.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert fields == {
        "general.architecture": "qwen3",
        "tokenizer.ggml.tokens": ["a", "b", "ü"],
        "qwen3.block_count": 7,
        "general.name": "ours",
    }


def test_five_dimensions_are_stored_as_four_as_stable_diffusion_cpp_does() -> None:
    layout = gguf_layout([TensorInfo("conv", (2, 3, 4, 5, 6), "f16")])
    dims = (6, 5, 4, 6)
    assert b"".join(n.to_bytes(8, "little") for n in dims) in layout.header
