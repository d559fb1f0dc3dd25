"""Flux.1, the rectified flow transformer of Black Forest Labs, in the names of its authors' code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from darkroom.layers.embed import timestep_embedding
from darkroom.layers.linear import Linear
from darkroom.nets.flux_blocks import (
    MLPEmbedder,
    Shapes,
    StreamsConfig,
    StreamsTransformer,
    image_positions,
)
from darkroom.nets.patches import PATCH, patchify, unpatchify

# The embeddings take t and guidance times this.
_TIME_FACTOR = 1000.0


@dataclass(frozen=True)
class FluxNetConfig:
    """The architecture. time_dim: sinusoids of t and guidance; has_guidance: not in schnell."""

    streams: StreamsConfig
    vector_dim: int = 768
    time_dim: int = 256
    has_guidance: bool = True

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> FluxNetConfig:
        """Reads the architecture from the shapes of a file's tensors, prefix stripped.

        Raises KeyError where a tensor that defines the architecture is missing.
        """
        return cls(
            StreamsConfig.from_shapes(shapes),
            vector_dim=shapes["vector_in.in_layer.weight"][1],
            time_dim=shapes["time_in.in_layer.weight"][1],
            has_guidance="guidance_in.in_layer.weight" in shapes,
        )


class Modulation(nn.Module):
    """Shifts, scales and gates of a block, vec: (b, D), after SiLU  ->  (b, rows * D)."""

    def __init__(self, width: int, rows: int) -> None:
        super().__init__()
        self.lin = Linear(width, rows * width)

    def forward(self, vec: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = self.lin(vec)
        return out


class Flux(StreamsTransformer):
    """The velocity, noise - latent, of a noisy latent at a time between 0 (clean) and 1 (noise)."""

    def __init__(self, config: FluxNetConfig) -> None:
        width = config.streams.hidden_size
        super().__init__(
            config.streams,
            modulation=lambda rows: Modulation(width, rows),
            last_modulation=lambda rows: nn.Sequential(nn.Identity(), Linear(width, rows * width)),
        )
        self.time_dim = config.time_dim
        self.time_in = MLPEmbedder(config.time_dim, width)
        self.vector_in = MLPEmbedder(config.vector_dim, width)
        self.guidance_in = MLPEmbedder(config.time_dim, width) if config.has_guidance else None

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        context: Tensor,
        vector: Tensor,
        guidance: Tensor | None = None,
        concat: Tensor | None = None,
        references: Sequence[Tensor] = (),
        increase_index: bool = False,
    ) -> Tensor:
        """x: (b, c, h, w), t: (b,), context: (b, s, context_dim), vector: (b, vector_dim)  ->  (b, c, h, w).

        guidance: (b,), for networks that take it. concat: (b, c', h, w), more channels of the picture (Fill).
        references: latents (b, c, h_i, w_i) of pictures to look at (Kontext); all are picture 1, laid out
        beside each other, or, with increase_index, pictures 1, 2 and so on.
        """
        vec = self.time_in(self._sinusoids(t, x)) + self.vector_in(vector)  # (b, D)
        if self.guidance_in is not None:
            assert guidance is not None, "the family gives it"
            vec = vec + self.guidance_in(self._sinusoids(guidance, x))
        vec = nn.functional.silu(vec)
        tokens = patchify(x)
        if concat is not None:
            tokens = torch.cat((tokens, patchify(concat)), dim=-1)
        out = self.run(
            (tokens, *map(patchify, references)),
            torch.cat((image_positions(x), *reference_positions(references, increase_index))),
            context,
            double_vecs=[(vec, vec)] * len(self.double_blocks),
            single_vecs=[vec] * len(self.single_blocks),
            last_vec=vec,
        )
        return unpatchify(out, *x.shape[2:])

    def _sinusoids(self, values: Tensor, like: Tensor) -> Tensor:
        return timestep_embedding(values * _TIME_FACTOR, self.time_dim).to(like.dtype)


def reference_positions(references: Sequence[Tensor], increase_index: bool) -> list[Tensor]:
    """Where the tokens of each reference (b, c, h, w) are, (l_i, 3): the picture's number, row and column.

    Those that are one picture lie beside or under each other, so that the whole is as square as it can be:
    ComfyUI's rule. (stable-diffusion.cpp's leaves gaps: it takes latent pixels for tokens there.)
    """
    if increase_index:
        return [image_positions(latent, number=number) for number, latent in enumerate(references, start=1)]
    placed: list[Tensor] = []
    height = width = 0  # of the whole
    for latent in references:
        rows, columns = (side // PATCH for side in latent.shape[2:])
        top, left = (0, width) if height + rows > width + columns else (height, 0)
        placed.append(image_positions(latent, number=1, top=top, left=left))
        height, width = max(height, top + rows), max(width, left + columns)
    return placed
