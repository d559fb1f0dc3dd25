"""A model of the library, as others see it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from darkroom.manager.library.parts import Identity, LibraryFile, Part, PartKind
from darkroom.manager.library.roles import FileRole


@dataclass(frozen=True)
class Model:
    """Something that pictures can be drawn with, once its components are there.

    id: its name, `z-image-turbo:q4_k`; unique, and the same after a restart. title: of its family, with the
    variant. engine: whether our own engine draws with it. builtin: it comes with the package.
    """

    id: str
    file: LibraryFile
    family: str
    title: str
    engine: bool = True
    builtin: bool = False

    @property
    def path(self) -> Path:
        """Its main file or folder."""
        return self.file.path

    @property
    def identity(self) -> Identity:
        """What is in it."""
        return self.file.identity

    @property
    def name(self) -> str:
        """Its id without the type."""
        return self.id.partition(":")[0]

    @property
    def network(self) -> Part:
        """Its diffusion network."""
        part = self.identity.part(PartKind.DIFFUSION)
        return part if part is not None else Part(PartKind.DIFFUSION, self.family)

    @property
    def role(self) -> FileRole:
        """What its file is given to a sidecar as: a network alone, or a whole model."""
        alone = all(part.kind is PartKind.DIFFUSION for part in self.identity.parts)
        return FileRole.DIFFUSION_MODEL if alone and not self.builtin else FileRole.MODEL


def with_variant(title: str, variant: str) -> str:
    """`Flux.1 schnell`; a number that both have is said once: `Stable Diffusion 3.5 medium`."""
    words, _, number = title.rpartition(" ")
    if words and variant.startswith(number):
        return f"{words} {variant}"
    return f"{title} {variant}".rstrip()
