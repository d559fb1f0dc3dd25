"""The catalogue: what each family needs, files that are known by their sums, models to begin with.

It is data, `data/catalogue.yaml`; a user's own file of the same form adds to it or replaces rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from darkroom.manager.library.errors import CatalogueError, UnknownModel
from darkroom.manager.library.roles import FileRole

HUB = "https://huggingface.co"

_Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
_Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._+-]*$")]
_Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_Repo = Annotated[str, StringConstraints(pattern=r"^[\w.-]+/[\w.-]+$")]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class KnownFile(_Row):
    """A published file.

    role: what it is given to sd-server as. kind: what it is (`t5xxl`, `flux_vae`), or of a main file its
    family. name: what it is called on disk. repo, path, revision: where it is on the hub; url: where it is
    if it is not there. size: exact bytes, about: nearly, for forecasts where size is None. sha256: None
    where it is not known. gated: whether the hub wants an account that has agreed to the licence.
    verified: whether size and sum were found in published text.
    """

    role: FileRole
    kind: _Name
    repo: _Repo | None = None
    path: _Text | None = None
    revision: _Text = "main"
    url: _Text | None = None
    name: _Text = ""
    type: _Text | None = None
    size: int | None = Field(None, gt=0)
    about: int | None = Field(None, gt=0)
    sha256: _Sha256 | None = None
    licence: _Text
    gated: bool = False
    verified: bool = False

    @model_validator(mode="before")
    @classmethod
    def _named(cls, row: object) -> object:
        if isinstance(row, dict) and not row.get("name"):
            source = row.get("path") or row.get("url")
            if isinstance(source, str):
                row = {**row, "name": source.split("?")[0].rstrip("/").rsplit("/", 1)[-1]}
        return row

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.repo is None) != (self.path is None):
            raise ValueError("repo and path belong together")
        if (self.repo is None) == (self.url is None):
            raise ValueError("either repo and path, or url is needed")
        if self.url is not None and not re.match(r"https?://", self.url):
            raise ValueError(f"url {self.url!r} is no http address")
        if Path(self.name).name != self.name or self.name in (".", ".."):
            raise ValueError(f"name {self.name!r} is no plain file name")
        if self.path is not None and (self.path.startswith("/") or ".." in self.path.split("/")):
            raise ValueError(f"path {self.path!r} leaves its repository")
        if self.verified and (self.size is None or self.sha256 is None):
            raise ValueError("verified, but without size and sha256")
        return self

    @property
    def bytes(self) -> int | None:
        """What it takes, exactly or nearly."""
        return self.size or self.about

    @property
    def page(self) -> str:
        """Where people read about the file and agree to its licence."""
        return f"{HUB}/{self.repo}" if self.repo else str(self.url)

    @property
    def source(self) -> str:
        """Where it is from, in words: `comfyanonymous/flux_text_encoders: clip_l.safetensors`."""
        return f"{self.repo}: {self.path}" if self.repo else str(self.url)


class Kind(_Row):
    """A kind of companion.

    title: with its article, `the T5-XXL v1.1 text encoder`. architecture, width: how its part is told,
    see parts.Part; kinds with the same two are told by known sizes and sums alone.
    """

    role: FileRole
    title: _Text
    architecture: _Name
    width: int = Field(gt=0)


class Need(_Row):
    """What a family needs of one role.

    kinds: what fits, the best first. named: whether shapes alone are not enough, because files of other
    kinds have them and would do harm. note: what it is for.
    """

    role: FileRole
    kinds: tuple[_Name, ...] = Field(min_length=1)
    required: bool = True
    named: bool = False
    note: str = ""


class FamilyNeeds(_Row):
    """A family of models. engine: whether ours draws with it; stable-diffusion.cpp may where it does not."""

    title: _Text
    engine: bool = True
    needs: tuple[Need, ...] = ()
    note: str = ""


class StarterModel(_Row):
    """A model that `darkroom pull` knows by name. tag: its quantization, `q4_k`; the first of a name is meant
    where none is given."""

    name: _Name
    tag: _Name
    title: _Text
    family: _Name
    file: KnownFile
    note: str = ""

    @property
    def id(self) -> str:
        """`flux-schnell:q4_1`."""
        return f"{self.name}:{self.tag}"


class Catalogue(_Row):
    """All of it. Raises CatalogueError from the loaders below where it contradicts itself."""

    kinds: dict[_Name, Kind] = Field(default_factory=dict)
    families: dict[_Name, FamilyNeeds] = Field(default_factory=dict)
    files: tuple[KnownFile, ...] = ()
    models: tuple[StarterModel, ...] = ()

    def files_of(self, kinds: Iterable[str]) -> tuple[KnownFile, ...]:
        """The known files of these kinds, in the order of the kinds and of the catalogue."""
        return tuple(file for kind in kinds for file in self.files if file.kind == kind)

    def every_file(self) -> tuple[KnownFile, ...]:
        """Companions and the starter models' main files."""
        return (*self.files, *(model.file for model in self.models))

    def by_sha256(self, sha256: str) -> KnownFile | None:
        """The known file with this content."""
        return next((file for file in self.every_file() if file.sha256 == sha256), None)

    def by_size(self, size: int) -> tuple[KnownFile, ...]:
        """The known files of exactly this size, which is what a file may be before it is summed."""
        return tuple(file for file in self.every_file() if file.verified and file.size == size)

    def model(self, name: str) -> StarterModel:
        """The starter model of a name, or of `name:tag`. Raises UnknownModel."""
        wanted, _, tag = name.lower().partition(":")
        found = [model for model in self.models if model.name == wanted and tag in ("", model.tag)]
        if not found:
            tags = [model.tag for model in self.models if model.name == wanted]
            known = [model.id for model in self.models] if not tags else [f"{wanted}:{t}" for t in tags]
            raise UnknownModel.named(name, known, "the catalogue's models")
        return found[0]

    def companions_of(self, model: StarterModel) -> tuple[KnownFile, ...]:
        """What must be fetched besides a starter model's own file; nothing where that is a whole model."""
        if model.file.role is FileRole.MODEL:
            return ()
        needs = (need for need in self.families[model.family].needs if need.required)
        found = (self.files_of(need.kinds) for need in needs)
        return tuple(files[0] for files in found if files)

    def problems(self) -> list[str]:
        """Where its parts do not fit together."""
        found = []
        for family, spec in self.families.items():
            for need in spec.needs:
                for kind in need.kinds:
                    if kind not in self.kinds:
                        found.append(f"families.{family}: needs the kind {kind!r}, which is not in kinds")
                    elif self.kinds[kind].role is not need.role:
                        found.append(
                            f"families.{family}: {kind} is a {self.kinds[kind].role}, not {need.role}"
                        )
        found += [
            f"files: {file.name} is of kind {file.kind!r}, which is not in kinds"
            for file in self.files
            if file.kind not in self.kinds
        ]
        found += [
            f"models: {model.id} is of family {model.family!r}, which is not in families"
            for model in self.models
            if model.family not in self.families
        ]
        return found


