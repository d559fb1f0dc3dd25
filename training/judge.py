"""Looks at pixels and says what is there: the background's colour, the object's colour, the object's shape.

It knows nothing of captions or models. Colours are compared in CIELAB, with the palette; the shape is the
template whose silhouette overlaps best (intersection over union) once brought to the same place and area.
tests/training checks it against pictures whose content is known.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from training.domain import COLOURS, SHAPES
from training.shapes import distance, palette

GRID = 64
ANGLES = tuple(math.radians(a) for a in range(-24, 25, 4))


class Verdict(NamedTuple):
    """What one picture shows. area: the object's share of the picture; iou: overlap with its template."""

    shape: str
    colour: str
    background: str
    area: float
    iou: float


def lab(rgb: Tensor) -> Tensor:
    """sRGB in [0, 1] to CIELAB under D65, (..., 3)  ->  (..., 3)."""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb.clamp(min=0) + 0.055) / 1.055) ** 2.4)
    to_xyz = rgb.new_tensor(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    xyz = linear @ to_xyz.T / rgb.new_tensor([0.95047, 1.0, 1.08883])
    f = torch.where(xyz > 0.008856, xyz.clamp(min=1e-9) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = f.unbind(-1)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), -1)


def nearest_colour(colour: Tensor) -> str:
    """The palette's colour that is nearest to a CIELAB colour (3,)."""
    distances = (lab(palette(colour.device)) - colour).norm(dim=-1)
    return COLOURS[int(distances.argmin())]


def judge(picture: Tensor) -> Verdict:
    """What a picture (3, h, w) in [-1, 1] shows."""
    pixels = lab(((picture.float() + 1) / 2).clamp(0, 1).permute(1, 2, 0))  # (h, w, 3)
    ground = _border(pixels).median(dim=0).values
    mask = _object(pixels, ground)
    if int(mask.sum()) < 50:
        return Verdict("nothing", "nothing", nearest_colour(ground), 0.0, 0.0)
    inside = mask & (F.avg_pool2d(mask[None].float(), 7, 1, 3)[0] > 0.99)
    body = pixels[inside if int(inside.sum()) > 30 else mask]
    silhouette = _normalised(mask)
    templates = _templates(picture.device).flatten(1)
    both = (templates * silhouette.flatten()).sum(1)
    iou = both / (templates.sum(1) + silhouette.sum() - both)
    best = int(iou.argmax())
    return Verdict(
        SHAPES[best // len(ANGLES)],
        nearest_colour(body.median(dim=0).values),
        nearest_colour(ground),
        float(mask.float().mean()),
        float(iou[best]),
    )


def _border(pixels: Tensor) -> Tensor:
    edge = max(2, pixels.shape[0] // 40)
    return torch.cat(
        [part.flatten(0, 1) for part in (pixels[:edge], pixels[-edge:], pixels[:, :edge], pixels[:, -edge:])]
    )


def _object(pixels: Tensor, ground: Tensor) -> Tensor:
    """The pixels nearer to the object's colour than to the background's, (h, w) bool.

    A shadow is a darker background, so lightness weighs less where the colours differ in hue.
    """
    off = (pixels - ground) * pixels.new_tensor([0.7, 1.0, 1.0])
    distance_to_ground = off.norm(dim=-1)
    top = float(distance_to_ground.flatten().kthvalue(int(0.995 * distance_to_ground.numel())).values)
    if top < 12:
        return torch.zeros_like(distance_to_ground, dtype=torch.bool)
    thing = off[distance_to_ground > 0.75 * top].median(dim=0).values
    along = (off @ thing) / (thing @ thing)
    mask = along > 0.5
    return F.avg_pool2d(mask[None].float(), 5, 1, 2)[0] > 0.5


def _normalised(mask: Tensor) -> Tensor:
    """A silhouette (h, w) moved to its centroid and scaled to the templates' area, (GRID, GRID) in 0 or 1."""
    height, width = mask.shape
    ys, xs = mask.nonzero().float().unbind(1)
    scale = math.sqrt(len(ys))  # its side, were it a square
    steps = (torch.arange(GRID, device=mask.device) + 0.5) / GRID * 2 - 1
    y = (ys.mean() + steps * 1.1 * scale + 0.5) / height * 2 - 1
    x = (xs.mean() + steps * 1.1 * scale + 0.5) / width * 2 - 1
    grid = torch.stack((x[None, :].expand(GRID, GRID), y[:, None].expand(GRID, GRID)), -1)
    out = F.grid_sample(mask[None, None].float(), grid[None], align_corners=False)[0, 0]
    return (out > 0.5).float()


@cache
def _templates(device: torch.device) -> Tensor:
    """All shapes at all angles, (shapes * angles, GRID, GRID)."""
    steps = (torch.arange(256, device=device) + 0.5) / 256 * 3 - 1.5
    angle = torch.tensor(ANGLES, device=device)[:, None, None]
    u, v = steps[None, None, :], -steps[None, :, None]
    x, y = u * angle.cos() + v * angle.sin(), v * angle.cos() - u * angle.sin()
    masks = [
        _normalised(one)
        for i in range(len(SHAPES))
        for one in distance(torch.full((len(ANGLES),), i, device=device), x, y) < 0
    ]
    return torch.stack(masks)
