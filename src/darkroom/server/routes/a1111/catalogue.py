"""What there is to choose from, and what there is not: lists that A1111's clients ask for at their start."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import psutil
from fastapi import APIRouter

from darkroom.api.a1111.answers import (
    EmbeddingItem,
    EmbeddingsAnswer,
    MemoryAnswer,
    ModelItem,
    SamplerItem,
    SchedulerItem,
    ScriptsAnswer,
    UpscalerItem,
    VaeItem,
)
from darkroom.api.a1111.samplers import sampler_items, scheduler_items
from darkroom.server.routes.a1111.extras import FILTERS, NO_UPSCALER
from darkroom.server.routes.a1111.settings import Settings
from darkroom.server.service import Service

EMPTY_LISTS = {
    "loras": "LoRAs: this engine applies none yet",
    "latent-upscale-modes": "Latent upscalers: there is no second pass",
    "hypernetworks": "Hypernetworks: none",
    "face-restorers": "Face restorers: none",
    "realesrgan-models": "Real-ESRGAN models: none",
    "prompt-styles": "Saved prompts: none",
    "script-info": "Arguments of scripts: none",
    "extensions": "Extensions: none",
}

REFRESHED = ("checkpoints", "vae", "loras", "embeddings")


def router(service: Service, settings: Settings) -> APIRouter:
    """The lists."""
    routes = APIRouter()

    @routes.get("/samplers", summary="Samplers")
    async def samplers() -> list[SamplerItem]:
        """`default` leaves the choice to the model."""
        return sampler_items()

    @routes.get("/schedulers", summary="Schedules of noise levels")
    async def schedulers() -> list[SchedulerItem]:
        """`automatic` leaves the choice to the model."""
        return scheduler_items()

    @routes.get("/sd-models", summary="The model")
    async def sd_models() -> list[ModelItem]:
        """The one that is loaded. The hash of a large file comes with a later answer."""
        return [await settings.model()]

    @routes.get("/sd-vae", summary="The autoencoder's own file")
    async def sd_vae() -> list[VaeItem]:
        """None where the model brings its own."""
        return settings.vaes()

    @routes.get("/upscalers", summary="Upscalers")
    async def upscalers() -> list[UpscalerItem]:
        """Those of /extra-single-image."""
        return [UpscalerItem(name=name) for name in (NO_UPSCALER, *FILTERS)]

    @routes.get("/embeddings", summary="Textual inversion embeddings")
    async def embeddings() -> EmbeddingsAnswer:
        """Those of --embd-dir, by the word that calls them."""
        return EmbeddingsAnswer(loaded={word: EmbeddingItem() for word in service.info().embeddings})

    @routes.get("/scripts", summary="Scripts: none")
    async def scripts() -> ScriptsAnswer:
        """Clients look here for extensions."""
        return ScriptsAnswer()

    @routes.get("/memory", summary="Memory")
    async def memory() -> MemoryAnswer:
        """Bytes free, used and in all."""
        cards = await service.memory()
        return MemoryAnswer(ram=await asyncio.to_thread(_process_memory), cuda=_card_memory(cards))

    @routes.get("/cmd-flags", summary="How the server was started")
    async def cmd_flags() -> dict[str, Any]:
        """Without the key."""
        flags = service.config.model_dump(mode="json") | service.options.model_dump(mode="json")
        return {name: value for name, value in flags.items() if name != "api_key"}

    for name, summary in EMPTY_LISTS.items():
        routes.add_api_route(f"/{name}", _nothing, summary=summary, name=name)
    for name in REFRESHED:
        routes.add_api_route(f"/refresh-{name}", _done, methods=["POST"], summary=f"Look for {name} again")
    _add_residency(routes, service)
    return routes


def _add_residency(routes: APIRouter, service: Service) -> None:
    @routes.post("/unload-checkpoint", summary="Free the model's memory")
    async def unload_checkpoint() -> dict[str, str]:
        """After the picture that is drawn. The next request loads the model again."""
        await service.unload()
        return {}

    @routes.post("/reload-checkpoint", summary="Load the model")
    async def reload_checkpoint() -> dict[str, str]:
        """Waits until it is there."""
        await service.reload()
        return {}


async def _nothing() -> list[str]:
    return []


async def _done() -> None:
    """The lists are read anew whenever they are asked for."""


def _card_memory(cards: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """A1111 knows one card: `system`. All of them by their names, where there are several."""
    systems = {
        name: {"free": free, "used": total - free, "total": total} for name, (free, total) in cards.items()
    }
    if not systems:
        return {"error": "unavailable"}
    return {"system": next(iter(systems.values())), "devices": systems}


def _process_memory() -> dict[str, int]:
    process, machine = psutil.Process().memory_info(), psutil.virtual_memory()
    return {"free": machine.total - process.rss, "used": process.rss, "total": machine.total}
