"""Triton kernels for inference on CUDA devices. Import the submodules only where `usable()` says so."""

from __future__ import annotations

import functools
import importlib.util

import torch
from torch import Tensor

_DTYPES = (torch.bfloat16, torch.float16)
_ENABLED = [True]


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def usable(x: Tensor) -> bool:
    """Whether the kernels may take x: half precision, no autograd, the current device, Ampere or later."""
    return (
        x.is_cuda
        and x.dtype in _DTYPES
        and not torch.is_grad_enabled()
        and x.device.index == torch.cuda.current_device()  # where Triton launches
        and usable_on(x.device)
    )


def usable_on(device: torch.device) -> bool:
    """Whether kernels run on `device` when it is the current one, whatever they are given."""
    return device.type == "cuda" and _ENABLED[0] and _has_triton() and _capability(device) >= (8, 0)


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    return (0, 0) if torch.version.hip else torch.cuda.get_device_capability(device)


def set_enabled(enabled: bool) -> None:
    """Turn all kernels on or off for this process: the plain torch operations are the reference."""
    _ENABLED[0] = enabled
