"""What a model family is: how its files are recognised, built, prompted and sampled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

import torch
from PIL.Image import Image
from torch import Tensor, nn

from darkroom.api.names import Module, PredictionType, Role, SampleMethod, Scheduler
from darkroom.core.pixels import mask_to_latent
from darkroom.families.companions import Companion
from darkroom.families.latent_rgb import ChannelMix
from darkroom.families.latents import LatentFormat
from darkroom.sampling.extra_args import ExtraArgs
from darkroom.sampling.schedules import FLUX_SHIFT, ResolutionShift
from darkroom.weights.index import TensorIndex
from darkroom.weights.keys import KeyRules

C = TypeVar("C")

TEXT_ENCODERS = "text_encoders."
"""Where `nets.te.stack.TextEncoders` are in a native checkpoint."""


@dataclass(frozen=True)
class SampleDefaults:
    """What a request gets where it says nothing.

    clip_skip: None for models that take no hidden states of a CLIP.
    guidance: what a network distilled with guidance is told, or None for one that takes none.
    flow_shift: of the noise levels of flow models; None for the prediction's own.
    longest_side: pixels that the network can place on a side, or None where there is no end.
    patch: latent pixels that a token covers in each direction; the `flux` schedule and its like count tokens.
    resolution_shift: how the `flux` schedule follows the picture's size.
    norm_patch: latent pixels on a side of the tokens whose norm guidance leaves alone; 0 for none.
    """

    method: SampleMethod
    scheduler: Scheduler
    steps: int
    cfg_scale: float
    width: int
    height: int
    size_multiple: int
    clip_skip: int | None = None
    guidance: float | None = None
    flow_shift: float | None = None
    longest_side: int | None = None
    patch: int = 1
    resolution_shift: ResolutionShift = FLUX_SHIFT
    norm_patch: int = 0


@dataclass(frozen=True)
class Conditioning:
    """All that a diffusion network sees besides x and t.

    context: text tokens (b, l, D). mask: (b, l) bool, False for tokens that nobody may see, or None.
    vector: pooled embedding (b, D) or None. guidance: (b,) or None.
    concat: extra input channels (b, c, h, w) of inpainting models, or None.
    references: latents of reference images, (b, c, h_i, w_i) each.
    increase_reference_index: whether their positions on the first axis are 1, 2, ... or all the same; None is
    the family's own way.
    """

    context: Tensor
    vector: Tensor | None = None
    mask: Tensor | None = None
    guidance: Tensor | None = None
    concat: Tensor | None = None
    references: tuple[Tensor, ...] = ()
    increase_reference_index: bool | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Conditioning:
        """The same with every tensor changed, for example moved."""

        def changed(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else change(tensor)

        return Conditioning(
            change(self.context),
            changed(self.vector),
            changed(self.mask),
            changed(self.guidance),
            changed(self.concat),
            tuple(change(reference) for reference in self.references),
            self.increase_reference_index,
        )


@dataclass(frozen=True)
class ModuleSpec:
    """One network of a model.

    prefix: where its tensors live in a native checkpoint, with the trailing dot.
    build: makes it on the meta device, attributes named as the checkpoint names them.
    keep_packed: whether quantized weights stay packed, each unpacked where it is used; None: they do where
    there is no room for them unpacked.
    """

    prefix: str
    build: Callable[[], nn.Module]
    keep_packed: bool | None = None


@dataclass(frozen=True)
class TextPrompt:
    """A prompt and what goes with it.

    embeddings: files of textual inversions by lower-case trigger word (families.embeddings.find_embeddings).
    A file is read when a prompt holds its word, and it may hold vectors for several text encoders.
    images: the reference images, for text encoders that look at them. negative: whether it is the negative
    prompt, which some families treat in their own way when it is empty.
    """

    text: str
    clip_skip: int
    embeddings: Mapping[str, Path] = field(default_factory=dict)
    images: tuple[Image, ...] = ()
    negative: bool = False


@dataclass(frozen=True)
class Frame:
    """What of a request shapes the conditioning besides its prompts.

    width, height: of the picture in pixels. guidance: for networks distilled with it, or None.
    """

    width: int
    height: int
    guidance: float | None = None


Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The bare network for probing: x (b, c, h, w), timesteps (b,), context (b, l, D)  ->  (b, c, h, w)."""


