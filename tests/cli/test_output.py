from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from darkroom.api.errors import RequestError
from darkroom.cli.output import check_writable, output_paths, write_atomically


@pytest.mark.parametrize(
    ("output", "count", "begin", "names"),
    [
        ("out.png", 1, 0, ["out.png"]),
        ("out.png", 3, 0, ["out_0.png", "out_1.png", "out_2.png"]),
        ("out.png", 2, 5, ["out_5.png", "out_6.png"]),
        ("out.png", 1, 5, ["out.png"]),
        ("a/out.JPEG", 2, 0, ["a/out_0.JPEG", "a/out_1.JPEG"]),
        ("out", 1, 0, ["out.png"]),
        ("v1.5", 2, 0, ["v1.5_0.png", "v1.5_1.png"]),
        ("out.bmp", 1, 0, ["out.bmp.png"]),
        ("o%d.webp", 2, 0, ["o0.webp", "o1.webp"]),
        ("o%03d.png", 2, 9, ["o009.png", "o010.png"]),
        ("%d_%02d", 1, 7, ["7_07.png"]),
        ("100%%_%d.png", 1, 0, ["100%_0.png"]),
        ("100%%d.png", 1, 0, ["100%%d.png"]),
        ("100%.png", 1, 0, ["100%.png"]),
        ("%s.png", 1, 0, ["%s.png"]),
    ],
)
def test_names(output: str, count: int, begin: int, names: list[str]) -> None:
    assert [str(path) for path in output_paths(output, count, begin)] == names


def test_a_name_that_ends_with_a_slash_is_refused() -> None:
    with pytest.raises(RequestError, match="is a folder"):
        output_paths("out/", 1)


def test_missing_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "out.png"
    check_writable([path])
    assert not path.parent.exists()
    write_atomically(path, b"data")
    assert path.read_bytes() == b"data"


def test_a_file_as_folder_and_a_folder_as_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="is not a folder"):
        check_writable([tmp_path / "file" / "out.png"])
    with pytest.raises(RequestError, match="is a folder"):
        check_writable([tmp_path])


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_write_protected_folder_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RequestError, match="permission denied"):
        check_writable([tmp_path / "out.png"])


def test_a_file_is_replaced_whole_and_nothing_stays_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    path.write_bytes(b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_followed(tmp_path: Path) -> None:
    target, link = tmp_path / "target.png", tmp_path / "link.png"
    target.touch()
    link.symlink_to(target)
    write_atomically(link, b"data")
    assert link.is_symlink()
    assert target.read_bytes() == b"data"


def test_a_full_disk_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.png"
    path.write_bytes(b"old")

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RequestError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_that_is_too_long_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be written"):
        check_writable([tmp_path / ("x" * 300 + ".png")])


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 251 + ".png")
    write_atomically(path, b"data")
    assert path.read_bytes() == b"data"


def test_a_file_among_the_folders_is_named_when_writing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="cannot be written"):
        write_atomically(tmp_path / "file" / "out.png", b"data")
