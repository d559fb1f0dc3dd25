"""What a model family is: how its files are recognised, built, prompted and sampled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from torch import Tensor, nn

from darkroom.api.names import Module, PredictionType, SampleMethod, Scheduler
from darkroom.weights.index import TensorIndex
from darkroom.weights.keys import KeyRules

C = TypeVar("C")


@dataclass(frozen=True)
class LatentFormat:
    """How pictures and latents relate: latent = (z - shift) * scale, `downscale` pixels to a latent pixel."""

    channels: int
    downscale: int
    scale: float
    shift: float = 0.0


@dataclass(frozen=True)
class SampleDefaults:
    """What a request gets where it says nothing."""

    method: SampleMethod
    scheduler: Scheduler
    steps: int
    cfg_scale: float
    width: int
    height: int
    size_multiple: int
    clip_skip: int


@dataclass(frozen=True)
class Conditioning:
    """All that a diffusion network sees besides x and t.

    context: text tokens (b, l, D). vector: pooled embedding (b, D) or None.
    concat: extra input channels (b, c, h, w) of inpainting models, or None.
    """

    context: Tensor
    vector: Tensor | None = None
    concat: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Conditioning:
        """The same with every tensor changed, for example moved."""
        vector, concat = (None if tensor is None else change(tensor) for tensor in (self.vector, self.concat))
        return Conditioning(change(self.context), vector, concat)


@dataclass(frozen=True)
class ModuleSpec:
    """One network of a model.

    prefix: where its tensors live in a native checkpoint, with the trailing dot.
    build: makes it on the meta device, attributes named as the checkpoint names them.
    """

    prefix: str
    build: Callable[[], nn.Module]


@dataclass(frozen=True)
class TextPrompt:
    """A prompt and what goes with it.

    embeddings: files of textual inversions by lower-case trigger word (families.embeddings.find_embeddings).
    A file is read when a prompt holds its word, and it may hold vectors for several text encoders.
    """

    text: str
    clip_skip: int
    embeddings: Mapping[str, Path] = field(default_factory=dict)


Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The bare network for probing: x (b, c, h, w), timesteps (b,), context (b, l, D)  ->  (b, c, h, w)."""


class Family(ABC, Generic[C]):
    """A model family: stateless, one instance in each folder under families/ (`FAMILY`).

    landmarks: native names that every file of this family has, to say what a file of no family is closest to.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    latent: ClassVar[LatentFormat]
    landmarks: ClassVar[Sequence[str]]
    signature: ClassVar[frozenset[str]]
    """Native names of a few tensors that every file of this family has; for messages about unknown files."""

    @abstractmethod
    def key_rules(self) -> KeyRules:
        """Foreign spellings of this family's tensor names."""

    @abstractmethod
    def detect(self, index: TensorIndex) -> C | None:
        """The architecture, read from native names and shapes; None when the file is another family's."""

    @abstractmethod
    def modules(self, config: C) -> Mapping[Module, ModuleSpec]:
        """The networks of the model."""

    @abstractmethod
    def inpaints(self, config: C) -> bool:
        """Whether the network takes the mask, and the picture without what it hides, as extra channels."""

    @abstractmethod
    def encode(self, te: nn.Module, prompts: Sequence[TextPrompt], config: C) -> Sequence[Conditioning]:
        """Each prompt as a conditioning of batch size 1."""

    @abstractmethod
    def predict(self, net: nn.Module, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """The network's output for x (b, c, h, w) at network timesteps t (b,)."""

    @abstractmethod
    def prediction(self, config: C, probe: Callable[[], Predict]) -> PredictionType:
        """What the output means; `probe()` gives the loaded network to a family that must try it."""

    @abstractmethod
    def defaults(self, config: C) -> SampleDefaults:
        """Sampler, steps, guidance and size where the request says nothing."""
