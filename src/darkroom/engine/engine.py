"""Load a model once, draw many pictures."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Self

import torch

from darkroom.api.config import EngineConfig
from darkroom.api.errors import DarkroomError, OutOfMemoryError, RequestError
from darkroom.api.names import Module, PreviewMode
from darkroom.api.request import GenerationRequest
from darkroom.api.result import (
    GenerationResult,
    Hooks,
    IsCancelled,
    IsSkipped,
    OnPreview,
    OnProgress,
    ignore,
    never,
)
from darkroom.engine.autoencoding import decode_latents, make_starts
from darkroom.engine.denoising import Denoising
from darkroom.engine.description import Description, describe
from darkroom.engine.drawing import Drawing, going_on
from darkroom.engine.fit import fitted
from darkroom.engine.meaning import Meaning
from darkroom.engine.metadata import infotext
from darkroom.engine.model import Model, open_model
from darkroom.engine.parts import Parts
from darkroom.engine.pipeline import make_schedule
from darkroom.engine.plan import Plan, make_plan
from darkroom.engine.preview import Previewer
from darkroom.engine.prompts import Prompts
from darkroom.engine.report import Report
from darkroom.engine.sharing import can_share, most_together
from darkroom.engine.tokens import tokenizer_of
from darkroom.families.base import Frame
from darkroom.families.embeddings import find_embeddings
from darkroom.runtime.backends import BackendManager, Placement
from darkroom.runtime.devices import Devices
from darkroom.runtime.fit import Fit
from darkroom.sampling.prediction import Prediction

logger = logging.getLogger(__name__)


class Engine:
    """One model, ready to draw. Not for several threads at once.

    fit: the plan of --auto-fit, if that was asked for.

    >>> with Engine.load(EngineConfig(model="model.safetensors")) as engine:
    ...     result = engine.generate(GenerationRequest(prompt="a cat", seed=1))
    ...     result.images[0].save("cat.png")
    """

    def __init__(self, config: EngineConfig, model: Model, manager: BackendManager) -> None:
        """`Engine.load` makes one. The engine closes `model` and `manager`."""
        self.config = config
        self.model = model
        self.manager = manager
        self.fit: Fit | None = None
        self.embeddings = find_embeddings(config.embd_dir)
        self.parts = Parts(config, model, manager)
        self.components = self.parts.components
        self.defaults = self.parts.defaults
        self._prompts = Prompts(self.parts, self.embeddings)
        self._meaning = Meaning(self.parts)
        self._previewer = Previewer(self.parts)
        self._denoising = Denoising(self.parts, self._meaning, self._previewer)

    @classmethod
    def load(
        cls,
        config: EngineConfig | None = None,
        *,
        devices: Devices | None = None,
        on_progress: OnProgress = ignore,
    ) -> Engine:
        """Checks every option, then opens the model. Weights are read when a module first runs, or now
        with `eager_load`.

        devices: what there is to choose from; None looks at this machine.
        Raises PlacementError, RequestError, CheckpointError, OutOfMemoryError.
        """
        config = config or EngineConfig()
        devices = devices or Devices.discover()
        plan = None
        if config.auto_fit:
            config, plan = fitted(config, devices)
            for line in plan.lines():
                logger.info("%s", line)
        placement = Placement.parse(config, devices)
        find_embeddings(config.embd_dir)
        with ExitStack() as undo:
            manager = undo.enter_context(BackendManager(placement, threads=config.threads))
            for module in (Module.TE, Module.DIFFUSION, Module.VAE):
                manager.spread(module)
                manager.params(module)
            model = open_model(config, manager.runtime(Module.DIFFUSION).device)
            undo.callback(model.close)
            engine = cls(config, model, manager)
            engine.fit = plan
            undo.callback(engine.close)
            if config.eager_load:
                report = Report(on_progress, never)
                for component in engine.components.values():
                    component.load(report.loading(component.file_bytes))
            undo.pop_all()
        return engine

    def plan(self, request: GenerationRequest) -> Plan:
        """What `request` means for this model, checked before any weight moves.

        Raises RequestError, also for a size whose memory the devices do not have, for reference images that
        the model cannot look at, and for options that leave no noise levels.
        """
        family = self.model.family
        if request.preview is PreviewMode.TAE and self.parts.tae is None:
            raise RequestError(
                "--preview: tae needs a tiny autoencoder; give one with --taesd, or take --preview proj"
            )

        def reference_size(width: int, height: int) -> tuple[int, int]:
            return family.reference_size(width, height, Frame(request.width or 0, request.height or 0))

        plan = make_plan(
            request,
            self.defaults,
            self.parts.check_size,
            reference_size if family.takes_references else None,
        )
        if plan.references:
            family.check_references(self.model.architecture, is_seen=bool(plan.shown_references))
        prediction = self._meaning.prediction(plan.flow_shift)
        plan = _obeyed(plan, request, prediction)
        return replace(plan, schedule=make_schedule(plan, prediction, family, self.defaults))

    def generate(
        self,
        request: GenerationRequest,
        on_progress: OnProgress = ignore,
        is_cancelled: IsCancelled = never,
        on_preview: OnPreview | None = None,
        is_skipped: IsSkipped = never,
    ) -> GenerationResult:
        """Draws `request`. Equal requests give equal pixels.

        The other arguments are those of Hooks.
        Raises RequestError, CheckpointError, OutOfMemoryError, and Cancelled within a step of being asked to.
        """
        hooks = Hooks(on_progress, is_cancelled, on_preview, is_skipped)
        (outcome,) = self.generate_many([(request, hooks)])
        if isinstance(outcome, DarkroomError):
            raise outcome
        return outcome

    def generate_many(
        self, requests: Sequence[tuple[GenerationRequest, Hooks]]
    ) -> list[GenerationResult | DarkroomError]:
        """Draws several requests, as one batch those for which that is faster; what became of each.

        What ends one of them, Cancelled for example, does not disturb the others.
        """
        begun = [self._begun(request, hooks) for request, hooks in requests]
        self._draw([drawing for drawing in begun if isinstance(drawing, Drawing)])
        return [one if isinstance(one, DarkroomError) else one.error or self._result(one) for one in begun]

    def can_share(self, first: Plan, second: Plan) -> bool:
        """Whether `generate_many` may draw two planned requests as one batch."""
        return can_share(first, second)

    def most_together(self, plan: Plan) -> int:
        """How many pictures like this one `generate_many` draws at once; 1 where a batch does not pay."""
        return most_together(self.parts, plan)

    def count_tokens(self, text: str) -> int:
        """The tokens of a text as the model counts them, without any that begin, end or fill up a prompt."""
        return len(tokenizer_of(self.model).encode(text))

    def describe(self) -> Description:
        """What can be said of the model without drawing."""
        return describe(self.parts)

    def unload(self) -> None:
        """Takes all weights out of memory; the next picture reads them again."""
        self.parts.unload()
        self._prompts.forget()

    def close(self) -> None:
        """Frees weights, devices and files; a second call does nothing."""
        self._prompts.forget()
        self.parts.close()
        self.manager.close()
        self.model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, type: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begun(self, request: GenerationRequest, hooks: Hooks) -> Drawing | DarkroomError:
        try:
            return Drawing(request, self.plan(request), hooks)
        except DarkroomError as error:
            return error

    def _draw(self, drawings: list[Drawing]) -> None:
        with torch.inference_mode():
            self._run_stages(drawings)
            while short := [one for one in drawings if isinstance(one.error, OutOfMemoryError)]:
                if not any(self.parts.step_down(drawing) for drawing in short):
                    break
                for drawing in short:
                    drawing.resume()
                self._run_stages(short)

    def _run_stages(self, drawings: list[Drawing]) -> None:
        """Each does what a drawing that comes here for the second time still lacks."""
        self._prompts.encode([drawing for drawing in drawings if drawing.cond is None])
        make_starts(self.parts, [drawing for drawing in going_on(drawings) if drawing.start is None])
        self._denoising.run([drawing for drawing in going_on(drawings) if drawing.undone])
        decode_latents(self.parts, drawings)

    def _result(self, drawing: Drawing) -> GenerationResult:
        drawn = sorted(drawing.images)
        seeds = tuple(drawing.plan.seeds[image] for image in drawn)
        return GenerationResult(
            tuple(drawing.images[image] for image in drawn),
            seeds,
            tuple(infotext(self.config, self.model, drawing.plan, seed) for seed in seeds),
            drawing.report.timings,
        )


def _obeyed(plan: Plan, request: GenerationRequest, prediction: Prediction) -> Plan:
    """The plan without what this model does not do; each is warned about."""
    if request.flow_shift is not None and not prediction.is_flow:
        logger.warning("--flow-shift: this is no flow model; it changes nothing")
    if plan.timestep_shift and prediction.is_flow:
        logger.warning("--timestep-shift: made for NitroFusion, of SDXL; it is ignored for a flow model")
        plan = replace(plan, timestep_shift=0)
    if plan.negative_prompt and not plan.guidance.wants_uncond:
        logger.warning("--negative-prompt: without guidance it changes nothing; --cfg-scale above 1 guides")
    return plan
