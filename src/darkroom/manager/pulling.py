"""From what a person names to downloads: a starter model, a file of the hub, a URL."""

from __future__ import annotations

from darkroom.manager.library.catalogue import Catalogue, KnownFile
from darkroom.manager.service import Manager
from darkroom.manager.store.download import Download
from darkroom.manager.store.wanted import Wanted, parse_source


def wanted_files(
    catalogue: Catalogue, source: str, role: str = "model", sha256: str = "", *, companions: bool = False
) -> list[Wanted]:
    """The files that `source` names. companions: of a starter model, what its family needs as well.

    Errors: UnknownModel for a name that is in no catalogue, RequestError for no source at all.
    """
    if source.startswith(("hf:", "http://", "https://")):
        plain = parse_source(source, role)
        return [Wanted(**{**plain.to_dict(), "sha256": sha256})]
    model = catalogue.model(source)
    files = [model.file, *(_companions(catalogue, model.family) if companions else ())]
    return [Wanted.of(file) for file in files]


def _companions(catalogue: Catalogue, family: str) -> list[KnownFile]:
    needs = [need for need in catalogue.families[family].needs if need.required]
    found = (catalogue.files_of(need.kinds) for need in needs)
    return [files[0] for files in found if files]


def start_pull(
    manager: Manager, source: str, role: str = "model", sha256: str = "", *, companions: bool = False
) -> list[Download]:
    """Begins to fetch them, or joins downloads that are under way. Errors: as `wanted_files`."""
    files = wanted_files(manager.library.catalogue, source, role, sha256, companions=companions)
    return [manager.store.start(file) for file in files]
