"""A1111's options and the one model that this server has."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body

from darkroom.api.a1111.answers import ModelItem, VaeItem
from darkroom.api.a1111.options import Options
from darkroom.api.names import RngType
from darkroom.server.errors import ApiError
from darkroom.server.service import Service

HASH_SECONDS = 1.0
"""How long a list of models waits for its hash; a large file's comes with a later list."""

_UNCHANGED_VAE = ("", "None", "Automatic")


class Settings:
    """What A1111's clients can set, and what they call the model."""

    def __init__(self, service: Service) -> None:
        self.options = Options()
        self._service = service
        self._hashing: asyncio.Task[str | None] | None = None

    @property
    def sha256(self) -> str | None:
        """Of the model's file, None while it is not known."""
        done = self._hashing is not None and self._hashing.done()
        return self._hashing.result() if self._hashing is not None and done else None

    @property
    def short_hash(self) -> str | None:
        """A1111's ten digits."""
        return self.sha256[:10] if self.sha256 else None

    @property
    def title(self) -> str:
        """What A1111 shows: the file's name and the hash."""
        name = self._service.info().name
        return f"{name} [{self.short_hash}]" if self.short_hash else name

    @property
    def vae(self) -> Path | None:
        """The autoencoder's own file."""
        return self._service.info().vae

    async def model(self) -> ModelItem:
        """The model; its hash is computed at the first asking, in a thread of its own."""
        info = self._service.info()
        if self._hashing is None:
            self._hashing = asyncio.create_task(asyncio.to_thread(sha256_of, Path(info.path)))
        await asyncio.wait([self._hashing], timeout=HASH_SECONDS)
        return ModelItem(
            title=self.title,
            model_name=info.stem,
            hash=self.short_hash,
            sha256=self.sha256,
            filename=info.path,
        )

    def vaes(self) -> list[VaeItem]:
        """The autoencoder, where it has a file of its own."""
        return [VaeItem(model_name=self.vae.name, filename=str(self.vae))] if self.vae else []

    def fixed(self) -> dict[str, Any]:
        """What clients may read and not change."""
        return {
            "sd_model_checkpoint": self.title,
            "sd_checkpoint_hash": self.sha256 or "",
            "sd_vae": self.vae.name if self.vae else "Automatic",
            "randn_source": "CPU" if self._service.config.rng is RngType.CPU else "NV",
            "live_previews_image_format": "jpeg",
            "return_grid": False,
            "samples_save": False,
            "grid_save": False,
        }

    def overridden(self, wishes: Mapping[str, Any] | None, subject: str) -> Options:
        """The options with these wishes granted. Raises RequestError, and ApiError 404 for another model."""
        rest = {name: value for name, value in (wishes or {}).items() if value not in (None, [])}
        self._require_model(rest.pop("sd_model_checkpoint", None))
        self._require_vae(rest.pop("sd_vae", None))
        return self.options.changed(rest, self.fixed(), subject)

    def _require_model(self, name: object) -> None:
        info = self._service.info()
        known = {self.title, info.name, info.stem, info.path, self.short_hash, self.sha256}
        if name not in (None, "", *known):
            raise ApiError(
                f"sd_model_checkpoint: {name!r} is not there; this server has {self.title!r} alone",
                status=404,
                code="model_not_found",
                param="sd_model_checkpoint",
            )

    def _require_vae(self, name: object) -> None:
        known = {self.vae.name, self.vae.stem, str(self.vae)} if self.vae else set()
        if name not in (None, *_UNCHANGED_VAE, *known):
            there = f"{self.vae.name!r}" if self.vae else "the model's own"
            raise ApiError(
                f"sd_vae: {name!r} is not there; this server has {there}", status=404, param="sd_vae"
            )


def sha256_of(path: Path) -> str | None:
    """Of a file's bytes, in hexadecimal; None for a folder and for what cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def router(settings: Settings) -> APIRouter:
    """GET and POST /options."""
    routes = APIRouter()

    @routes.get("/options", summary="The settings")
    async def options() -> dict[str, Any]:
        """Those that can be changed, and others that clients ask for."""
        return settings.options.model_dump() | settings.fixed()

    @routes.post("/options", summary="Change settings until the server ends")
    async def set_options(wishes: Annotated[dict[str, Any], Body()]) -> None:
        """All of them or, when one cannot be, none. Another model than the loaded one: 404."""
        settings.options = settings.overridden(wishes, "options")

    return routes
