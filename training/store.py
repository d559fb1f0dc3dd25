"""Weights as files: float16 safetensors, and the rounding that the package's token embedding gets."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def save_part(net: nn.Module, path: Path) -> None:
    """Writes a network in float16, under its own names."""
    tensors = {name: t.detach().half().cpu().contiguous() for name, t in net.state_dict().items()}
    save_file(tensors, path)


def load_part(net: nn.Module, path: Path) -> None:
    """Reads what `save_part` wrote."""
    net.load_state_dict(load_file(path))


def round_q4_0(x: Tensor) -> Tensor:
    """Each row as GGUF's q4_0 can hold it: 32 values share a scale, the one farthest from zero is -8 of it.

    x: (n, D), D a multiple of 32  ->  (n, D). Rounding twice changes nothing.
    """
    blocks = x.float().unflatten(-1, (-1, 32))
    extreme = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
    scale = extreme / -8
    steps = torch.where(scale == 0, 8.0, (blocks / scale + 8.5).floor().clamp(0, 15))
    return ((steps - 8) * scale.half().float()).flatten(-2)
