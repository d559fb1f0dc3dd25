"""Headers of published files, without their weights, and models that are put together from them.

A line is a tensor, or several that differ in numbers or words: `blocks.{0..2}.{q,k}.weight bf16 64x64`.
Lines that start with # say where the layout is from. A scalar's shape is written `-`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from darkroom.api.errors import CheckpointError
from darkroom.api.names import Role
from darkroom.families import discover
from darkroom.families.base import Family
from darkroom.weights.index import TensorIndex, TensorInfo
from darkroom.weights.keys import KeyRules, Rename

FOLDER = Path(__file__).parent / "data" / "headers"

_BRACES = re.compile(r"\{([^{}]+)\}")


def header_names() -> list[str]:
    """Every header there is."""
    return sorted(path.stem for path in FOLDER.glob("*.txt"))


def read_header(name: str) -> TensorIndex:
    """The tensors of `tests/data/headers/<name>.txt` as the file spells them."""
    lines = (FOLDER / f"{name}.txt").read_text().splitlines()
    infos = [info for line in lines if line.strip() and not line.startswith("#") for info in _infos(line)]
    names = [info.name for info in infos]
    assert len(set(names)) == len(names), f"{name}: a tensor is listed twice"
    return TensorIndex(infos)


def changed(name: str, changes: Mapping[str, tuple[int, ...]]) -> TensorIndex:
    """A header with other shapes."""
    return TensorIndex(
        replace(info, shape=changes.get(info.name, info.shape)) for info in read_header(name).values()
    )


Files = Mapping[Role, str | TensorIndex]
"""The files of a model, or their headers by name."""


def native(files: Files, family: Family[Any]) -> TensorIndex:
    """All files as one under native names, each bare one first under its role's prefix."""
    infos: dict[str, TensorInfo] = {}
    for role, file in files.items():
        index = read_header(file) if isinstance(file, str) else file
        infos |= (KeyRules((Rename("^", role.prefix),)) + family.key_rules()).apply(index).index
    return TensorIndex(infos.values())


def answers(files: Files) -> list[str]:
    """The families that answer for the files, be it with an error."""
    found = []
    for family in discover():
        try:
            config = family.detect(native(files, family))
        except CheckpointError:
            config = True
        if config is not None:
            found.append(family.name)
    return found


def _infos(line: str) -> Iterator[TensorInfo]:
    pattern, dtype, sizes = line.split()
    shape = () if sizes == "-" else tuple(map(int, sizes.split("x")))
    for tensor in expand(pattern):
        yield TensorInfo(tensor, shape, dtype)


def expand(pattern: str) -> Iterator[str]:
    """`a.{0..2}.{q,k}` as a.0.q, a.0.k, a.1.q ... in that order."""
    texts = _BRACES.split(pattern)
    choices = [_choices(text) for text in texts[1::2]]
    for chosen in itertools.product(*choices):
        yield "".join(itertools.chain(*zip(texts[::2], (*chosen, ""), strict=True)))


def _choices(text: str) -> list[str]:
    if ".." in text:
        first, last = map(int, text.split(".."))
        return [str(number) for number in range(first, last + 1)]
    return text.split(",")
