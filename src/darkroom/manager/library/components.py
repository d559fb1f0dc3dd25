"""The components of a model: what its family needs, what serves it, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from darkroom.manager.library.catalogue import KnownFile
from darkroom.manager.library.errors import ComponentMismatch, ComponentsMissing
from darkroom.manager.library.roles import FileRole


class ComponentState(StrEnum):
    """Whether a component can be loaded."""

    PRESENT = "present"
    MISSING = "missing"
    MISMATCHED = "mismatched"
    DOWNLOADING = "downloading"


class Origin(StrEnum):
    """Where the file of a component is from, the nearest first."""

    INSIDE = "inside"
    ATTACHED = "attached"
    BESIDE = "beside"
    STORE = "store"
    LIBRARY = "library"

    @property
    def words(self) -> str:
        """For people."""
        return _WORDS[self]


_WORDS = {
    Origin.INSIDE: "inside the model",
    Origin.ATTACHED: "attached by the user",
    Origin.BESIDE: "next to the model, matched by content",
    Origin.STORE: "in the store, matched by content",
    Origin.LIBRARY: "in a library folder, matched by content",
}


@dataclass(frozen=True)
class Component:
    """One companion of a model.

    title: `the T5-XXL v1.1 text encoder`. file: what serves it, or the wrong file; the model itself where it
    is inside. why: how it was chosen, for people. size: bytes of the file, else of the one that would be
    fetched. known: published files that fit, the one to fetch first. problem: what is wrong with `file`.
    """

    role: FileRole
    title: str
    required: bool
    state: ComponentState
    file: Path | None = None
    origin: Origin | None = None
    why: str = ""
    size: int | None = None
    known: tuple[KnownFile, ...] = ()
    problem: str = ""
    note: str = ""

    @property
    def is_in_the_way(self) -> bool:
        """Whether the model cannot be loaded because of it."""
        if self.state is ComponentState.PRESENT:
            return False
        return self.required or self.origin is Origin.ATTACHED

    @property
    def can_be_fetched(self) -> bool:
        """Whether downloading the first known file would put it right."""
        wanting = self.state is ComponentState.MISSING or (
            self.state is ComponentState.MISMATCHED and self.origin is Origin.BESIDE
        )
        return wanting and bool(self.known)

    def on_its_way(self) -> Component:
        """The same, while the file that would be fetched is being fetched."""
        return replace(self, state=ComponentState.DOWNLOADING, file=None, origin=None, why="", problem="")

    def as_details(self) -> dict[str, object]:
        """For error objects and listings: plain values only."""
        fetch = self.known[0] if self.known else None
        return {
            "role": self.role.value,
            "title": self.title,
            "required": self.required,
            "state": self.state.value,
            "file": str(self.file) if self.file else None,
            "origin": self.origin.value if self.origin else None,
            "why": self.why or None,
            "size": self.size,
            "problem": self.problem or None,
            "note": self.note or None,
            "source": fetch.source if fetch else None,
            "sha256": fetch.sha256 if fetch else None,
            "licence": fetch.licence if fetch else None,
            "gated": fetch.gated if fetch else None,
            "page": fetch.page if fetch else None,
        }


def refuse(model: str, components: Sequence[Component]) -> None:
    """Raises ComponentsMissing or ComponentMismatch when a model cannot be loaded with its components."""
    blocking = [component for component in components if component.is_in_the_way]
    if not blocking:
        return
    details = [component.as_details() for component in blocking]
    absent = [component for component in blocking if component.state is not ComponentState.MISMATCHED]
    wrong = [component for component in blocking if component.state is ComponentState.MISMATCHED]
    if absent:
        titles = ", ".join(f"{component.title} ({component.role.value})" for component in absent)
        also = f"; and {'; '.join(component.problem for component in wrong)}" if wrong else ""
        raise ComponentsMissing(
            f"{model}: {titles} {'is' if len(absent) == 1 else 'are'} missing{also}; "
            f"fetch with `darkroom components {model} --fetch`, or put the files next to the model",
            details,
        )
    problems = "; ".join(f"{component.role.value}: {component.problem}" for component in wrong)
    raise ComponentMismatch(f"{model}: {problems}", details)