def load_catalogue(own: Path | None = None) -> Catalogue:
    """The catalogue, and what a user's own file adds to it: rows of the same key or source take the place.

    Raises CatalogueError that names the file and the row.
    """
    builtin = _shipped()
    if own is None or not own.exists():
        return builtin
    try:
        text = own.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise CatalogueError(f"{own}: cannot be read ({err})") from err
    added = _parse(text, str(own))
    sources = {file.source for file in added.files}
    ids = {model.id for model in added.models}
    merged = Catalogue(
        kinds={**builtin.kinds, **added.kinds},
        families={**builtin.families, **added.families},
        files=(*added.files, *(file for file in builtin.files if file.source not in sources)),
        models=(*added.models, *(model for model in builtin.models if model.id not in ids)),
    )
    return _checked(merged, str(own))


@lru_cache(maxsize=1)
def _shipped() -> Catalogue:
    path = files("darkroom.manager.library").joinpath("data/catalogue.yaml")
    return _checked(_parse(path.read_text(encoding="utf-8"), "catalogue.yaml"), "catalogue.yaml")


def _parse(text: str, subject: str) -> Catalogue:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        data = yaml.load(text, Loader=loader)
    except (yaml.YAMLError, RecursionError) as err:
        raise CatalogueError(f"{subject}: is not valid YAML: {' '.join(str(err).split())}") from err
    if data is None:
        return Catalogue()
    if not isinstance(data, dict):
        raise CatalogueError(
            f"{subject}: holds a {type(data).__name__}; expected kinds, families, files, models"
        )
    try:
        return Catalogue.model_validate(data)
    except ValidationError as err:
        rows = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in err.errors()[:5])
        raise CatalogueError(f"{subject}: {rows}") from err


def _checked(catalogue: Catalogue, subject: str) -> Catalogue:
    if problems := catalogue.problems():
        raise CatalogueError(f"{subject}: {'; '.join(problems[:5])}")
    return catalogue
