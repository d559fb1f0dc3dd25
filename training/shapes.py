"""Draws scenes: signed distance functions, light, shade and shadow, all batched on the device.

The distance functions are Inigo Quilez's (iquilezles.org/articles/distfunctions2d), y up, negative inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from training.domain import PALETTE, SHAPES
from training.scenes import Scenes

Point = tuple[Tensor, Tensor]


def _circle(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 0.92


def _box(x: Tensor, y: Tensor, half_width: float, half_height: float) -> Tensor:
    dx, dy = x.abs() - half_width, y.abs() - half_height
    return torch.hypot(dx.clamp(min=0), dy.clamp(min=0)) + torch.maximum(dx, dy).clamp(max=0)


def _square(x: Tensor, y: Tensor) -> Tensor:
    return _box(x, y, 0.72, 0.72) - 0.06


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    k, r = math.sqrt(3.0), 0.90
    x, y = x.abs() - r, y + 0.22 + r / k
    folded = x + k * y > 0
    x, y = torch.where(folded, (x - k * y) / 2, x), torch.where(folded, (-k * x - y) / 2, y)
    x = x - x.clamp(-2 * r, 0)
    return -torch.hypot(x, y) * y.sign() - 0.04


def _star(x: Tensor, y: Tensor) -> Tensor:
    c, s, inner = 0.809016994, 0.587785252, 0.46
    x = x.abs()
    d = 2 * (c * x - s * y).clamp(min=0)
    x, y = x - d * c, y + d * s
    d = 2 * (-c * x - s * y).clamp(min=0)
    x, y = x + d * c, y + d * s
    x, y = x.abs(), y - 0.97
    ax, ay = inner * s, inner * c - 1
    h = ((x * ax + y * ay) / (ax * ax + ay * ay)).clamp(0, 1)
    return torch.hypot(x - ax * h, y - ay * h) * (y * ax - x * ay).sign() - 0.03


def _heart(x: Tensor, y: Tensor) -> Tensor:
    scale = 1.55
    x, y = (x / scale).abs(), y / scale + 0.56
    round_part = torch.hypot(x - 0.25, y - 0.75) - math.sqrt(2) / 4
    m = 0.5 * (x + y).clamp(min=0)
    flat_part = torch.minimum(torch.hypot(x, y - 1), torch.hypot(x - m, y - m)) * (x - y).sign()
    return torch.where(x + y > 1, round_part, flat_part) * scale


def _hexagon(x: Tensor, y: Tensor) -> Tensor:
    c, s, t, r = -math.sqrt(3) / 2, 0.5, math.sqrt(3) / 3, 0.82
    x, y = x.abs(), y.abs()
    d = 2 * (c * x + s * y).clamp(max=0)
    x, y = x - d * c, y - d * s
    x, y = x - x.clamp(-t * r, t * r), y - r
    return torch.hypot(x, y) * y.sign()


def _diamond(x: Tensor, y: Tensor) -> Tensor:
    bx, by = 0.64, 0.98
    x, y = x.abs(), y.abs()
    h = ((bx * (bx - 2 * x) - by * (by - 2 * y)) / (bx * bx + by * by)).clamp(-1, 1)
    d = torch.hypot(x - 0.5 * bx * (1 - h), y - 0.5 * by * (1 + h))
    return d * (x * by + y * bx - bx * by).sign()


def _cross(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(_box(x, y, 0.90, 0.27), _box(x, y, 0.27, 0.90)) - 0.03


def _ring(x: Tensor, y: Tensor) -> Tensor:
    return (torch.hypot(x, y) - 0.70).abs() - 0.23


def _moon(x: Tensor, y: Tensor) -> Tensor:
    d, outer, inner = 0.456, 0.94, 0.76
    x, y = 0.965 * x + 0.262 * y, (0.965 * y - 0.262 * x).abs()
    a = (outer**2 - inner**2 + d**2) / (2 * d)
    b = math.sqrt(outer**2 - a**2)
    crescent = torch.maximum(torch.hypot(x, y) - outer, inner - torch.hypot(x - d, y))
    return torch.where(x * b - y * a > d * (b - y).clamp(min=0), torch.hypot(x - a, y - b), crescent)


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "hexagon": _hexagon,
    "diamond": _diamond,
    "cross": _cross,
    "ring": _ring,
    "moon": _moon,
}


def distance(shape: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Signed distance of points to shapes of radius about 1.

    shape: (b,) index of SHAPES, x, y: (b, h, w), y up  ->  (b, h, w)
    """
    out = torch.empty_like(x)
    for i in range(len(SHAPES)):
        rows = (shape == i).nonzero().squeeze(1)
        if len(rows):
            out[rows] = DISTANCES[SHAPES[i]](x[rows], y[rows])
    return out


