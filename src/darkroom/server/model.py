"""The model that a server holds: how it is loaded and what can be said about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from darkroom.api.config import EngineConfig
from darkroom.api.errors import DarkroomError
from darkroom.api.names import Role, SampleMethod, Scheduler
from darkroom.api.request import GenerationRequest
from darkroom.api.result import GenerationResult, Hooks
from darkroom.server.errors import InvalidField
from darkroom.server.jobs import Outline

if TYPE_CHECKING:  # torch
    from darkroom.engine.engine import Engine
    from darkroom.engine.plan import Plan

MIN_SIDE, MAX_SIDE = 64, 4096
"""Pixels on a side that a request may ask for; a model can have a smaller end of its own."""

MAX_IMAGES = 64
"""Pictures of one job; each API has its own, lower limit."""

BUILTIN = "builtin"


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model without drawing.

    name: of the main file, with its ending. stem: without it. path: where it is.
    family: its name in the code, flux for example; title: for people. variant: what tells it from others of
    its family, where anything does.
    method, scheduler, steps, cfg_scale, guidance, width, height, clip_skip: the family's defaults.
    size_multiple: width and height are rounded up to multiples of it.
    embeddings: the words that call textual inversion embeddings.
    """

    name: str
    stem: str
    path: str
    family: str
    title: str
    variant: str
    method: SampleMethod
    scheduler: Scheduler
    steps: int
    cfg_scale: float
    guidance: float | None
    clip_skip: int | None
    width: int
    height: int
    size_multiple: int
    min_side: int
    max_side: int
    takes_references: bool
    inpaints: bool
    file_bytes: int
    vae: Path | None = None
    embeddings: tuple[str, ...] = ()


class LoadedModel:
    """An engine and what the server asks it. `generate` and `close` belong to the worker's thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def info(self) -> ModelInfo:
        """What is known of the model."""
        engine = self._engine
        family, defaults, path = engine.model.family, engine.defaults, engine.model.path
        is_builtin = not engine.config.files
        return ModelInfo(
            name=BUILTIN if is_builtin else path.name,
            stem=BUILTIN if is_builtin else path.stem,
            path=str(path),
            family=family.name,
            title=family.title,
            variant="inpainting" if family.inpaints(engine.model.architecture) else "",
            method=defaults.method,
            scheduler=defaults.scheduler,
            steps=defaults.steps,
            cfg_scale=defaults.cfg_scale,
            guidance=defaults.guidance,
            clip_skip=defaults.clip_skip,
            width=defaults.width,
            height=defaults.height,
            size_multiple=defaults.size_multiple,
            min_side=MIN_SIDE,
            max_side=min(MAX_SIDE, defaults.longest_side or MAX_SIDE),
            takes_references=family.takes_references,
            inpaints=family.inpaints(engine.model.architecture),
            file_bytes=sum(component.file_bytes for component in engine.components.values()),
            vae=engine.config.vae,
            embeddings=tuple(engine.embeddings),
        )

    def outline(self, request: GenerationRequest) -> tuple[Outline, Plan]:
        """What will be drawn, and the engine's plan of it. Raises RequestError for what cannot be."""
        from darkroom.families.base import Frame  # torch

        _check_limits(request.width, request.height, request.batch_count)
        plan = self._engine.plan(request)
        _check_limits(plan.width, plan.height)
        assert plan.schedule is not None, "an engine planned it"
        picture = self._tokens(plan.width, plan.height)
        family, frame = self._engine.model.family, Frame(plan.width, plan.height)
        references = (family.reference_size(*image.size, frame) for image in plan.encoded_references)
        outline = Outline(
            plan.width,
            plan.height,
            len(plan.schedule.sigmas) - 1,
            plan.seeds,
            tokens=picture,
            input_tokens=sum(self._tokens(*size) for size in references)
            + (picture if plan.init_image is not None else 0),
        )
        return outline, plan

    def _tokens(self, width: int, height: int) -> int:
        """What the network takes a picture of this size for: patches of its latent."""
        side = self._engine.model.family.latent.downscale * self._engine.defaults.patch
        return -(-width // side) * -(-height // side)

    def tokenizer(self) -> Callable[[str], list[int]]:
        """From text to the tokens that the model sees, or one of its tokenizers where it has several."""
        from darkroom.engine.tokens import tokenizer_of

        return tokenizer_of(self._engine.model).encode

    def generate(
        self, requests: Sequence[tuple[GenerationRequest, Hooks]]
    ) -> list[GenerationResult | DarkroomError]:
        """Draws; what became of each request."""
        return self._engine.generate_many(requests)

    def together(self, plans: Sequence[Plan]) -> list[int]:
        """Which of these are worth drawing at once with the first, by their places; the first is 0."""
        most = self._engine.most_together(plans[0])
        chosen, pictures = [0], len(plans[0].seeds)
        for place, plan in enumerate(plans[1:], 1):
            if pictures + len(plan.seeds) <= most and self._engine.can_share(plans[0], plan):
                chosen.append(place)
                pictures += len(plan.seeds)
        return chosen

    def memory(self) -> dict[str, tuple[int, int]]:
        """Bytes free and in all of each card in use, by its name; any thread may ask."""
        cards = [backend for backend in self._engine.manager.backends if backend.device.type != "cpu"]
        return {card.name: (card.memory().free, card.memory().total) for card in cards}

    def close(self) -> None:
        """Frees the weights."""
        self._engine.close()


def open_engine(config: EngineConfig, read: list[int]) -> LoadedModel:
    """Opens the model and reads its weights to where they live.

    read: bytes read and bytes in all, kept up to date. Raises DarkroomError.
    """
    from darkroom.engine.engine import Engine  # torch and all that is heavy

    engine = Engine.load(config)

    def on_bytes(nbytes: int) -> None:
        read[0] += nbytes

    try:
        waiting = [part for part in engine.components.values() if part.params is not None]
        read[1] = sum(part.file_bytes for part in waiting)
        for part in waiting:
            part.load(on_bytes)
        read[0] = read[1]
        model = LoadedModel(engine)
        model.tokenizer()("")  # compiled now, not while a request waits
    except BaseException:
        engine.close()
        raise
    return model


def name_of(config: EngineConfig) -> str:
    """What the model is called, also before it is loaded: its file's name without the ending."""
    path = config.files.get(Role.MODEL) or config.files.get(Role.DIFFUSION_MODEL)
    return path.stem if path else BUILTIN


def _check_limits(width: int | None, height: int | None, images: int = 1) -> None:
    for name, side in (("width", width), ("height", height)):
        if side is not None and not MIN_SIDE <= side <= MAX_SIDE:
            raise InvalidField(
                f"{name}: {side} is out of range; expected {MIN_SIDE} to {MAX_SIDE}", param=name
            )
    if images > MAX_IMAGES:
        raise InvalidField(f"batch_count: {images} is too many; at most {MAX_IMAGES}", param="batch_count")
