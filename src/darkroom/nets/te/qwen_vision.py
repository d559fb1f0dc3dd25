"""Qwen2.5-VL's eyes (arXiv 2502.13923, section 2.1): pictures to embeddings that its decoder reads as tokens.

A transformer over patches of 14x14 pixels. Most blocks attend within windows of 112x112, every eighth to the
whole picture; four neighbouring patches, a cell, become one embedding. Named as Hugging Face names it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darkroom.layers.attention import attention, merge_heads, split_heads
from darkroom.layers.linear import Linear
from darkroom.layers.norm import RMSNorm
from darkroom.layers.rope import apply_rope_halves, rope_table
from darkroom.nets.te.qwen import QwenMLP

# CLIP's, of each colour.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

# What no tensor's shape tells, the same in every published model: the width of a head, patches on a side of
# a cell, cells on a side of a window.
HEAD_WIDTH = 80
CELL = 2
WINDOW = 4
EPS = 1e-6

_BLOCK = re.compile(r"blocks\.(\d+)\.")


@dataclass(frozen=True)
class QwenVisionConfig:
    """The architecture. text_size: the decoder's width. whole_every: of so many blocks the last sees all."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    text_size: int
    patch_size: int
    frames: int
    whole_every: int = 8

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> QwenVisionConfig:
        """Reads the architecture from the shapes of a file's tensors, names without `visual.`.

        Raises KeyError where a tensor that defines the architecture is missing.
        """
        hidden_size, _, frames, patch_size, _ = shapes["patch_embed.proj.weight"]
        most = max(1, hidden_size // HEAD_WIDTH)
        return cls(
            hidden_size=hidden_size,
            intermediate_size=shapes["blocks.0.mlp.gate_proj.weight"][0],
            num_layers=1 + max(int(match[1]) for name in shapes if (match := _BLOCK.match(name))),
            num_heads=next(heads for heads in range(most, 0, -1) if hidden_size % heads == 0),
            text_size=shapes["merger.mlp.2.weight"][0],
            patch_size=patch_size,
            frames=frames,
        )


class View(NamedTuple):
    """What tokens see each other. rope: (b, l, d/2, 2). mask: (b, 1, 1, l) bool, or None for all tokens."""

    rope: Tensor
    mask: Tensor | None

    def repeat(self, batch: int) -> View:
        """The same for each of several pictures."""
        mask = None if self.mask is None else self.mask.repeat(batch, 1, 1, 1)
        return View(self.rope.repeat(batch, 1, 1, 1), mask)


class QwenVisionAttention(nn.Module):
    """Multi-head self-attention, x, residual: (b, l, D)  ->  (b, l, D)."""

    def __init__(self, config: QwenVisionConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, view: View, residual: Tensor) -> Tensor:  # noqa: D102
        q, k, v = (split_heads(part, self.num_heads) for part in self.qkv(x).chunk(3, dim=-1))  # (b, n, l, d)
        q, k = apply_rope_halves(q, view.rope), apply_rope_halves(k, view.rope)
        out: Tensor = self.proj(merge_heads(attention(q, k, v, view.mask)), residual)
        return out


class QwenVisionBlock(nn.Module):
    """Pre-norm transformer block, x: (b, l, D)  ->  (b, l, D)."""

    def __init__(self, config: QwenVisionConfig) -> None:
        super().__init__()
        self.norm1 = RMSNorm(config.hidden_size, EPS)
        self.attn = QwenVisionAttention(config)
        self.norm2 = RMSNorm(config.hidden_size, EPS)
        self.mlp = QwenMLP(config.hidden_size, config.intermediate_size, bias=True)

    def forward(self, x: Tensor, view: View) -> Tensor:  # noqa: D102
        x = self.attn(self.norm1(x), view, residual=x)
        out: Tensor = self.mlp(self.norm2(x), residual=x)
        return out


class PatchEmbed(nn.Module):
    """Patches to vectors: a convolution over a few frames, which for a still picture are all the same.

    patches: (b, l, c*p*p)  ->  (b, l, D)
    """

    def __init__(self, config: QwenVisionConfig) -> None:
        super().__init__()
        kernel = (config.frames, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(3, config.hidden_size, kernel, kernel, bias=False)

    def forward(self, patches: Tensor) -> Tensor:  # noqa: D102
        weight = self.proj.weight  # (D, c, t, p, p)
        b, l, _ = patches.shape
        frames = patches.view(b, l, weight.shape[1], 1, -1).expand(-1, -1, -1, weight.shape[2], -1)
        return F.linear(frames.flatten(2).to(weight.dtype), weight.flatten(1))


class PatchMerger(nn.Module):
    """The patches of a cell to one embedding, x: (b, l, D)  ->  (b, l / 4, D_text)."""

    def __init__(self, config: QwenVisionConfig) -> None:
        super().__init__()
        width = config.hidden_size * CELL**2
        self.ln_q = RMSNorm(config.hidden_size, EPS)
        self.mlp = nn.Sequential(Linear(width, width), nn.GELU(), Linear(width, config.text_size))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = self.mlp(self.ln_q(x).reshape(len(x), x.shape[1] // CELL**2, -1))
        return out


class QwenVisionModel(nn.Module):
    """The vision tower. Tokens stand in windows, those at the right and lower edges padded to whole ones."""

    def __init__(self, config: QwenVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.blocks = nn.ModuleList(QwenVisionBlock(config) for _ in range(config.num_layers))
        self.merger = PatchMerger(config)

    def forward(self, pixels: Tensor) -> Tensor:
        """What the decoder reads in the place of image tokens, row by row.

        pixels: (b, 3, H, W) in [0, 1], sides multiples of 28 (`smart_size`)  ->  (b, H/28 * W/28, D_text)
        """
        size = self.config.patch_size
        (b, _, height, width), side = pixels.shape, size * CELL
        rows, columns = height // side, width // side  # of cells
        x = self.patch_embed(_in_windows(normalised(pixels), size).flatten(2))  # (b, l, D)
        whole, windows = (view.repeat(b) for view in self._views(rows, columns, pixels.device))
        for number, block in enumerate(self.blocks, start=1):
            view = whole if number % self.config.whole_every == 0 else windows
            x = block(x.reshape(len(view.rope), -1, x.shape[-1]), view)
        cells = self.merger(x.reshape(b, -1, x.shape[-1]))  # (b, l / 4, D_text)
        return _in_rows(cells, rows, columns)

    def _views(self, rows: int, columns: int, device: torch.device) -> tuple[View, View]:
        """Of the whole picture, (1, l), and of its windows, (windows, l / windows), for rows of cells."""
        height, width = rows * CELL, columns * CELL
        y, x = torch.meshgrid(
            torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
        )
        places = _in_windows(torch.stack((y, x, torch.ones_like(y)))[None], 1).view(-1, 3)  # (l, 3)
        half = self.config.hidden_size // self.config.num_heads // 2
        rope = rope_table(places[:, :2], (half, half))  # (l, d/2, 2)
        real = places[:, 2].bool() if rows % WINDOW or columns % WINDOW else None  # (l,)
        windows = math.ceil(rows / WINDOW) * math.ceil(columns / WINDOW)
        whole, apart = (
            View(
                rope.view(parts, -1, *rope.shape[1:]),
                None if real is None else real.view(parts, 1, 1, -1),
            )
            for parts in (1, windows)
        )
        return whole, apart


def _in_windows(x: Tensor, patch: int) -> Tensor:
    """Patches by window, then by cell, the edges padded with 0: (b, c, H, W)  ->  (b, l, c, p, p)."""
    side = patch * CELL * WINDOW
    x = F.pad(x, (0, -x.shape[3] % side, 0, -x.shape[2] % side))
    b, c, height, width = x.shape
    within = (WINDOW, CELL, patch)
    x = x.view(b, c, height // side, *within, width // side, *within)
    return x.permute(0, 2, 6, 3, 7, 4, 8, 1, 5, 9).reshape(b, -1, c, patch, patch)


def _in_rows(cells: Tensor, rows: int, columns: int) -> Tensor:
    """Cells by window to cells by row: (b, l, D)  ->  (b, rows * columns, D), without what was padded."""
    across = math.ceil(columns / WINDOW)
    x = cells.view(len(cells), -1, across, WINDOW, WINDOW, cells.shape[-1]).transpose(2, 3)
    return x.flatten(3, 4).flatten(1, 2)[:, :rows, :columns].flatten(1, 2)


def normalised(pixels: Tensor) -> Tensor:
    """Colours with CLIP's means and deviations taken out; pixels: (b, 3, H, W) in [0, 1]."""
    colours = zip(pixels.unbind(1), MEAN, STD, strict=True)
    return torch.stack([(colour - mean) / std for colour, mean, std in colours], dim=1)


def smart_size(
    width: int, height: int, *, min_pixels: int = 56**2, max_pixels: int = 1280 * 28**2, multiple: int = 28
) -> tuple[int, int]:
    """The size nearest to a picture's whose sides are multiples and whose pixels are not too many or few.

    Qwen2-VL's smart_resize. The proportions are kept as far as the multiples allow.
    """

    def scaled(factor: float, rounding: Callable[[float], int]) -> tuple[int, int]:
        across, down = (max(1, rounding(side * factor / multiple)) for side in (width, height))
        return across * multiple, down * multiple

    across, down = round(width / multiple) * multiple, round(height / multiple) * multiple
    if across * down > max_pixels:
        return scaled(math.sqrt(max_pixels / (width * height)), math.floor)
    if across * down < min_pixels:
        return scaled(math.sqrt(min_pixels / (width * height)), math.ceil)
    return across, down
