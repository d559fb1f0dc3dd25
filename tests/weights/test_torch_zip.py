"""torch.save's files of both layouts, as torch itself writes them, and damaged ones."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from darkroom.api.errors import CheckpointError
from darkroom.weights.checkpoint import open_checkpoint

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]
LAYOUTS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def save(path: Path, value: object, zipped: bool) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_reads_every_type(tmp_path: Path, zipped: bool, dtype: torch.dtype) -> None:
    tensor = torch.arange(12).view(3, 4).to(dtype)
    with open_checkpoint(save(tmp_path / "x.ckpt", {"x": tensor}, zipped)) as checkpoint:
        ours = checkpoint.read("x")
    assert isinstance(ours, torch.Tensor)
    assert ours.dtype == dtype
    assert torch.equal(ours, tensor)


def test_reads_fp8(tmp_path: Path) -> None:
    tensor = torch.arange(12.0).to(torch.float8_e4m3fn)
    with open_checkpoint(save(tmp_path / "x.pt", {"pad": torch.ones(1), "x": tensor}, True)) as checkpoint:
        assert checkpoint.index["x"].dtype == "f8_e4m3"
        assert torch.equal(checkpoint.read("x").float(), tensor.float())


@LAYOUTS
def test_views_keep_their_offsets_and_strides_and_share_their_storage(tmp_path: Path, zipped: bool) -> None:
    base = torch.arange(24.0).view(4, 6)
    tensors = {"base": base, "rows": base[1:3], "turned": base.T, "steps": base[:, ::2], "none": base[:0]}
    with open_checkpoint(save(tmp_path / "x.ckpt", tensors, zipped)) as checkpoint:
        assert checkpoint.index.shapes() == {name: tuple(t.shape) for name, t in tensors.items()}
        ours = {name: checkpoint.read(name) for name in tensors}
    for name, tensor in tensors.items():
        assert torch.equal(ours[name], tensor)
    assert ours["turned"].data_ptr() == ours["base"].data_ptr()


@LAYOUTS
def test_a_training_checkpoint_gives_its_state_dict(tmp_path: Path, zipped: bool) -> None:
    module = nn.Linear(3, 2)
    value = {
        "epoch": 3,
        "lr": 1e-4,
        "size": torch.Size([1, 2]),
        "state_dict": OrderedDict(module.state_dict(keep_vars=True)),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}, "flags": {"a", "b"}, "big": 1 << 80}],
    }
    with open_checkpoint(save(tmp_path / "x.ckpt", value, zipped)) as checkpoint:
        assert checkpoint.index.shapes() == {"weight": (2, 3), "bias": (2,)}
        assert torch.equal(checkpoint.read("weight"), module.weight)


@LAYOUTS
def test_nested_dicts_get_dotted_names(tmp_path: Path, zipped: bool) -> None:
    value = {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.ones(2, 8)}, "name": "style"}
    with open_checkpoint(save(tmp_path / "x.pt", value, zipped)) as checkpoint:
        assert checkpoint.index.shapes() == {"string_to_param.*": (2, 8)}


@LAYOUTS
def test_a_parameter_dict_is_read(tmp_path: Path, zipped: bool) -> None:
    """The original textual inversions hold one."""
    value = {"string_to_param": nn.ParameterDict({"*": nn.Parameter(torch.ones(2, 8))})}
    with open_checkpoint(save(tmp_path / "x.pt", value, zipped)) as checkpoint:
        assert checkpoint.index.shapes() == {"string_to_param.*": (2, 8)}


def test_tensors_in_the_zip_are_mapped(tmp_path: Path) -> None:
    with open_checkpoint(save(tmp_path / "x.ckpt", {"x": torch.ones(1000)}, True)) as checkpoint:
        first, second = checkpoint.read("x"), checkpoint.read("x")
    assert first.data_ptr() == second.data_ptr()


def test_a_compressed_archive_is_read_too(tmp_path: Path) -> None:
    save(tmp_path / "x.ckpt", {"x": torch.arange(1000.0)}, True)
    with (
        zipfile.ZipFile(tmp_path / "x.ckpt") as plain,
        zipfile.ZipFile(tmp_path / "y.ckpt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with open_checkpoint(tmp_path / "y.ckpt") as checkpoint:
        assert torch.equal(checkpoint.read("x"), torch.arange(1000.0))


@LAYOUTS
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_one_clear_error(tmp_path: Path, zipped: bool, share: float) -> None:
    path = save(tmp_path / "x.ckpt", {"x": torch.ones(5000), "y": torch.ones(5000)}, zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=r"truncated|breaks off|damaged"):
        open_checkpoint(path)


def test_a_zip_that_is_not_torchs_names_its_entries(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.ckpt", "w") as archive:
        archive.writestr("word/document.xml", "<xml/>")
    with pytest.raises(
        CheckpointError, match=r"zip archive \(word/document.xml, ...\) but no torch checkpoint"
    ):
        open_checkpoint(tmp_path / "x.ckpt")


def test_a_big_endian_file_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "x.ckpt", {"x": torch.ones(2)}, True)
    with (
        zipfile.ZipFile(tmp_path / "x.ckpt") as plain,
        zipfile.ZipFile(tmp_path / "y.ckpt", "w") as other,
    ):
        for name in plain.namelist():
            other.writestr(name, b"big" if name.endswith("byteorder") else plain.read(name))
    with pytest.raises(CheckpointError, match="big-endian"):
        open_checkpoint(tmp_path / "y.ckpt")


@LAYOUTS
def test_a_file_without_tensors_says_so(tmp_path: Path, zipped: bool) -> None:
    with pytest.raises(CheckpointError, match="torch file without a tensor"):
        open_checkpoint(save(tmp_path / "x.pt", [1.5], zipped))
