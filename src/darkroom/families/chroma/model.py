"""Chroma (lodestone-rock/flow), Flux schnell whose modulations one small network computes, in its names."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from darkroom.layers.embed import timestep_embedding
from darkroom.layers.linear import Linear
from darkroom.nets.flux_blocks import (
    DOUBLE_ROWS,
    LAST_ROWS,
    SINGLE_ROWS,
    MLPEmbedder,
    RMSNorm,
    Shapes,
    StreamsConfig,
    StreamsTransformer,
    image_positions,
)
from darkroom.nets.patches import patchify, unpatchify

# The embeddings take time, guidance and row times this.
_FACTOR = 1000.0

_LAYER = re.compile(r"distilled_guidance_layer\.layers\.(\d+)\.")


@dataclass(frozen=True)
class ChromaNetConfig:
    """The architecture. approximator_*: of the network that computes the modulations."""

    streams: StreamsConfig
    approximator_in: int = 64
    approximator_size: int = 5120
    approximator_layers: int = 5

    @property
    def modulation_rows(self) -> int:
        """Shifts, scales and gates of the whole network: 344 in Chroma."""
        streams = self.streams
        return SINGLE_ROWS * streams.depth_single + 2 * DOUBLE_ROWS * streams.depth + LAST_ROWS

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> ChromaNetConfig:
        """Reads the architecture from the shapes of a file's tensors, prefix stripped.

        Raises KeyError where a tensor that defines the architecture is missing.
        """
        size, width_in = shapes["distilled_guidance_layer.in_proj.weight"]
        layers = [int(match[1]) for name in shapes if (match := _LAYER.match(name))]
        return cls(
            StreamsConfig.from_shapes(shapes),
            approximator_in=width_in,
            approximator_size=size,
            approximator_layers=1 + max(layers, default=-1),
        )


class Approximator(nn.Module):
    """Residual layers over what names a row, the time and the guidance, x: (b, rows, d)  ->  (b, rows, D)."""

    def __init__(self, config: ChromaNetConfig) -> None:
        super().__init__()
        size = config.approximator_size
        self.in_proj = Linear(config.approximator_in, size)
        self.layers = nn.ModuleList(MLPEmbedder(size, size) for _ in range(config.approximator_layers))
        self.norms = nn.ModuleList(RMSNorm(size) for _ in range(config.approximator_layers))
        self.out_proj = Linear(size, config.streams.hidden_size)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = self.in_proj(x)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + layer(norm(x))
        out: Tensor = self.out_proj(x)
        return out


class Chroma(StreamsTransformer):
    """The velocity, noise - latent, of a noisy latent at a time between 0 (clean) and 1 (noise)."""

    def __init__(self, config: ChromaNetConfig) -> None:
        super().__init__(config.streams, modulation=_given, last_modulation=_given)
        self.config = config
        self.distilled_guidance_layer = Approximator(config)

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """x: (b, c, h, w), t: (b,), context: (b, s, context_dim)  ->  (b, c, h, w)."""
        streams = self.config.streams
        rows = self.distilled_guidance_layer(self._row_inputs(t).to(x.dtype))  # (b, rows, D)
        counts = [SINGLE_ROWS] * streams.depth_single + [DOUBLE_ROWS] * 2 * streams.depth + [LAST_ROWS]
        vecs = torch.split(rows, counts, dim=1)
        single, double = vecs[: streams.depth_single], vecs[streams.depth_single : -1]
        out = self.run(
            (patchify(x),),
            image_positions(x),
            context,
            double_vecs=list(zip(double[: streams.depth], double[streams.depth :], strict=True)),
            single_vecs=single,
            last_vec=vecs[-1],
        )
        return unpatchify(out, *x.shape[2:])

    def _row_inputs(self, t: Tensor) -> Tensor:
        """Sinusoids of time, guidance (always 0: it was distilled away) and row, (b, rows, d) float32."""
        width, count = self.config.approximator_in, self.config.modulation_rows
        time = timestep_embedding(t * _FACTOR, width // 4)  # (b, d/4)
        guidance = timestep_embedding(torch.zeros_like(t), width // 4)
        row = timestep_embedding(torch.arange(count, device=t.device) * _FACTOR, width // 2)  # (rows, d/2)
        same = torch.cat((time, guidance), dim=-1)[:, None].expand(-1, count, -1)
        return torch.cat((same, row.expand(len(t), -1, -1)), dim=-1)


def _given(rows: int) -> nn.Module:
    """A block's modulation that is computed already."""
    return nn.Identity()
