"""The library: every model in the watched folders and the store, and what each model needs."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from darkroom.api.errors import RequestError
from darkroom.manager.config import Paths
from darkroom.manager.library.catalogue import Catalogue, KnownFile, StarterModel, load_catalogue
from darkroom.manager.library.choices import Choices
from darkroom.manager.library.clues import Candidate, candidates_of
from darkroom.manager.library.components import Component, Origin, refuse
from darkroom.manager.library.errors import AmbiguousModel, BrokenModel, UnknownModel, UnsupportedModel
from darkroom.manager.library.file_index import FileIndex
from darkroom.manager.library.fitting import Attached, Fitting
from darkroom.manager.library.folders import Found
from darkroom.manager.library.model import Model, with_variant
from darkroom.manager.library.names import give_names
from darkroom.manager.library.parts import LibraryFile
from darkroom.manager.library.roles import FileRole
from darkroom.manager.library.scan import Scanned, Scanner, stored_sums

logger = logging.getLogger(__name__)

BUILTIN = "darkroom"
"""The name of the model that comes with the package."""


@dataclass(frozen=True)
class _State:
    scanned: tuple[Scanned, ...]
    models: tuple[Model, ...]
    companions: tuple[Candidate, ...]
    fitting: Fitting

    def is_like(self, other: _State) -> bool:
        """Whether the same was found."""
        return (self.scanned, self.models, self.companions) == (other.scanned, other.models, other.companions)


class Library:
    """All models and companions. Methods may be called from any thread; `scan` reads the disk.

    paths: where the index, the user's choices, the store and the manager's own models folder are.
    folders: others to watch. downloading: whether a known file is on its way.

    Raises CatalogueError and RequestError for files of the user's own that are damaged.
    """

    def __init__(
        self,
        paths: Paths,
        folders: Sequence[Path] = (),
        *,
        downloading: Callable[[KnownFile], bool] = lambda known: False,
    ) -> None:
        self._paths = paths
        self._folders = tuple(folders)
        self._downloading = downloading
        self.catalogue: Catalogue = load_catalogue(paths.config / "catalogue.yaml")
        self._choices = Choices.read(paths.data / "library.json")
        self._index = FileIndex(paths.library_index)
        self._scanner = Scanner(self._index)
        self._lock = threading.Lock()
        self._state = self._state_of(())

    def close(self) -> None:
        """Closes the index."""
        self._index.close()

    @property
    def roots(self) -> tuple[tuple[Path, Origin], ...]:
        """Every folder that is watched, and what a file in it counts as."""
        return (
            *((folder, Origin.LIBRARY) for folder in (self._paths.models, *self._folders)),
            (self._paths.store / "models", Origin.STORE),
            (self._paths.store / "companions", Origin.STORE),
        )

    def scan(self) -> bool:
        """Looks at all folders; reads only what is new or changed. True when anything is not as before."""
        with self._lock:
            scanned = tuple(self._scanner.scan(self.roots))
            state = self._state_of(scanned)
            changed = not state.is_like(self._state)
            if changed:
                self._state = state
        return changed

    def _state_of(self, scanned: tuple[Scanned, ...]) -> _State:
        models = (self._builtin(), *self._models(scanned))
        companions = self._companions(scanned)
        return _State(scanned, models, companions, Fitting(models, companions, self.catalogue))

    async def watch(self, interval: float = 5.0) -> AsyncGenerator[None]:
        """Scans again and again, and yields each time that something changed."""
        while True:
            if await asyncio.to_thread(self.scan):
                yield
            await asyncio.sleep(interval)

    @property
    def files_read(self) -> int:
        """How many files had to be read because nothing was known of them."""
        return self._scanner.read

    def files(self) -> tuple[LibraryFile, ...]:
        """Every file, companions and broken ones as well."""
        return tuple(scanned.file for scanned in self._state.scanned)

    def models(self) -> tuple[Model, ...]:
        """Every model, the built-in one first."""
        return self._state.models

    @property
    def aliases(self) -> dict[str, str]:
        """Other names of models that the user gave."""
        return dict(self._choices.aliases)

    def set_alias(self, alias: str, name: str | None) -> None:
        """Gives a model another name, or with None takes the alias away.

        Raises UnknownModel, and RequestError for an alias that is a model's own name.
        """
        if any(model.id == alias for model in self.models()):
            raise RequestError(f"alias {alias!r}: is a model's own name; choose another")
        meant = None if name is None else self.get(name).id
        with self._choices.changing():
            if meant is None:
                self._choices.aliases.pop(alias, None)
            else:
                self._choices.aliases[alias] = meant

    def get(self, name: str) -> Model:
        """The model of a name: its id, an alias, or its name without the type where only one has it.

        Raises UnknownModel with close matches, AmbiguousModel, BrokenModel for a file that is damaged.
        """
        wanted = name.strip()
        wanted = self._choices.aliases.get(wanted, wanted).lower()
        models = self.models()
        for model in models:
            if model.id == wanted:
                return model
        found = [model for model in models if model.name == wanted]
        if len(found) == 1:
            return found[0]
        if found:
            ids = " or ".join(model.id for model in found)
            raise AmbiguousModel(f"model {name!r} means several; say {ids}")
        self._refuse_others(wanted)
        known = [*(model.id for model in models), *self._choices.aliases]
        raise UnknownModel.named(name, known, "the library")

    def components(self, model: Model | str) -> tuple[Component, ...]:
        """What the model's family needs, what serves each, and what is missing."""
        model = self.get(model) if isinstance(model, str) else model
        found = self._state.fitting.components(model, self._attached(model))
        return tuple(
            part.on_its_way() if part.can_be_fetched and any(map(self._downloading, part.known)) else part
            for part in found
        )

    def files_taken(self) -> set[Path]:
        """Every file that a model is, or would be loaded with."""
        parts = (part for model in self.models() for part in self.components(model))
        return {model.path for model in self.models()} | {part.file for part in parts if part.file}

    def attach(self, model: Model | str, role: FileRole, path: Path) -> Component:
        """Says which file serves a role, whatever else fits; the answer says whether it does.

        Raises UnknownModel, and RequestError where the family has no such role or the file is not there.
        """
        model = self.get(model) if isinstance(model, str) else model
        roles = [need.role for need in self._state.fitting.needs(model)]
        if role not in roles:
            raise RequestError(
                f"{model.id}: has no use for {role.value}; it takes {', '.join(roles) or 'no companions'}"
            )
        path = path.expanduser().absolute()
        if not path.exists():
            raise RequestError(f"{path}: is not there; give a file")
        with self._choices.changing():
            self._choices.attached.setdefault(model.id, {})[role] = path
        return next(component for component in self.components(model) if component.role is role)

    def detach(self, model: Model | str, role: FileRole) -> None:
        """Takes back what `attach` said."""
        model = self.get(model) if isinstance(model, str) else model
        with self._choices.changing():
            self._choices.attached.get(model.id, {}).pop(role, None)

    def launch_files(self, model: Model | str) -> dict[FileRole, Path]:
        """The files to give to a sidecar, after all of them were looked at again.

        Empty for the built-in model. Raises ComponentsMissing, ComponentMismatch, BrokenModel for a file
        that is not what it was, UnsupportedModel.
        """
        model = self.get(model) if isinstance(model, str) else model
        if model.builtin:
            return {}
        fresh = self._again(model.path)
        if fresh is None:
            raise BrokenModel(f"{model.id}: its file {model.path} is gone; scan again or put it back")
        if fresh.problem or not fresh.identity.is_model:
            raise BrokenModel(f"{model.id}: {model.path.name}: {fresh.problem or fresh.identity.problem}")
        components = self._checked(model)
        refuse(model.id, components)
        chosen = {model.role: model.path}
        for component in components:
            if component.origin not in (None, Origin.INSIDE) and component.file is not None:
                chosen[component.role] = component.file
        return chosen

    def _checked(self, model: Model) -> tuple[Component, ...]:
        """The components, after a scan if one of their files changed since the last one."""
        components = self.components(model)
        chosen = {component.file for component in components if component.file not in (None, model.path)}
        before = {scanned.file.path: scanned.file for scanned in self._state.scanned}
        if any(path is not None and self._again(path) != before.get(path) for path in chosen):
            self.scan()
            components = self.components(model)
        return components

    def _again(self, path: Path) -> LibraryFile | None:
        """What a file is now; it is read only if it changed."""
        found = next((s for s in self._state.scanned if s.file.path == path), None)
        kind = "file" if found is None else found.kind
        scanned = self._scanner.look(Found.again(path, kind), Origin.ATTACHED)
        return scanned.file if scanned else None

    def _attached(self, model: Model) -> Attached:
        given = tuple(self._choices.attached.get(model.id, {}).items())
        return {role: (path, self._again(path)) for role, path in given}

    def _companions(self, scanned: Sequence[Scanned]) -> tuple[Candidate, ...]:
        sums = stored_sums(self._paths.store / "blobs" / "sha256")
        return tuple(
            candidate
            for entry in scanned
            for candidate in candidates_of(
                entry.file,
                entry.origin,
                sums.get(entry.stamps[0][:2]) if entry.stamps else None,
                self.catalogue,
            )
        )

    def _models(self, scanned: Sequence[Scanned]) -> list[Model]:
        found = {entry.file.path: entry.file for entry in scanned if entry.file.identity.is_model}
        known = {path: starter.id for path, file in found.items() if (starter := self._starter(file))}
        names = give_names(found.keys(), self._choices.names, {BUILTIN}, known)
        if new := {path: name for path, name in names.items() if self._choices.names.get(path) != name}:
            with self._choices.changing():
                self._choices.names |= new
        return sorted((self._model(names[path], file) for path, file in found.items()), key=lambda m: m.id)

    def _starter(self, file: LibraryFile) -> StarterModel | None:
        """What `pull` would call the file, if it is one of the catalogue's: by its own name and its size."""
        return next(
            (
                starter
                for starter in self.catalogue.models
                if starter.file.name == file.path.name
                and starter.family == file.identity.family
                and starter.file.size in (None, file.size)
            ),
            None,
        )

    def _model(self, name: str, file: LibraryFile) -> Model:
        family = str(file.identity.family)
        known = self.catalogue.families.get(family)
        title = known.title if known else family
        title = with_variant(title, file.identity.variant)
        return Model(name, file, family, title, engine=known.engine if known else False)

    def _builtin(self) -> Model:
        path = Path(str(files("darkroom").joinpath("data/builtin.gguf")))
        known = self._scanner.look(Found.again(path, "file"), Origin.LIBRARY)
        file = known.file if known else LibraryFile(path, None, 0, problem="it is not there")
        return Model(BUILTIN, file, "sd1", "the built-in model", builtin=True)

    def _refuse_others(self, wanted: str) -> None:
        """Raises for a name that is a file's which is no model."""
        for file in self.files():
            if file.path.name.lower() != wanted and file.path.stem.lower() != wanted:
                continue
            if file.problem:
                raise BrokenModel(f"{file.path.name}: {file.problem}")
            what = file.identity.problem or ", ".join(part.title for part in file.identity.parts)
            raise UnsupportedModel(f"{file.path.name}: no model to draw with: {what}")
