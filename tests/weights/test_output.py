from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import pytest
import torch

from darkroom.api.errors import RequestError
from darkroom.weights import output
from darkroom.weights.output import OutputFile, discard_unfinished


def test_parts_in_any_order_and_holes_of_zeros(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "x.bin"
    with OutputFile(path, 12) as file:
        file.write(8, torch.tensor([3, 4], dtype=torch.int16))
        file.write(0, b"ab")
        assert not path.exists()
    assert path.read_bytes() == b"ab" + bytes(6) + b"\3\0\4\0"
    assert [p.name for p in path.parent.iterdir()] == ["x.bin"]


def test_an_error_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), OutputFile(path, 4) as file:  # noqa: PT012
        file.write(0, b"new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real.bin").write_bytes(b"old")
    (tmp_path / "link.bin").symlink_to("real.bin")
    with OutputFile(tmp_path / "link.bin", 3) as file:
        file.write(0, b"new")
    assert (tmp_path / "link.bin").is_symlink()
    assert (tmp_path / "real.bin").read_bytes() == b"new"


def test_a_disk_without_room_is_noticed_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(output.shutil, "disk_usage", lambda folder: usage(1000))
    with (
        pytest.raises(RequestError, match=r"takes 0\.00 GB and the disk has 0\.00 GB; make room"),
        OutputFile(tmp_path / "x.bin", 1001),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_fills_up_is_an_error(tmp_path: Path) -> None:
    full = OutputFile(tmp_path / "x.bin", 8)
    with pytest.raises(RequestError, match=r"\(No space left on device\); make room"), full:  # noqa: PT012
        full._file.close()
        full._file = Path("/dev/full").open("r+b", buffering=0)  # noqa: SIM115
        full.write(0, b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RequestError, match="cannot be written"), OutputFile(tmp_path / "file" / "x", 1):
        pass


def test_a_process_that_ends_at_once_tidies_up(tmp_path: Path) -> None:
    unfinished = OutputFile(tmp_path / "x.bin", 1)
    unfinished.__enter__()
    discard_unfinished()
    assert list(tmp_path.iterdir()) == []
    unfinished.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
