"""Load a model once, draw many pictures."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Self

import torch
from PIL.Image import Image
from torch import Tensor, nn

from darkroom.api.config import EngineConfig
from darkroom.api.errors import RequestError
from darkroom.api.names import Module, PredictionType, PreviewMode, Role
from darkroom.api.request import GenerationRequest
from darkroom.api.result import (
    GenerationResult,
    IsCancelled,
    OnPreview,
    OnProgress,
    Phase,
    ignore,
    never,
)
from darkroom.core.infotext import PictureParameters, write_infotext
from darkroom.engine.cache import PromptCache, key_of
from darkroom.engine.model import Model, open_model
from darkroom.engine.pipeline import (
    Start,
    decode,
    empty_start,
    encode_start,
    make_schedule,
    require_numbers,
    sample,
)
from darkroom.engine.plan import Plan, make_plan
from darkroom.engine.preview import Previews
from darkroom.engine.report import Advance, Report
from darkroom.engine.tiling import FittedVAE, Tiling, activation_bytes
from darkroom.families.base import Conditioning, Frame, Predict, TextPrompt
from darkroom.families.embeddings import find_embeddings
from darkroom.runtime.backends import BackendManager, Placement
from darkroom.runtime.budget import (
    ENCODER_BYTES,
    TRANSFORMER_CHANNELS,
    check_size,
    estimate_activation_bytes,
)
from darkroom.runtime.component import Component
from darkroom.runtime.devices import Devices
from darkroom.runtime.packing import unpack_what_fits
from darkroom.runtime.residency import apply_limits, room_for_work
from darkroom.runtime.split import apply_splits, spread_of
from darkroom.sampling.guidance import PredictBatch
from darkroom.sampling.noise import NoiseSource
from darkroom.sampling.prediction import Prediction, make_prediction

logger = logging.getLogger(__name__)

TEXT_ROLES = (Role.CLIP_L, Role.CLIP_G, Role.T5XXL, Role.LLM, Role.LLM_VISION)
"""The files that metadata calls text encoders."""


class _NotLoaded(Exception):
    """The network is asked what it predicts before it is there."""


class Engine:
    """One model, ready to draw. Not for several threads at once.

    >>> with Engine.load(EngineConfig(model="model.safetensors")) as engine:
    ...     result = engine.generate(GenerationRequest(prompt="a cat", seed=1))
    ...     result.images[0].save("cat.png")
    """

    def __init__(self, config: EngineConfig, model: Model, manager: BackendManager) -> None:
        """`Engine.load` makes one. The engine closes `model` and `manager`."""
        self.config = config
        self.model = model
        self.manager = manager
        self.embeddings = find_embeddings(config.embd_dir)
        self.components = {module: self._component(module) for module in model.sources}
        self.defaults = model.family.defaults(model.architecture)
        if not (config.type or config.tensor_type_rules):  # who asks for a type asks for its size
            specs = model.family.modules(model.architecture)
            undecided = [module for module in self.components if specs[module].keep_packed is None]
            unpack_what_fits(self.components, undecided, manager.placement.limits, self._usual_activations)
        apply_splits(self.components, manager)
        apply_limits(self.components, manager, self._usual_activations)
        self._prompts = PromptCache()
        self._prediction: PredictionType | None = None

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
        placement = Placement.parse(config, devices or Devices.discover())
        find_embeddings(config.embd_dir)
        with ExitStack() as undo:
            manager = undo.enter_context(BackendManager(placement, threads=config.threads))
            for module in (Module.TE, Module.DIFFUSION, Module.VAE):
                manager.spread(module)
                manager.params(module)
            model = open_model(config, manager.runtime(Module.DIFFUSION).device)
            undo.callback(model.close)
            engine = cls(config, model, manager)
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

        def reference_size(width: int, height: int) -> tuple[int, int]:
            return family.reference_size(width, height, Frame(request.width or 0, request.height or 0))

        plan = make_plan(
            request, self.defaults, self._check_size, reference_size if family.takes_references else None
        )
        if plan.references:
            family.check_references(self.model.architecture, is_seen=bool(plan.shown_references))
        prediction = self._make_prediction(plan.flow_shift)
        plan = _obeyed(plan, request, prediction)
        return replace(plan, schedule=make_schedule(plan, prediction, family, self.defaults))

    def generate(
        self,
        request: GenerationRequest,
        on_progress: OnProgress = ignore,
        is_cancelled: IsCancelled = never,
        on_preview: OnPreview | None = None,
    ) -> GenerationResult:
        """Draws `request`. Equal requests give equal pixels.

        on_progress: told of every step. is_cancelled: asked at every step. on_preview: shown the pictures on
        their way, as the request says; it need not be there.
        Raises RequestError, CheckpointError, OutOfMemoryError, and Cancelled within a step of being asked to.
        """
        plan = self.plan(request)
        report = Report(on_progress, is_cancelled, len(plan.seeds))
        with torch.inference_mode():
            cond, uncond = self._encode_text(plan, report)
            tiling = Tiling.of(request)
            start = self._start(plan, tiling, report)
            cond = self._framed(cond, plan, start)
            uncond = uncond and self._framed(uncond, plan, start)
            latents = self._sample(plan, cond, uncond, start, report, request, on_preview)
            images = self._decode(latents, tiling, report)
        infotexts = tuple(self._infotext(plan, seed) for seed in plan.seeds)
        return GenerationResult(images, plan.seeds, infotexts, report.timings)

    def close(self) -> None:
        """Frees weights, devices and files; a second call does nothing."""
        for component in self.components.values():
            component.close()
        self.manager.close()
        self.model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, type: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_size(self, width: int, height: int) -> None:
        for module in (Module.DIFFUSION, Module.VAE):
            component = self.components[module]
            memory = component.runtime.memory()
            itemsize = component.dtype.itemsize
            if module is Module.VAE:
                needed = activation_bytes(width, height, itemsize=itemsize, tiled=True)
            else:
                needed = estimate_activation_bytes(
                    width, height, itemsize=itemsize, batch=2, decoder_channels=0
                )
            check_size(width, height, needed, memory.total, component.runtime.name)

    def _usual_activations(self, module: Module) -> int:
        """Bytes that a module takes besides its weights for a picture of the family's own size."""
        if module is Module.TE:
            return ENCODER_BYTES
        estimate = partial(
            estimate_activation_bytes,
            self.defaults.width,
            self.defaults.height,
            itemsize=self.components[module].dtype.itemsize,
            batch=1 if self.defaults.cfg_scale == 1.0 else 2,
        )
        if module is Module.VAE:
            return estimate(unet_channels=0)
        if self.defaults.patch > 1:
            return estimate(decoder_channels=0, unet_channels=TRANSFORMER_CHANNELS)
        return estimate(decoder_channels=0)

    def _component(self, module: Module) -> Component:
        spec = self.model.family.modules(self.model.architecture)[module]
        runtime = self.manager.runtime(module)
        # In float16 the decoder of SDXL, for one, overflows, and the picture is black.
        dtype_of = runtime.wide_dtype if module is Module.VAE else runtime.compute_dtype
        return Component(
            module,
            spec.build,
            self.model.sources[module],
            runtime=runtime,
            params=self.manager.params(module),
            dtype=dtype_of(self.config.compute_type),
            keep_packed=spec.keep_packed is not False,
            others=spread_of(module, self.manager)[1:],
        )

    def _resident(self, module: Module, report: Report) -> AbstractContextManager[nn.Module]:
        component = self.components[module]
        return component.resident(report.loading(component.file_bytes))

    def _encode_text(self, plan: Plan, report: Report) -> tuple[Conditioning, Conditioning | None]:
        """Prompt and, where guidance wants it, negative prompt; from memory or through the text encoder."""
        images = plan.shown_references if self.model.family.shows_references else ()
        prompts = [
            TextPrompt(text, plan.clip_skip or 1, self.embeddings, images, negative)
            for text, negative in ((plan.prompt, False), (plan.negative_prompt, True))
            if not negative or plan.guidance.wants_uncond
        ]
        keys = [key_of(prompt) for prompt in prompts]
        new = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if not self._prompts.get(key)}
        if new:
            with (
                self._resident(Module.TE, report) as te,
                report.phase(Phase.ENCODE_TEXT, len(new)) as advance,
            ):
                # One by one: beside another prompt a text's numbers could differ in their last bits.
                for done, (key, prompt) in enumerate(new.items(), 1):
                    (encoded,) = self.model.family.encode(te, [prompt], self.model.architecture)
                    require_numbers("te: the encoded prompt", encoded.context, encoded.vector)
                    self._prompts.put(key, self._to_diffusion(encoded))
                    advance(done)
        cond, uncond = (self._prompts.get(key) for key in (keys[0], keys[-1]))
        assert cond is not None, "it was just put there"
        return cond, uncond if len(prompts) > 1 else None

    def _to_diffusion(self, conditioning: Conditioning) -> Conditioning:
        """The same on the diffusion network's device, numbers in its type."""
        component = self.components[Module.DIFFUSION]

        def moved(tensor: Tensor) -> Tensor:
            kind = component.dtype if tensor.is_floating_point() else tensor.dtype
            return component.runtime.take(tensor.to(kind))

        return conditioning.map(moved)

    def _framed(self, cond: Conditioning, plan: Plan, start: Start) -> Conditioning:
        """A prompt's conditioning with what this request adds: size, guidance, mask and reference images."""
        kind = self.components[Module.DIFFUSION].dtype
        cond = replace(
            cond,
            concat=None if start.concat is None else start.concat.to(kind),
            references=tuple(reference.to(kind) for reference in start.references),
            increase_reference_index=plan.increase_reference_index,
        )
        frame = Frame(plan.width, plan.height, plan.distilled_guidance)
        return self.model.family.frame(cond, frame, self.model.architecture)

    def _start(self, plan: Plan, tiling: Tiling, report: Report) -> Start:
        family, take = self.model.family, self.components[Module.DIFFUSION].runtime.take
        inpaints = family.inpaints(self.model.architecture)
        if plan.init_image is None and not plan.encoded_references:
            return empty_start(plan, family, inpaints).map(take)
        if inpaints and plan.mask is None:
            logger.warning("inpainting model: without --mask the whole picture is drawn anew")
        with self._resident(Module.VAE, report) as vae, report.phase(Phase.ENCODE_IMAGE, 1) as advance:
            fitted = self._fitted(vae, tiling, advance)
            start = encode_start(fitted, plan, family, self.config.rng, inpaints).map(take)
            advance(1)
        return start

    def _sample(
        self,
        plan: Plan,
        cond: Conditioning,
        uncond: Conditioning | None,
        start: Start,
        report: Report,
        request: GenerationRequest,
        on_preview: OnPreview | None,
    ) -> list[Tensor]:
        """The latent of each image, one image after the other, each from its own seed."""
        family = self.model.family
        component = self.components[Module.DIFFUSION]
        assert plan.schedule is not None, "this engine planned it"
        sigmas = plan.schedule.sigmas
        latents = []
        with self._resident(Module.DIFFUSION, report) as net:

            def predict(x: Tensor, t: Tensor, c: Conditioning) -> Tensor:
                # Of one layout: samplers hand on the network's own, and each would be recorded by itself.
                return family.predict(net, x.to(component.dtype).contiguous(), t, c)

            prediction = self._make_prediction(plan.flow_shift, predict)
            logger.debug("prediction: %s", self._prediction)
            for image, seed in enumerate(plan.seeds, 1):
                noise = NoiseSource([seed], self.config.rng, self.config.sampler_rng)
                wait = component.runtime.marker()
                previews = self._previews(request, on_preview, image)
                with report.phase(Phase.SAMPLE, len(sigmas) - 1, image) as advance:
                    for step in sample(predict, plan, prediction, sigmas, start, cond, uncond, noise):
                        wait()  # asking runs at most one step ahead of the device, or nobody could cancel
                        if previews is not None and previews.is_due(step.index):
                            noisy = prediction.scale_input(step.x, step.sigma)
                            previews.take(noisy if request.preview_noisy else step.x0, step.index, step.steps)
                        wait = component.runtime.marker()
                        advance(step.index)
                    if previews is not None:
                        previews.flush()
                latents.append(step.x)
        return latents

    def _previews(
        self, request: GenerationRequest, on_preview: OnPreview | None, image: int
    ) -> Previews | None:
        if on_preview is None or request.preview is PreviewMode.NONE:
            return None
        if request.preview is not PreviewMode.PROJ:
            raise RequestError(f"--preview: {request.preview} is not there yet; proj is")
        family, backend = self.model.family, self.components[Module.DIFFUSION].runtime
        look = family.latent_rgb(self.model.architecture).on(backend.take)
        return Previews(
            look,
            backend,
            on_preview,
            interval=request.preview_interval,
            image=image,
            images=request.batch_count,
        )

    def _make_prediction(
        self, shift: float | None, predict: PredictBatch[Conditioning] | None = None
    ) -> Prediction:
        """What the network's output means: as configured, else as the family finds out, once.

        predict: the loaded network. Without it, what must be tried is taken for eps; v has the same levels.
        """
        if self._prediction is None:
            component = self.components[Module.DIFFUSION]

            def probe() -> Predict:
                if predict is None:
                    raise _NotLoaded

                def run(x: Tensor, t: Tensor, context: Tensor) -> Tensor:
                    cond = self._to_diffusion(Conditioning(context))
                    return predict(component.runtime.take(x), component.runtime.take(t), cond).float().cpu()

                return run

            with suppress(_NotLoaded):
                self._prediction = self.config.prediction or self.model.family.prediction(
                    self.model.architecture, probe
                )
        alphas = self.model.alphas_cumprod
        return make_prediction(
            self._prediction or PredictionType.EPS,
            alphas_cumprod=None if alphas is None else alphas.tolist(),
            shift=shift,
        )

    def _fitted(self, vae: nn.Module, tiling: Tiling, advance: Advance) -> FittedVAE:
        """The autoencoder, by tiles where it is to be or where memory is short."""
        component = self.components[Module.VAE]
        backend = component.runtime

        def free() -> int:
            here = (part for part in self.components.values() if part.runtime is backend and part.is_loaded)
            staying = (part for part in here if part.params is backend or part is component)
            return room_for_work(backend, self.manager, sum(part.nbytes for part in staying))

        def on_tile(done: int, total: int) -> None:
            advance(min(done, total - 1), total)  # the picture is what ends the phase

        return FittedVAE(vae, backend, tiling, free, on_tile)

    def _decode(self, latents: list[Tensor], tiling: Tiling, report: Report) -> tuple[Image, ...]:
        images = []
        with self._resident(Module.VAE, report) as vae:
            for image, latent in enumerate(latents, 1):
                with report.phase(Phase.DECODE, 1, image) as advance:
                    fitted = self._fitted(vae, tiling, advance)
                    images.append(decode(fitted, latent, self.model.family.latent))
                    advance(1)
        return tuple(images)

    def _infotext(self, plan: Plan, seed: int) -> str:
        config = self.config
        assert plan.schedule is not None, "this engine planned it"
        return write_infotext(
            PictureParameters(
                prompt=plan.prompt,
                negative_prompt=plan.negative_prompt,
                steps=plan.steps,
                cfg_scale=plan.cfg_scale,
                guidance=plan.distilled_guidance,
                eta=plan.eta,
                extra_sample_args=plan.extra_sample_args,
                seed=seed,
                width=plan.width,
                height=plan.height,
                model=(config.model or self.model.path).name,
                rng=config.rng,
                sampler_rng=config.sampler_rng,
                sampler=plan.method,
                scheduler=plan.schedule.scheduler,
                sigmas=plan.sigmas,
                text_encoders=[path.name for role, path in config.files.items() if role in TEXT_ROLES],
                diffusion_model=config.diffusion_model.name if config.diffusion_model else None,
                vae=config.vae.name if config.vae else None,
                clip_skip=plan.clip_skip,
                denoising_strength=None if plan.init_image is None else plan.strength,
            )
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
