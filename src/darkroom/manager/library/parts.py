"""What is in a model file, as its header tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class PartKind(StrEnum):
    """The networks that files are made of, and the files that belong to none."""

    DIFFUSION = "diffusion"
    VAE = "vae"
    CLIP_L = "clip_l"
    CLIP_G = "clip_g"
    T5XXL = "t5xxl"
    LLM = "llm"
    LLM_VISION = "llm_vision"
    CLIP_VISION = "clip_vision"
    TAE = "tae"
    LORA = "lora"
    CONTROLNET = "controlnet"
    UPSCALER = "upscaler"
    EMBEDDING = "embedding"


class FileFormat(StrEnum):
    """How a model is stored."""

    SAFETENSORS = "safetensors"
    GGUF = "gguf"
    CKPT = "ckpt"
    FOLDER = "folder"
    SHARDS = "shards"


@dataclass(frozen=True)
class Part:
    """One network in a file.

    architecture: how it is built, `t5`, `clip_text`, `kl`; of a diffusion network its family. width: of the
    text that it gives or is for, of an autoencoder the channels of its latents. numbers: what else matters;
    of a diffusion network the widths that it takes, by role. title: `T5-XXL, 4096 wide, 32128 tokens`.
    layers: blocks, 0 where they are not counted. nbytes: what its tensors take.
    """

    kind: PartKind
    architecture: str = ""
    width: int = 0
    numbers: Mapping[str, int] = field(default_factory=dict)
    title: str = ""
    layers: int = 0
    nbytes: int = 0


@dataclass(frozen=True)
class Identity:
    """What a file is.

    family: a family of the catalogue, for files with a diffusion network. variant: `schnell`, as far as
    shapes tell. types: bytes by type of number, the most first, `{"q4_k": ..., "f32": ...}`.
    problem: why it is no model to draw with, else empty.
    """

    parts: tuple[Part, ...] = ()
    family: str | None = None
    variant: str = ""
    types: Mapping[str, int] = field(default_factory=dict)
    problem: str = ""

    @property
    def is_model(self) -> bool:
        """Whether it has a diffusion network of a known family, be there companions to add or not."""
        return self.family is not None and not self.problem

    @property
    def type(self) -> str:
        """The type that most of the bytes are of, as people name a file's: `bf16`, `q4_k`."""
        return next(iter(self.types), "")

    def part(self, kind: PartKind) -> Part | None:
        """The part of a kind."""
        return next((part for part in self.parts if part.kind is kind), None)


@dataclass(frozen=True)
class LibraryFile:
    """A file of the library, whatever it is. size: bytes, of all its files for folders and shards.

    identity: empty with a problem where it cannot be read. problem: what is wrong with the file.
    """

    path: Path
    format: FileFormat | None
    size: int
    identity: Identity = field(default_factory=Identity)
    problem: str = ""
