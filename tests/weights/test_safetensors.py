from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from darkroom.api.errors import CheckpointError
from darkroom.weights.checkpoint import open_checkpoint

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


def write(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_reads_what_the_library_wrote(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {
        "odd": torch.arange(3).to(dtype),
        "matrix": torch.arange(12).reshape(3, 4).to(dtype),
        "scalar": torch.tensor(1).to(dtype),
        "none": torch.empty(0, 7).to(dtype),
    }
    save_file(tensors, tmp_path / "x.safetensors", {"made": "here"})
    with open_checkpoint(tmp_path / "x.safetensors") as checkpoint:
        assert checkpoint.index.metadata == {"made": "here"}
        assert checkpoint.index.shapes() == {name: tuple(t.shape) for name, t in tensors.items()}
        for name, tensor in tensors.items():
            ours = checkpoint.read(name)
            assert isinstance(ours, torch.Tensor)
            assert ours.dtype == dtype
            assert torch.equal(ours.float(), tensor.float())


def test_tensors_are_views_of_one_mapping_and_writing_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"x": torch.ones(1000)}, path)
    before = path.read_bytes()
    with open_checkpoint(path) as checkpoint:
        x = checkpoint.read("x")
        again = checkpoint.read("x")
    assert isinstance(x, torch.Tensor)
    assert isinstance(again, torch.Tensor)
    x.zero_()
    assert again.data_ptr() == x.data_ptr()
    assert again.sum() == 0, "a tensor outlives its closed checkpoint"
    assert path.read_bytes() == before


def test_misaligned_data_is_copied(tmp_path: Path) -> None:
    data = b"\0" + torch.arange(4.0).numpy().tobytes()
    path = write(tmp_path / "x", {"pad": entry("U8", [1], 0, 1), "x": entry("F32", [4], 1, 17)}, data)
    with open_checkpoint(path) as checkpoint:
        assert torch.equal(checkpoint.read("x"), torch.arange(4.0))


def test_an_unknown_type_is_listed_but_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "x", {"x": entry("F4", [4], 0, 2)}, b"\0\0")
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.index["x"].dtype == "f4"
        with pytest.raises(CheckpointError, match="type f4, which is not read"):
            checkpoint.read("x")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"x": entry("F32", [4], 0, 8)}, "has 8 bytes, but F32 .* takes 16"),
        ({"x": entry("F32", [4], 0, 16)}, "is truncated: tensor 'x' ends at byte"),
        ({"x": entry("F32", [4], 8, 4)}, "offsets 8, 4"),
        ({"x": entry("F32", [-4], 0, 0)}, "entry of tensor 'x' is malformed"),
        ({"x": entry("F32", [True], 0, 4)}, "entry of tensor 'x' is malformed"),
        ({"x": {"dtype": "F32"}}, "entry of tensor 'x' is malformed"),
        ({"x": entry("U8", [4], 0, 4), "y": entry("U8", [4], 3, 7)}, "'x' and 'y' overlap"),
        (b'{"x": 1, "x": 2}', "names 'x' twice"),
        (b'{"x": ', "not valid JSON"),
        (b"{" * 100_000, "not valid JSON"),
        (b'{"x":' * 100_000, "not valid JSON"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_a_header_that_does_not_fit_its_file_is_one_clear_error(
    tmp_path: Path, header: object, message: str
) -> None:
    path = write(tmp_path / "broken.safetensors", header, bytes(8))
    with pytest.raises(CheckpointError, match=message) as raised:
        open_checkpoint(path)
    assert str(raised.value).startswith(f"{path}: ")
