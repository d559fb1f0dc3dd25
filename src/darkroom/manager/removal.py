"""Models that leave the store, those that turned out to be none included."""

from __future__ import annotations

from contextlib import suppress

from darkroom.manager.gateway.errors import GatewayError
from darkroom.manager.library.errors import BrokenModel, UnknownModel, UnsupportedModel
from darkroom.manager.library.model import Model
from darkroom.manager.service import Manager
from darkroom.manager.store.store import StoredFile


async def remove(manager: Manager, name: str) -> str:
    """Takes what `name` means out of the store: a model, or else a file that was pulled or imported.

    Returns: what it is called. Errors: UnknownModel; GatewayError for what is not the store's; RequestError
    for a companion that a model uses.
    """
    try:
        model = await manager.named(name)
    except (UnknownModel, BrokenModel, UnsupportedModel) as error:
        if (file := _stored(manager, name)) is None:
            raise error from None
        manager.store.drop(name)
        called = file.names[0][1] if file.names else name
    else:
        file = _of(manager, model)
        await manager.pool.unload(model.id)
        manager.store.drop(model.id)
        called = model.id
    _drop_starters(manager, {name for _, name in file.names})
    manager.store.remove(file.sha256)
    await manager.rescan()
    return called


def _of(manager: Manager, model: Model) -> StoredFile:
    if model.builtin:
        raise _refused(f"model '{model.id}': comes with the package and stays")
    inside = model.path.absolute().is_relative_to(manager.paths.store.absolute())
    file = manager.store.describe(manager.store.sum_of(model.path)) if inside else None
    if file is None:
        raise _refused(f"model '{model.id}': its file is not the store's; delete {model.path} yourself")
    return file


def _refused(text: str) -> GatewayError:
    return GatewayError(text, status=409, code="not_in_store", param="model", retry=False)


def _stored(manager: Manager, name: str) -> StoredFile | None:
    """The file of that name, with or without its ending, of that sum, or what `pull` fetched under it."""
    wanted = {name.lower()}
    with suppress(UnknownModel):
        wanted.add(manager.library.catalogue.model(name).file.name.lower())
    for file in manager.store.files():
        names = {each.lower() for _, each in file.names}
        if wanted & (names | {each.rpartition(".")[0] for each in names} | {file.sha256}):
            return file
    return None


def _drop_starters(manager: Manager, names: set[str]) -> None:
    """What `pull` fetched for the models of these files is not kept for them any more."""
    for starter in manager.library.catalogue.models:
        if starter.file.name in names:
            manager.store.drop(starter.id)
