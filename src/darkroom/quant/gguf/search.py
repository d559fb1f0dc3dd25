"""The scales that lose least: how the encoders choose what a block's small integers are multiplied by.

The searches are ggml's (ggml-quants.c, MIT: make_qx_quants, make_qkx3_quants, make_qp_quants), by Iwan
Kawrakow: try rounding with factors around the obvious one, keep the one whose least-squares scale leaves the
least weighted error. Here all groups of a chunk are tried at once, a group in a column, so that sums run
along whole rows of memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-15
"""Groups whose values are all smaller count as zero."""


def fit_symmetric(x: Tensor, weight: Tensor | None, levels: int) -> Tensor:
    """Scales s for x ~ s q with whole q from -levels to levels - 1.

    x, weight: float32 (group, n), weight None where all values count the same  ->  (n,), negative for groups
    whose value farthest from zero is positive.
    """
    extreme = x.gather(0, x.abs().argmax(0, keepdim=True)).squeeze(0)
    inverse = torch.where(extreme.abs() < EPSILON, 0, -1 / extreme)
    weighted = x if weight is None else x * weight
    scale, best = torch.zeros_like(extreme), torch.zeros_like(extreme)
    q, product = torch.empty_like(x), torch.empty_like(x)
    for offset in range(-9, 10):
        torch.mul(x, inverse * (levels + 0.1 * offset), out=q).round_().clamp_(-levels, levels - 1)
        along = torch.mul(weighted, q, out=product).sum(0)
        square = (q.square_() if weight is None else q.square_().mul_(weight)).sum(0)
        gain = torch.where(square > 0, along * along / square, 0)
        scale = torch.where(gain > best, along / square, scale)
        best = torch.maximum(gain, best)
    return scale


def fit_affine(x: Tensor, weight: Tensor | None, levels: int, *, through_zero: bool) -> tuple[Tensor, Tensor]:
    """Scales s and least values m for x ~ s q + m with whole q from 0 to levels.

    x, weight: float32 (group, n), weight None where all values count the same. through_zero: m is never
    positive.  ->  (n,), (n,)
    """
    low, high = x.amin(0), x.amax(0)
    if through_zero:
        low = low.clamp(max=0)
    weighted = x if weight is None else x * weight
    sum_w = torch.full_like(low, len(x)) if weight is None else weight.sum(0)
    sum_x = weighted.sum(0)
    q, product = torch.empty_like(x), torch.empty_like(x)

    def sums(factor: float) -> tuple[Tensor, Tensor, Tensor]:
        """Of q, q^2 and x q, for q that are rounded with about `factor` steps from low to high."""
        inverse = torch.where(high > low, factor / (high - low), 0)
        torch.sub(x, low, out=q).mul_(inverse).round_().clamp_(0, levels)
        product.copy_(q) if weight is None else torch.mul(q, weight, out=product)
        sum_q, sum_q2 = product.sum(0), product.mul_(q).sum(0)
        return sum_q, sum_q2, q.mul_(weighted).sum(0)

    sum_q, sum_q2, sum_xq = sums(levels)
    scale = s = (high - low) / levels
    m = low
    # what the error is less than that of x alone
    best = 2 * (s * sum_xq + m * sum_x - s * m * sum_q) - s * s * sum_q2 - m * m * sum_w
    for step in range(37):
        sum_q, sum_q2, sum_xq = sums(levels - 0.9 + 0.05 * step)
        determinant = sum_w * sum_q2 - sum_q * sum_q
        s = (sum_w * sum_xq - sum_x * sum_q) / determinant
        m = (sum_q2 * sum_x - sum_q * sum_xq) / determinant
        if through_zero:
            s, m = torch.where(m > 0, sum_xq / sum_q2, s), m.clamp(max=0)
        gain = s * sum_xq + m * sum_x
        better = (determinant > 0) & (gain > best)
        best = torch.where(better, gain, best)
        scale, low = torch.where(better, s, scale), torch.where(better, m, low)
    return scale, low


def fit_positive(x: Tensor, weight: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Scales s and whole q from 0 to levels for x ~ s q, x not negative: scales of scales.

    x, weight: float32 (group, n)  ->  (n,), (group, n)
    """
    top = x.amax(0)
    inverse = torch.where(top < EPSILON, 0, 1 / top)
    factor, best = inverse * levels, torch.full_like(top, torch.inf)
    for offset in (0, -4, -3, -2, -1, 1, 2, 3, 4):
        candidate = inverse * (levels + 0.1 * offset)
        q = (x * candidate).round_().clamp_(max=levels)
        error = ((x - q / candidate).square_() * weight).sum(0)
        factor = torch.where(error < best, candidate, factor)
        best = torch.minimum(error, best)
    q = (x * factor).round_().clamp_(max=levels)
    return _descend(x, weight, q, levels), q


def _descend(x: Tensor, weight: Tensor, q: Tensor, levels: int) -> Tensor:
    """Moves single q, in place, as long as that leaves less error; the least-squares scales of the result."""
    along, square = (weight * x * q).sum(0), (weight * q * q).sum(0)
    for _ in range(5):
        before = q.clone()
        for value, w, own in zip(x, weight, q, strict=True):
            rest_along, rest_square = along - w * value * own, square - w * own * own
            moved = (value * rest_square / rest_along).round_().clamp_(max=levels)
            new_along, new_square = rest_along + w * value * moved, rest_square + w * moved * moved
            better = (rest_along > 0) & (rest_square > 0) & (moved != own)
            better &= new_along * new_along * square > along * along * new_square
            own.copy_(torch.where(better, moved, own))
            along, square = torch.where(better, new_along, along), torch.where(better, new_square, square)
        if torch.equal(before, q):
            break
    return torch.where(square > 0, along / square, 0)


def fit_table(x: Tensor, weight: Tensor, table: Tensor, nearest: Tensor) -> Tensor:
    """Scales s for x ~ s t with t from a table of 16 values, the first the farthest from zero.

    x, weight: float32 (group, n). nearest: the value for each number from -256 to 255, twice what is looked
    up, rounded down.  ->  (n,)
    """
    extreme = x.gather(0, x.abs().argmax(0, keepdim=True)).squeeze(0)
    inverse = torch.where(extreme.abs() < EPSILON, 0, 1 / extreme)
    weighted = x * weight
    scale, best = torch.zeros_like(extreme), torch.zeros_like(extreme)
    first = float(table[0])
    value, product = torch.empty_like(x), torch.empty_like(x)
    for factor in (-first, *(first + offset for offset in range(-7, 8))):
        at = half_steps(torch.mul(x, inverse * factor, out=value))
        torch.index_select(nearest, 0, at.view(-1), out=value.view(-1))
        along = torch.mul(weighted, value, out=product).sum(0)
        square = value.square_().mul_(weight).sum(0)
        gain = torch.where(square > 0, along * along / square, 0)
        scale = torch.where(gain > best, along / square, scale)
        best = torch.maximum(gain, best)
    return scale


def half_steps(values: Tensor) -> Tensor:
    """Where `fit_table`'s `nearest` has each value; `values` is written over."""
    return values.mul_(2).floor_().add_(256).clamp_(0, 511).int()
