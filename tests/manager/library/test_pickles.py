"""Torch checkpoints: their tensors, and what harmful ones want, in every place that a pickle can hide."""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from darkroom.manager.library.headers import read_header
from darkroom.manager.library.limited import HeaderError
from darkroom.manager.library.parts import FileFormat

STATE = {
    "model.diffusion_model.a": torch.zeros(3, 4),
    "b": torch.zeros(2, dtype=torch.bfloat16),
    "c": torch.zeros(5, 2).half().t(),
}
FIRED: list[str] = []


class Harm:
    """Would call when it is unpickled."""

    def __init__(self, function: Any = FIRED.append, *arguments: Any) -> None:  # noqa: ANN401
        self.function, self.arguments = function, arguments or ("fired",)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("nested", [False, True], ids=["bare", "state_dict"])
def test_tensors_of_checkpoints(is_zip: bool, nested: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    content = {"epoch": 3, "state_dict": OrderedDict(STATE)} if nested else STATE
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    header = read_header(path)
    assert header.format is FileFormat.CKPT
    assert {name: (t.shape, t.dtype) for name, t in header.tensors.items()} == {
        "model.diffusion_model.a": ((3, 4), "f32"),
        "b": ((2,), "bf16"),
        "c": ((2, 5), "f16"),
    }


def evil(payload: object = None, protocol: int = 2) -> bytes:
    return pickle.dumps({"state_dict": payload or Harm(eval, "__import__('os').system('true')")}, protocol)


def torch_zip(path: Path, pickled: bytes, others: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, content in (others or {}).items():
            archive.writestr(name, content)
    return path


@pytest.fixture(scope="module")
def legacy(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("legacy") / "x.ckpt"
    torch.save(STATE, path, _use_new_zipfile_serialization=False)
    return path.read_bytes()


@pytest.fixture(scope="module")
def good_pickle(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "x.ckpt"
    torch.save(STATE, path)
    with zipfile.ZipFile(path) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def inner_zip() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("x/data.pkl", evil())
    return content.getvalue()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_harm_in_a_zip(protocol: int, tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "x.ckpt", evil(protocol=protocol))
    with pytest.raises(HeaderError, match=r"would run code: it wants \w+\.eval\(\"__import__"):
        read_header(path)


@pytest.mark.parametrize(
    "name", ["archive/extra.pkl", "archive/version", "archive/code/x", "other/data.pkl", "archive/data/0.pkl"]
)
def test_harm_beside_the_harmless_pickle(name: str, good_pickle: bytes, tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "x.ckpt", good_pickle, {name: evil()})
    with pytest.raises(HeaderError, match="would run code"):
        read_header(path)


def test_harm_in_an_archive_in_the_archive(good_pickle: bytes, tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "x.ckpt", good_pickle, {"archive/extra": inner_zip()})
    with pytest.raises(HeaderError, match="would run code"):
        read_header(path)


def test_harm_behind_the_first_pickle_of_an_entry(good_pickle: bytes, tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "x.ckpt", good_pickle + evil())
    with pytest.raises(HeaderError, match="would run code"):
        read_header(path)


@pytest.mark.parametrize("place", range(6))
def test_harm_in_any_stream_of_a_legacy_file(place: int, legacy: bytes, tmp_path: Path) -> None:
    stream, ends = io.BytesIO(legacy), [0]
    for _ in range(5):
        pickle_end(stream)
        ends.append(stream.tell())
    path = tmp_path / "x.ckpt"
    path.write_bytes(legacy[: ends[place]] + evil() + legacy[ends[place] :])
    with pytest.raises(HeaderError):
        read_header(path)
    if place < 5:
        with pytest.raises(HeaderError, match="would run code"):
            read_header(path)


def test_harm_at_the_end_of_a_legacy_file(legacy: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(legacy + evil())
    with pytest.raises(HeaderError, match="would run code"):
        read_header(path)


def pickle_end(stream: io.BytesIO) -> None:
    for _ in pickletools.genops(stream):
        pass


def test_a_bare_harmful_pickle(tmp_path: Path) -> None:
    for protocol in (0, 2, 4):
        path = tmp_path / f"{protocol}.pt"
        path.write_bytes(pickle.dumps(Harm(eval, "1+1"), protocol))
        with pytest.raises(HeaderError, match="would run code"):
            read_header(path)


def test_nested_pickles_and_other_ways(tmp_path: Path) -> None:
    """A pickle as bytes in a pickle needs a call that is no checkpoint's; so do attributes and modules."""
    for number, harm in enumerate(
        [
            Harm(pickle.loads, evil()),
            Harm(getattr, "x", "upper"),
            Harm(__import__, "os"),
            Harm(compile, "1", "x", "eval"),
            Harm(torch.load, "x"),
        ]
    ):
        with pytest.raises(HeaderError, match="would run code"):
            read_header(torch_zip(tmp_path / f"{number}.ckpt", evil([harm])))


def test_opcodes_that_name_without_a_string(tmp_path: Path) -> None:
    """INST, OBJ, computed names and the registry of extensions."""
    for number, content in enumerate(
        [
            b"\x80\x02(S'true'\nios\nsystem\n.",
            b"\x80\x02(cos\nsystem\nS'true'\no.",
            b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x8c\x04true\x85R.",
            b"\x80\x02\x82\x01.",
            b"\x80\x04}}\x93.",
            b"\x80\x02cos\nsystem\n(S'true'\ntR" + b"\xff" * 9,
        ]
    ):
        with pytest.raises(HeaderError, match="would run code"):
            read_header(torch_zip(tmp_path / f"{number}.ckpt", content))


def test_a_pickle_without_end_or_of_enormous_size(tmp_path: Path) -> None:
    for number, content in enumerate(
        [b"\x80\x02}", b"\x80\x02" + b"}0" * 200_000, b"\x80\x02\x8b\xff\xff\xff\x7f"]
    ):
        with pytest.raises(HeaderError):
            read_header(torch_zip(tmp_path / f"{number}.ckpt", content))


def test_nothing_was_ever_run(tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "x.ckpt", pickle.dumps(Harm(), 2))
    with pytest.raises(HeaderError):
        read_header(path)
    assert FIRED == []


def test_damaged_checkpoints(good_pickle: bytes, legacy: bytes, tmp_path: Path) -> None:
    whole = tmp_path / "x.ckpt"
    torch.save(STATE, whole)
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes(whole.read_bytes()[:-200])
    with pytest.raises(HeaderError, match="truncated or damaged"):
        read_header(cut)
    with pytest.raises(HeaderError, match=r"data of tensor .* is missing"):
        read_header(torch_zip(tmp_path / "y.ckpt", good_pickle))
    (tmp_path / "z.ckpt").write_bytes(legacy[:-8])
    with pytest.raises(HeaderError, match="truncated"):
        read_header(tmp_path / "z.ckpt")
