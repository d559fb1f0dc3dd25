"""Which file serves each component of a model, and why: the nearest that fits, exactly one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from darkroom.manager.library.catalogue import Catalogue, Need
from darkroom.manager.library.clues import Candidate
from darkroom.manager.library.components import Component, ComponentState, Origin
from darkroom.manager.library.matching import misfit
from darkroom.manager.library.parts import LibraryFile, Part, PartKind
from darkroom.manager.library.roles import FileRole

SLOTS: Mapping[FileRole, frozenset[PartKind]] = {
    FileRole.VAE: frozenset({PartKind.VAE}),
    FileRole.CLIP_L: frozenset({PartKind.CLIP_L, PartKind.CLIP_G}),
    FileRole.CLIP_G: frozenset({PartKind.CLIP_L, PartKind.CLIP_G}),
    FileRole.T5XXL: frozenset({PartKind.T5XXL}),
    FileRole.LLM: frozenset({PartKind.LLM}),
    FileRole.LLM_VISION: frozenset({PartKind.LLM_VISION}),
    FileRole.CLIP_VISION: frozenset({PartKind.CLIP_VISION}),
    FileRole.TAESD: frozenset({PartKind.TAE}),
}
"""What kinds of parts may serve a role, or look as if they did."""

OWN_SLOT = {role: PartKind.TAE if role is FileRole.TAESD else PartKind(role.value) for role in SLOTS}


@dataclass(frozen=True)
class Shelf:
    """What companions may be taken from.

    candidates: all files that hold a companion alone. attached: what the user said, by role; None where the
    file cannot be read. alone: whether the model has its folder for itself, so that what lies there is meant
    for it.
    """

    candidates: tuple[Candidate, ...] = ()
    attached: Mapping[FileRole, tuple[Path, LibraryFile | None]] = field(default_factory=dict)
    alone: bool = True


class Resolver:
    """Decides on the components of one model."""

    def __init__(self, model: LibraryFile, network: Part, catalogue: Catalogue, shelf: Shelf) -> None:
        self._model, self._network = model, network
        self._catalogue, self._shelf = catalogue, shelf
        self._chosen: dict[FileRole, Part] = {}
        self._llm: LibraryFile | None = None

    def components(self, needs: Iterable[Need]) -> tuple[Component, ...]:
        """One for each need, in their order. SDXL's CLIP-L must fit its CLIP-G, which is chosen first."""
        needs = tuple(needs)
        first = FileRole.CLIP_G if self._network.architecture == "sdxl" else FileRole.CLIP_L
        order = sorted(needs, key=lambda need: need.role is not first)
        found = {need.role: self._component(need) for need in order}
        return tuple(found[need.role] for need in needs)

    def _component(self, need: Need) -> Component:
        kind = self._catalogue.kinds[need.kinds[0]]
        known = self._catalogue.files_of(need.kinds)
        blank = Component(
            need.role,
            kind.title,
            need.required,
            ComponentState.MISSING,
            size=known[0].bytes if known else None,
            known=known,
            note=need.note,
        )
        if need.role in self._shelf.attached:
            return self._attached(need, blank)
        inside = next((part for part in self._model.identity.parts if part.kind is OWN_SLOT[need.role]), None)
        if inside is not None:
            return self._own(need, blank, inside)
        if (
            need.role is FileRole.LLM_VISION
            and self._llm is not None
            and (tower := self._llm.identity.part(PartKind.LLM_VISION))
        ):
            return self._filled(blank, self._llm, tower, Origin.INSIDE, "inside the language model's file")
        return self._found(need, blank)

    def _own(self, need: Need, blank: Component, inside: Part) -> Component:
        reason = self._misfit(need, inside)
        if not reason:
            return self._filled(blank, self._model, inside, Origin.INSIDE, Origin.INSIDE.words)
        return replace(
            blank,
            state=ComponentState.MISMATCHED,
            file=self._model.path,
            origin=Origin.INSIDE,
            problem=f"inside the model: {reason}",
        )

    def _attached(self, need: Need, blank: Component) -> Component:
        path, file = self._shelf.attached[need.role]
        wrong = replace(blank, state=ComponentState.MISMATCHED, file=path, origin=Origin.ATTACHED)
        if file is None:
            return replace(wrong, problem=f"{path}: is not there any more", size=None)
        wrong = replace(wrong, size=file.size)
        if file.problem:
            return replace(wrong, problem=f"{path.name}: {file.problem}")
        parts = [part for part in file.identity.parts if part.kind in SLOTS[need.role]]
        parts.sort(key=lambda part: part.kind.value != need.role.value)
        reasons = []
        for part in parts:
            reason = self._misfit(need, part)
            if not reason:
                return self._filled(blank, file, part, Origin.ATTACHED, Origin.ATTACHED.words)
            reasons.append(reason)
        what = file.identity.parts[0].title if file.identity.parts else "no companion of a model"
        reason = reasons[0] if reasons else f"this is {what}; {blank.title} is needed"
        return replace(wrong, problem=f"{path.name}: {reason}")

    def _found(self, need: Need, blank: Component) -> Component:
        candidates = [
            candidate for candidate in self._shelf.candidates if candidate.part.kind in SLOTS[need.role]
        ]
        reasons = {candidate.file.path: self._unfit(need, candidate) for candidate in candidates}
        fit = sorted(
            (candidate for candidate in candidates if not reasons[candidate.file.path]),
            key=lambda candidate: self._rank(need, candidate),
        )
        if fit:
            best = fit[0]
            return self._filled(blank, best.file, best.part, best.place, self._why(need, best, fit[1:]))
        wrong = next((candidate for candidate in candidates if self._seems_meant(need, candidate)), None)
        if wrong is not None:
            return replace(
                blank,
                state=ComponentState.MISMATCHED,
                file=wrong.file.path,
                origin=Origin.BESIDE,
                why="next to the model",
                problem=f"{wrong.file.path.name}: {reasons[wrong.file.path]}",
            )
        return blank

    def _seems_meant(self, need: Need, candidate: Candidate) -> bool:
        same = candidate.part.kind.value == need.role.value
        return need.required and same and self._shelf.alone and candidate.place is Origin.BESIDE

    def _unfit(self, need: Need, candidate: Candidate) -> str:
        """Why it is not taken by itself. What shapes cannot tell, its sum, size and name make likely."""
        reason = self._misfit(need, candidate.part)
        if reason:
            return reason
        clue = candidate.clue
        if clue.kinds and not clue.kinds & set(need.kinds):
            named = self._catalogue.kinds[min(clue.kinds)].title
            wanted = self._catalogue.kinds[need.kinds[0]].title
            return f"this is {named} by its {clue.by}; {wanted} is needed"
        if need.named and not clue.kinds:
            return "its shapes are of several kinds, and nothing else tells which one it is"
        return ""

    def _misfit(self, need: Need, part: Part) -> str:
        try:
            return misfit(self._network, need, part, self._catalogue, self._chosen)
        except KeyError:
            return f"this is {part.title}; what the model takes cannot be told from its shapes"

    def _rank(self, need: Need, candidate: Candidate) -> tuple[object, ...]:
        clue = candidate.clue
        kinds = [need.kinds.index(kind) for kind in clue.kinds if kind in need.kinds]
        return (
            list(Origin).index(candidate.place),
            ("sum", "size", "name", "").index(clue.by),
            min(kinds, default=len(need.kinds)),
            -candidate.file.size,
            str(candidate.file.path),
        )

    def _why(self, need: Need, best: Candidate, others: list[Candidate]) -> str:
        why, clue = best.place.words, best.clue
        if clue.by in ("sum", "size"):
            why += f"; by its {clue.by} it is {clue.source}"
        elif not clue.by and len(self._alike(best.part)) > 1:
            names = " and ".join(sorted(self._alike(best.part)))
            why += f"; no header tells {names} apart"
        if others:
            names = ", ".join(other.file.path.name for other in others[:3])
            why += f"; chosen before {len(others)} more that would do ({names})"
        return why

    def _alike(self, part: Part) -> set[str]:
        kinds = self._catalogue.kinds.values()
        return {
            kind.title for kind in kinds if (kind.architecture, kind.width) == (part.architecture, part.width)
        }

    def _filled(self, blank: Component, file: LibraryFile, part: Part, origin: Origin, why: str) -> Component:
        self._chosen[blank.role] = part
        if blank.role is FileRole.LLM:
            self._llm = file
        size = part.nbytes if origin is Origin.INSIDE else file.size
        return replace(blank, state=ComponentState.PRESENT, file=file.path, origin=origin, why=why, size=size)
