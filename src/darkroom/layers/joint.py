"""Several projections of one input, computed as one matrix product where their weights lie side by side.

`join_weights` lays them side by side: each weight becomes a view of one larger tensor, the names, shapes and
values staying what they were. Whatever later replaces a weight (a move to another device, an adapter) undoes
that for its group, and the projections are computed one by one again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darkroom.layers.linear import Linear


@runtime_checkable
class HasJointProjections(Protocol):
    """A module that applies several projections to the same input."""

    def joint_projections(self) -> Sequence[Sequence[nn.Module]]:
        """The groups; in a group all have the same input, and all or none have a bias."""


def project(x: Tensor, linears: Sequence[nn.Module]) -> tuple[Tensor, ...]:
    """Each of `linears` applied to x: (..., D) -> (..., D_i), views of one result where they are joined."""
    joined = None if torch.is_grad_enabled() or torch.compiler.is_compiling() else _joined(linears)
    if joined is None:
        return tuple(linear(x) for linear in linears)
    weight, bias, widths = joined
    return torch.split(F.linear(x, weight, bias), widths, dim=-1)


def join_weights(net: nn.Module, without: Collection[nn.Module] = ()) -> None:
    """Lays the weights of every group that a module of `net` declares side by side in memory.

    without: modules that are left as they are, with all that is in them.
    """
    left = {id(part) for module in without for part in module.modules()}
    for module in net.modules():
        if id(module) not in left and isinstance(module, HasJointProjections):
            for group in module.joint_projections():
                linears = [linear for linear in group if type(linear) is Linear]
                if len(linears) == len(group):
                    _lay_side_by_side([linear.weight for linear in linears])
                    _lay_side_by_side([linear.bias for linear in linears if linear.bias is not None])


def _lay_side_by_side(parameters: Sequence[Tensor]) -> None:
    if not parameters or _whole(parameters) is not None:
        return
    with torch.no_grad():
        whole = torch.cat(list(parameters))
        parts = torch.split(whole, [len(parameter) for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.data = part


def _joined(modules: Sequence[nn.Module]) -> tuple[Tensor, Tensor | None, list[int]] | None:
    linears = [linear for linear in modules if type(linear) is Linear]
    if len(linears) < len(modules) or (weight := _whole([linear.weight for linear in linears])) is None:
        return None
    biases = [linear.bias for linear in linears if linear.bias is not None]
    bias = _whole(biases) if biases else None
    if biases and bias is None:
        return None
    return weight, bias, [linear.out_features for linear in linears]


def _whole(parts: Sequence[Tensor]) -> Tensor | None:
    """The one tensor whose consecutive rows `parts` are, or None."""
    first = parts[0]
    if len(parts) < 2 or first.is_meta:
        return None
    storage = first.untyped_storage()
    place = first.data_ptr()
    for part in parts:
        is_next = part.data_ptr() == place and part.dtype == first.dtype and part.is_contiguous()
        if not is_next or part.untyped_storage().data_ptr() != storage.data_ptr():
            return None
        place += part.numel() * part.element_size()
    return first.detach().as_strided((sum(map(len, parts)), *first.shape[1:]), first.stride())
