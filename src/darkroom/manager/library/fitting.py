"""The components of all models in one state of the library, each model's worked out once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from darkroom.manager.library.catalogue import Catalogue, Need
from darkroom.manager.library.clues import Candidate
from darkroom.manager.library.components import Component, Origin
from darkroom.manager.library.model import Model
from darkroom.manager.library.parts import LibraryFile
from darkroom.manager.library.resolve import Resolver, Shelf
from darkroom.manager.library.roles import FileRole

Attached = Mapping[FileRole, tuple[Path, LibraryFile | None]]


class Fitting:
    """Companions and models as a scan found them; the next scan that finds something else makes a new one."""

    def __init__(
        self, models: Sequence[Model], companions: Sequence[Candidate], catalogue: Catalogue
    ) -> None:
        self._companions = tuple(companions)
        self._catalogue = catalogue
        self._models_in = Counter(model.path.parent for model in models)
        self._seen_from: dict[Path, tuple[Candidate, ...]] = {}
        self._known: dict[str, tuple[LibraryFile, tuple[Component, ...]]] = {}

    def needs(self, model: Model) -> tuple[Need, ...]:
        """What the model's family needs."""
        family = self._catalogue.families.get(model.family)
        return () if family is None or model.builtin else family.needs

    def components(self, model: Model, attached: Attached) -> tuple[Component, ...]:
        """What serves each need. With `attached` files it is worked out anew: they may be anywhere."""
        file, found = self._known.get(model.id, (None, ()))
        if file is model.file and not attached:
            return found
        folder = model.path.parent
        shelf = Shelf(self._candidates(folder), attached, alone=self._models_in[folder] == 1)
        resolver = Resolver(model.file, model.network, self._catalogue, shelf)
        found = resolver.components(self.needs(model))
        if not attached:
            self._known[model.id] = (model.file, found)
        return found

    def _candidates(self, folder: Path) -> tuple[Candidate, ...]:
        """All companions, those in the model's folder as what they are to it."""
        if folder not in self._seen_from:
            self._seen_from[folder] = tuple(
                replace(candidate, place=Origin.BESIDE) if candidate.file.path.parent == folder else candidate
                for candidate in self._companions
            )
        return self._seen_from[folder]
