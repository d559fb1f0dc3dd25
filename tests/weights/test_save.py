"""Our GGUF writer, read back by the gguf package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize

from darkroom.quant.packed import PackedTensor
from darkroom.weights.checkpoint import open_checkpoint
from darkroom.weights.save import write_gguf

FORMATS = ["q8_0", "q4_0", "q4_1", "q5_0", "q5_1"]


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def test_the_package_reads_plain_tensors_and_metadata(tmp_path: Path) -> None:
    tensors = {
        "f32": random(3, 5),
        "f16": random(2, 3, 3, 3).half(),
        "strided": random(4, 6).T,
        "i64": torch.arange(5),
    }
    metadata = {
        "general.architecture": "sd1",
        "general.quantization_version": 2,
        "darkroom.steps": -3,
        "darkroom.loss": 0.25,
        "darkroom.ema": True,
    }
    write_gguf(tmp_path / "x.gguf", tensors, metadata)
    reader = GGUFReader(tmp_path / "x.gguf")
    assert {key: reader.get_field(key).contents() for key in metadata} == metadata
    assert [t.name for t in reader.tensors] == list(tensors)
    for theirs in reader.tensors:
        np.testing.assert_array_equal(theirs.data, tensors[theirs.name].numpy())
        assert list(reversed(theirs.shape.tolist())) == list(tensors[theirs.name].shape)
        assert theirs.data_offset % 32 == 0


@pytest.mark.parametrize("format", FORMATS)
def test_the_package_decodes_packed_tensors(tmp_path: Path, format: str) -> None:
    packed = PackedTensor.encode(random(6, 64), format)
    write_gguf(tmp_path / "x.gguf", {"x": packed})
    (theirs,) = GGUFReader(tmp_path / "x.gguf").tensors
    np.testing.assert_array_equal(
        dequantize(theirs.data, theirs.tensor_type), packed.decode(torch.float32).numpy()
    )


@pytest.mark.parametrize("shape", [(16, 16, 3, 3), (8, 4, 3, 3), (32, 1, 1, 1), (2, 2, 2, 3, 32), (32,)])
def test_every_shape_comes_back_as_it_was(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Whether or not rows are whole blocks, and where ggml's four dimensions are not enough."""
    packed = PackedTensor.encode(random(*shape), "q8_0")
    write_gguf(tmp_path / "x.gguf", {"packed": packed, "plain": random(*shape), "scalar": torch.tensor(3.5)})
    with open_checkpoint(tmp_path / "x.gguf") as checkpoint:
        ours = checkpoint.read("packed")
        assert isinstance(ours, PackedTensor)
        assert torch.equal(ours.decode(torch.float32), packed.decode(torch.float32))
        assert torch.equal(checkpoint.read("plain"), random(*shape))
        assert torch.equal(checkpoint.read("scalar"), torch.tensor(3.5))
    stored = {t.name: t for t in GGUFReader(tmp_path / "x.gguf").tensors}["packed"]
    assert stored.shape[0] % 32 == 0


def test_a_type_that_gguf_lacks_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"GGUF has no tensor type bool"):
        write_gguf(tmp_path / "x.gguf", {"x": torch.ones(3, dtype=torch.bool)})
    assert list(tmp_path.iterdir()) == []


class Breaking(Mapping[str, torch.Tensor]):
    """A mapping whose tensors can be described once, but not read a second time."""

    def __init__(self) -> None:
        self.reads = 0

    def __getitem__(self, name: str) -> torch.Tensor:
        self.reads += 1
        if self.reads > 3:
            raise KeyboardInterrupt
        return torch.ones(3)

    def __iter__(self) -> Iterator[str]:
        return iter(["x", "y"])

    def __len__(self) -> int:
        return 2


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    write_gguf(path, {"x": torch.zeros(2)})
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_gguf(path, Breaking())
    assert [p.name for p in tmp_path.iterdir()] == ["x.gguf"]
    assert path.read_bytes() == before
