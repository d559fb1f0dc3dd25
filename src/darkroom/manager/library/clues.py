"""What a companion is where its shapes are those of several kinds: by its sum, its size, or its name.

A sum is certain. A size or a name is only likely: enough to choose between files that fit, and to leave one
alone that seems to be another model's; a file that the user attached is taken whatever it is called.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from darkroom.manager.library.catalogue import Catalogue, KnownFile
from darkroom.manager.library.components import Origin
from darkroom.manager.library.parts import LibraryFile, Part, PartKind


class Clue(NamedTuple):
    """kinds: what the file is, empty for nobody knows. by: `sum`, `size`, `name` or nothing."""

    kinds: frozenset[str]
    by: str = ""
    source: str = ""


@dataclass(frozen=True)
class Candidate:
    """A file that is of the right sort. place: from where it would be taken. clue: what it seems to be."""

    file: LibraryFile
    part: Part
    place: Origin
    clue: Clue


def candidates_of(
    file: LibraryFile, place: Origin, sha256: str | None, catalogue: Catalogue
) -> list[Candidate]:
    """The companions that a file holds: none where it holds a diffusion network as well."""
    if any(part.kind is PartKind.DIFFUSION for part in file.identity.parts):
        return []
    return [
        Candidate(file, part, place, find_clue(file, part, sha256, catalogue)) for part in file.identity.parts
    ]


def find_clue(file: LibraryFile, part: Part, sha256: str | None, catalogue: Catalogue) -> Clue:
    """What tells a file from others of its architecture and width. sha256: None where it is not known."""
    if sha256 is not None and (known := catalogue.by_sha256(sha256)):
        return Clue(frozenset({known.kind}), "sum", known.source)
    alike = _alike(part, catalogue)
    of_size = [known for known in catalogue.by_size(file.size) if known.kind in alike]
    if of_size:
        return Clue(frozenset(known.kind for known in of_size), "size", of_size[0].source)
    named = _named(file.path.name, alike, catalogue.files)
    return Clue(named, "name") if named else Clue(frozenset())


def _alike(part: Part, catalogue: Catalogue) -> frozenset[str]:
    return frozenset(
        name
        for name, kind in catalogue.kinds.items()
        if (kind.architecture, kind.width) == (part.architecture, part.width)
    )


def _named(name: str, kinds: frozenset[str], known: tuple[KnownFile, ...]) -> frozenset[str]:
    """The kinds whose names are in a file's name: of `taesd` and `taesdxl` the longer one."""
    plain = _plain(name)
    found = {file.kind for file in known if file.kind in kinds and _plain(file.name) == plain}
    found |= {kind for kind in kinds if _plain(kind) in plain}
    return frozenset(
        kind for kind in found if not any(_plain(kind) in _plain(other) and kind != other for other in found)
    )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
