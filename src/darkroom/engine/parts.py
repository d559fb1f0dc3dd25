"""The networks of a model on their devices: where each lives, what it computes with, what it has room for."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial

from torch import Tensor, nn

from darkroom.api.config import EngineConfig
from darkroom.api.errors import OutOfMemoryError
from darkroom.api.names import Module
from darkroom.engine.drawing import Drawing
from darkroom.engine.model import Model
from darkroom.engine.report import Advance
from darkroom.engine.tiling import FittedVAE, Tiling, activation_bytes
from darkroom.families.base import Conditioning, SampleDefaults
from darkroom.runtime.backends import Backend, BackendManager
from darkroom.runtime.budget import (
    ENCODER_BYTES,
    TRANSFORMER_CHANNELS,
    check_size,
    estimate_activation_bytes,
)
from darkroom.runtime.component import Component, OnBytes
from darkroom.runtime.ladder import step_down
from darkroom.runtime.packing import unpack_what_fits
from darkroom.runtime.residency import SPARE, apply_limits, room_for_work
from darkroom.runtime.split import apply_splits, spread_of


class Parts:
    """The components of a model, by module; `tae` is the tiny autoencoder, if there is one.

    The owner closes `model` and `manager`.
    """

    def __init__(
        self, config: EngineConfig, model: Model, manager: BackendManager, *, is_arranged: bool = True
    ) -> None:
        """is_arranged: as options and the devices' memory ask for; else for weighing only."""
        self.config = config
        self.model = model
        self.manager = manager
        self.defaults: SampleDefaults = model.family.defaults(model.architecture)
        self.components: dict[Module, Component] = {}
        self.tae: Component | None = None
        if is_arranged:
            self._arrange()
        else:
            self.components |= {module: self._component(module) for module in model.sources}

    def unload(self) -> None:
        """Takes all weights out of memory; each is read again when it is next needed."""
        self.close()
        self._arrange()

    def close(self) -> None:
        """Frees the weights; a second call does nothing."""
        for component in (*self.components.values(), *filter(None, [self.tae])):
            component.close()

    def backend(self, module: Module) -> Backend:
        """Where a network runs."""
        return self.components[module].runtime

    def resident(self, module: Module, on_bytes: OnBytes | None = None) -> AbstractContextManager[nn.Module]:
        """The network, ready until the block ends; on_bytes is told what is read for it."""
        return self.components[module].resident(on_bytes)

    def to_diffusion(self, conditioning: Conditioning) -> Conditioning:
        """The same on the diffusion network's device, numbers in its type."""
        component = self.components[Module.DIFFUSION]

        def moved(tensor: Tensor) -> Tensor:
            kind = component.dtype if tensor.is_floating_point() else tensor.dtype
            return component.runtime.take(tensor.to(kind))

        return conditioning.map(moved)

    def fitted(self, vae: nn.Module, tiling: Tiling, advance: Advance) -> FittedVAE:
        """The autoencoder, by tiles where it is to be or where memory is short."""

        def on_tile(done: int, total: int) -> None:
            advance(min(done, total - 1), total)  # the picture is what ends the phase

        return FittedVAE(vae, self.backend(Module.VAE), tiling, partial(self.room, Module.VAE), on_tile)

    @property
    def decoder(self) -> Component:
        """What makes pictures of latents."""
        is_preview_only = self.tae is None or self.config.taesd_preview_only
        return self.components[Module.VAE] if is_preview_only or self.tae is None else self.tae

    def step_down(self, drawing: Drawing) -> bool:
        """Makes room on the device where a drawing ran out of memory; False if nothing is left to do."""
        assert isinstance(drawing.error, OutOfMemoryError), "it is asked for no others"
        failed, plan, device = drawing.unfinished, drawing.plan, drawing.error.device
        work = ENCODER_BYTES if failed is Module.TE else self.diffusion_bytes(plan.width, plan.height, 2)
        return step_down(failed, device, self.components, self.manager, int(SPARE * work))

    def decoded_quickly(self, latent: Tensor) -> Tensor:
        """The pixels (b, 3, H, W) that the tiny autoencoder makes of latents (b, c, h, w), in [-1, 1]."""
        assert self.tae is not None, "whoever asks for it has given one"
        with self.tae.resident() as tae:
            pixels: Tensor = tae(self.tae.runtime.take(latent).to(self.tae.dtype))
            return pixels

    def room(self, module: Module) -> int:
        """Bytes that a network may use for its work, the weights that stay beside it left alone."""
        component = self.components[module]
        backend = component.runtime
        here = (part for part in self.components.values() if part.runtime is backend and part.is_loaded)
        staying = (part for part in here if part.params is backend or part is component)
        return room_for_work(backend, self.manager, sum(part.nbytes for part in staying))

    def check_size(self, width: int, height: int) -> None:
        """Raises RequestError for a picture that the devices have no memory for."""
        for module in (Module.DIFFUSION, Module.VAE):
            component = self.components[module]
            memory = component.runtime.memory()
            if module is Module.VAE:
                needed = activation_bytes(width, height, itemsize=component.dtype.itemsize, tiled=True)
            else:
                needed = estimate_activation_bytes(
                    width, height, itemsize=component.dtype.itemsize, batch=2, decoder_channels=0
                )
            check_size(width, height, needed, memory.total, component.runtime.name)

    def usual_activations(self, module: Module) -> int:
        """Bytes that a module takes besides its weights for a picture of the family's own size."""
        width, height = self.defaults.width, self.defaults.height
        match module:
            case Module.TE:
                return ENCODER_BYTES
            case Module.VAE:
                itemsize = self.components[module].dtype.itemsize
                return activation_bytes(width, height, itemsize=itemsize, tiled=False)
            case _:
                batch = 1 if self.defaults.cfg_scale == 1.0 else 2
                return self.diffusion_bytes(width, height, batch)

    def least_activations(self, module: Module) -> int:
        """The same where the autoencoder works tile by tile, as it does where memory is short."""
        if module is not Module.VAE:
            return self.usual_activations(module)
        width, height, dtype = self.defaults.width, self.defaults.height, self.components[module].dtype
        return activation_bytes(width, height, itemsize=dtype.itemsize, tiled=True)

    def diffusion_bytes(self, width: int, height: int, batch: int) -> int:
        """Bytes of the diffusion network's activations for `batch` latents of pictures of this size."""
        itemsize = self.components[Module.DIFFUSION].dtype.itemsize
        estimate = partial(
            estimate_activation_bytes, width, height, itemsize=itemsize, batch=batch, decoder_channels=0
        )
        return estimate(unet_channels=TRANSFORMER_CHANNELS) if self.defaults.patch > 1 else estimate()

    def _arrange(self) -> None:
        self.components |= {module: self._component(module) for module in self.model.sources}
        self.tae = self._tiny()
        if not (self.config.type or self.config.tensor_type_rules):  # who asks for a type asks for its size
            specs = self.model.family.modules(self.model.architecture)
            undecided = [module for module in self.components if specs[module].keep_packed is None]
            limits = self.manager.placement.limits
            unpack_what_fits(self.components, undecided, limits, self.usual_activations)
        apply_splits(self.components, self.manager)
        apply_limits(self.components, self.manager, self.least_activations)

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

    def _tiny(self) -> Component | None:
        if self.model.tiny is None:
            return None
        decoder, source = self.model.tiny
        runtime, params = self.manager.runtime(Module.VAE), self.manager.params(Module.VAE)
        dtype = runtime.wide_dtype(self.config.compute_type)
        return Component("taesd", decoder.build, source, runtime=runtime, params=params, dtype=dtype)
