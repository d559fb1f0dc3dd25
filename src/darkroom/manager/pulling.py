"""From what a person names to downloads: a starter model, a file of the hub, a URL."""

from __future__ import annotations

from darkroom.manager.library.catalogue import Catalogue
from darkroom.manager.service import Manager
from darkroom.manager.store.download import Download
from darkroom.manager.store.wanted import Wanted, parse_source


def wanted_files(
    catalogue: Catalogue, source: str, role: str = "model", sha256: str = "", *, companions: bool = False
) -> tuple[str, list[Wanted]]:
    """The files that `source` names, and the model that they are for where that is known.

    companions: of a starter model, what its family needs as well.
    Errors: UnknownModel for a name that is in no catalogue, RequestError for no source at all.
    """
    if source.startswith(("hf:", "http://", "https://")):
        return "", [parse_source(source, role, sha256)]
    model = catalogue.model(source)
    files = [model.file, *(catalogue.companions_of(model) if companions else ())]
    return model.id, [Wanted.of(file) for file in files]


def start_pull(
    manager: Manager, source: str, role: str = "model", sha256: str = "", *, companions: bool = False
) -> list[Download]:
    """Begins to fetch them, or joins downloads that are under way. Errors: as `wanted_files`.

    Companions count as used by the model from now on, so that they are no garbage before it is loaded.
    """
    model, files = wanted_files(manager.library.catalogue, source, role, sha256, companions=companions)
    return [manager.fetch(file, "" if file.is_main else model) for file in files]