class Family(ABC, Generic[C]):
    """A model family: stateless, one instance in each folder under families/ (`FAMILY`).

    landmarks: native names that every file of this family has, to say what a file of no family is closest to.
    companions: the files that may come beside the main one, for errors and for people who look for them.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    latent: ClassVar[LatentFormat]
    landmarks: ClassVar[Sequence[str]]
    companions: ClassVar[Sequence[Companion]] = ()
    model_args: ClassVar[Mapping[str, str]] = {}
    """Keys of --model-args that `configure` knows, and what each does."""

    takes_references: ClassVar[bool] = False
    """Whether reference images (-r) mean anything to it: as latents, or to the text encoder's eyes."""

    shows_references: ClassVar[bool] = False
    """Whether its text encoder has eyes for them, so that prompts depend on them."""

    @abstractmethod
    def key_rules(self) -> KeyRules:
        """Foreign spellings of this family's tensor names, for the main file and for every companion."""

    @abstractmethod
    def detect(self, index: TensorIndex) -> C | None:
        """The architecture, read from native names and shapes; None when the file is another family's.

        index: the main file and all companions together, under native names.
        Raises CheckpointError for a companion that is missing or another model's.
        """

    def prefix(self, role: Role) -> str:
        """Where the part of a role lives under native names."""
        return role.prefix

    def configure(self, config: C, model_args: ExtraArgs) -> C:
        """The architecture with what --model-args says about it; keys are those of `model_args`."""
        return config

    @abstractmethod
    def modules(self, config: C) -> Mapping[Module, ModuleSpec]:
        """The networks of the model."""

    def inpaints(self, config: C) -> bool:
        """Whether the network takes the mask, and the picture without what it hides, as extra channels."""
        return False

    def inpainting_channels(self, mask: Tensor, hidden: Tensor) -> Tensor:
        """Those channels: mask (1, 1, H, W) in pixels, 1 where it is drawn anew; hidden: latent (1, c, h, w).

        ->  (1, c', h, w); the mask in latent pixels and then the latent, unless the family says otherwise.
        """
        return torch.cat((mask_to_latent(mask, self.latent.downscale).to(hidden), hidden), dim=1)

    def reference_size(self, width: int, height: int, frame: Frame) -> tuple[int, int]:
        """The size that a reference image of this size is brought to before the autoencoder sees it."""
        multiple = self.latent.downscale * 2
        return max(1, width // multiple) * multiple, max(1, height // multiple) * multiple

    def check_references(self, config: C, *, is_seen: bool) -> None:
        """Raises RequestError for reference images that this model cannot look at.

        is_seen: whether they are shown to the text encoder.
        """

    def latent_rgb(self, config: C) -> ChannelMix:
        """About the colours of a latent, for previews without a network."""
        return self.latent.rgb

    @abstractmethod
    def encode(self, te: nn.Module, prompts: Sequence[TextPrompt], config: C) -> Sequence[Conditioning]:
        """Each prompt as a conditioning of batch size 1."""

    def frame(self, cond: Conditioning, frame: Frame, config: C) -> Conditioning:
        """The conditioning of a prompt with what the request's size and guidance add to it."""
        if frame.guidance is None:
            return cond
        return replace(cond, guidance=cond.context.new_full((1,), frame.guidance, dtype=torch.float32))

    @abstractmethod
    def predict(self, net: nn.Module, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """The network's output for x (b, c, h, w) at network timesteps t (b,)."""

    @abstractmethod
    def prediction(self, config: C, probe: Callable[[], Predict]) -> PredictionType:
        """What the output means; `probe()` gives the loaded network to a family that must try it."""

    @abstractmethod
    def defaults(self, config: C) -> SampleDefaults:
        """Sampler, steps, guidance and size where the request says nothing."""


def on_meta(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """`build` on the meta device, for ModuleSpec."""

    def built() -> nn.Module:
        with torch.device("meta"):
            return build()

    return built