@cache
def palette(device: torch.device) -> Tensor:
    """(colours, 3) in [0, 1]."""
    return torch.tensor(list(PALETTE.values()), device=device, dtype=torch.float32) / 255


@torch.no_grad()
def draw(scenes: Scenes, height: int = 256, width: int = 256) -> Tensor:
    """Pictures of the scenes, (b, 3, height, width) in [-1, 1]."""
    device = scenes.layout.device
    ys = ((torch.arange(height, device=device) + 0.5) / height)[None, :, None]
    xs = ((torch.arange(width, device=device) + 0.5) / width)[None, None, :]
    image = _ground(scenes, xs, ys)
    pair = scenes.layout > 0
    for i in (0, 1):
        rows = pair.nonzero().squeeze(1) if i else torch.arange(len(scenes), device=device)
        if len(rows):
            image[rows] = _with_object(image[rows], scenes, rows, i, xs, ys)
    return image.clamp(0, 1) * 2 - 1


def _ground(scenes: Scenes, xs: Tensor, ys: Tensor) -> Tensor:
    """A wall of one colour, a little lighter where the lamp is, a little darker away from it."""
    colour = palette(scenes.layout.device)[scenes.background][:, :, None, None]  # (b, 3, 1, 1)
    lx, ly, strength = (v[:, None, None] for v in scenes.light.unbind(1))
    lamp = torch.exp(-((xs - 0.5 - 0.2 * lx) ** 2 + (ys - 0.4 - 0.15 * ly) ** 2) / 0.3)[:, None]
    shade = (0.88 + 0.14 * lamp) * (1 + 0.02 * strength[:, None])
    return colour * shade + 0.035 * lamp * (1 - colour)


def _with_object(image: Tensor, scenes: Scenes, rows: Tensor, i: int, xs: Tensor, ys: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    short = min(height, width)
    centre, radius = scenes.centre[rows, i], scenes.radius[rows, i][:, None, None]
    u = (xs - centre[:, 0, None, None]) * (width / short) / radius  # (b, h, w), right
    v = -(ys - centre[:, 1, None, None]) * (height / short) / radius  # up
    angle = scenes.rotation[rows, i][:, None, None]
    shape = scenes.shape[rows, i]

    def at(u: Tensor, v: Tensor) -> Tensor:
        return distance(shape, u * angle.cos() + v * angle.sin(), v * angle.cos() - u * angle.sin())

    shadow = 0.34 * torch.sigmoid(-at(u - 0.10, v + 0.16) / 0.07)
    image = image * (1 - shadow[:, None])

    d = at(u, v)
    cover = (0.5 - d * radius * short).clamp(0, 1)[:, None]
    colour = palette(image.device)[scenes.colour[rows, i]][:, :, None, None]
    slope = ((0.45 * v - 0.35 * u) * 0.85).clamp(-1, 1)[:, None]  # towards the lamp, up and left
    rim = torch.exp(d.clamp(max=0) / 0.09)[:, None]
    body = colour * (1 + 0.13 * slope - 0.10 * rim + 0.10 * rim * slope)
    gloss = 0.30 * torch.exp(-((u + 0.30) ** 2 + (v - 0.36) ** 2) / 0.05) * (-d / 0.12).clamp(0, 1)
    light = (0.05 * slope.clamp(min=0) + gloss[:, None]) * (1 - colour).clamp(max=0.85)
    return torch.lerp(image, (body + light).clamp(0, 1), cover)
