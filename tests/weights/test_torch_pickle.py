"""The pickle machine: it runs nothing, and hostile input ends in one error."""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from darkroom.api.errors import CheckpointError
from darkroom.core.torch_globals import Inert
from darkroom.weights.checkpoint import open_checkpoint
from darkroom.weights.torch_pickle import load


def run(program: bytes) -> object:
    return load(io.BytesIO(program), "x.ckpt").value


class Call:
    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", range(2, 6))
def test_plain_values_come_through_every_protocol(protocol: int) -> None:
    value = {"a": [1, -2, 2**70, 1.5, None, True], "b": ("x", ("y", "z", 1, 2)), 3: {}, "c": {}}
    assert run(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_code_in_a_checkpoint_is_named_and_never_run(tmp_path: Path, zipped: bool) -> None:
    marker = tmp_path / "ran"
    path = tmp_path / "x.ckpt"
    value = {"x": torch.ones(2), "evil": Call(os.mkdir, str(marker))}
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        CheckpointError, match=r"its pickle names posix\.mkdir, .* get the model as safetensors"
    ):
        open_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "function", [eval, exec, getattr, __import__, os.system, torch.load, torch.hub.load], ids=str
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_any_function_outside_the_list_is_refused(function: object, protocol: int) -> None:
    with pytest.raises(CheckpointError, match="its pickle names "):
        run(pickle.dumps(Call(function, "1"), protocol))


def test_naming_a_module_does_not_import_it() -> None:
    assert "this" not in sys.modules
    with pytest.raises(CheckpointError, match=r"names this.s"):
        run(b"\x80\x02cthis\ns\n.")
    assert "this" not in sys.modules


def test_old_training_callbacks_become_placeholders() -> None:
    """Published Stable Diffusion .ckpt files have one as a dict's key; reading them needs no lightning."""
    program = (
        b"\x80\x02}(X\x09\x00\x00\x00callbacks}cpytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n"
        b"}X\x04\x00\x00\x00bestcnumpy.core.multiarray\nscalar\n)Rs"
        b"sX\x01\x00\x00\x00aK\x01u."
    )
    value = run(program)
    assert isinstance(value, dict)
    assert value["a"] == 1


def test_what_training_leaves_beside_the_tensors_is_passed_over() -> None:
    value = {"losses": np.arange(3.0), "steps": defaultdict(None, {"x": 1}), "last": np.float64(2)}
    found = run(pickle.dumps(value, 2))
    assert isinstance(found, dict)
    assert found.keys() == value.keys()
    assert found["steps"] == {"x": 1}
    assert isinstance(found["losses"], Inert)


def unicode(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


STORAGE = b"(" + unicode("storage") + b"ctorch\nFloatStorage\n" + unicode("0") + unicode("cpu") + b"K\x06tQ"


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"", "damaged"),
        (b"\x80\x02", "damaged"),
        (b"\x80\x02}", "damaged"),
        (b".", "damaged"),
        (b"\x80\x02h\x05.", "damaged"),
        (b"\x80\x02(K\x01K\x02u.", "damaged"),
        (b"\x80\x02K\x01\x85R.", "damaged"),
        (b"\x80\x02t.", "damaged"),
        (b"\x80\x02K\x01K\x02K\x03s.", "damaged"),
        (b"\x80\x02ccollections\nOrderedDict\nK\x05\x85R.", "damaged"),
        (b"\x80\x02ctorch\nFloatStorage\n)R.", "damaged"),
        (b"\x80\x02" + unicode("other") + b"Q.", "damaged"),
        (b"\x80\x02\x82\x01.", "uses EXT1"),
        (b"\x80\x02P0\n.", "uses PERSID"),
        (b"\x80\x02(ios\nsystem\n.", "uses INST"),
        (b"\x80\x05\x96" + struct.pack("<Q", 1) + b"x.", "uses BYTEARRAY8"),
        (
            b"\x80\x02ctorch._utils\n_rebuild_tensor\n("
            + STORAGE
            + b"J\xff\xff\xff\xffK\x02\x85K\x01\x85tR.",
            "damaged",
        ),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor\n(" + STORAGE + b"K\x00K\x02\x85)tR.", "damaged"),
    ],
    ids=range(18),
)
def test_a_program_that_makes_no_sense_is_one_clear_error(program: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        run(program)


def test_a_tower_of_shared_tuples_takes_no_time() -> None:
    """Hashing or printing it would visit 2^200 tuples."""
    tower = b"\x80\x02}K\x01" + b"2\x86" * 200
    assert run(tower + b"K\x07s.") == {}
    with pytest.raises(CheckpointError, match="damaged"):
        run(b"\x80\x02K\x01" + b"2\x86" * 200 + b")R.")


def test_a_dict_that_holds_itself_is_walked_once(tmp_path: Path) -> None:
    torch.save({"x": torch.ones(2)}, tmp_path / "x.ckpt")
    value: dict[str, object] = {"n": 1}
    value["self"] = value
    with zipfile.ZipFile(tmp_path / "y.ckpt", "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps(value, 2))
    with pytest.raises(CheckpointError, match="without a tensor"):
        open_checkpoint(tmp_path / "y.ckpt")


@pytest.mark.parametrize(("offset", "size"), [(5, 2), (0, 7), (0, 1 << 62)])
def test_a_tensor_beyond_its_storage_is_refused(tmp_path: Path, offset: int, size: int) -> None:
    number = b"\x8a\x08" + struct.pack("<q", size)
    program = (
        b"\x80\x02}" + unicode("x") + b"ctorch._utils\n_rebuild_tensor\n(" + STORAGE
        + bytes([ord("K"), offset]) + number + b"\x85K\x01\x85tRs."
    )  # fmt: skip
    with zipfile.ZipFile(tmp_path / "x.ckpt", "w") as archive:
        archive.writestr("a/data.pkl", program)
        archive.writestr("a/data/0", bytes(24))
    with pytest.raises(CheckpointError, match=r"'x' needs .* bytes and its storage has 24"):
        open_checkpoint(tmp_path / "x.ckpt")
