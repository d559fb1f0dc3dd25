"""Kernels run on a GPU in bf16; without one in Triton's interpreter, on the CPU, in float32.

The interpreter needs the triton package and is chosen by an environment variable before kernels are defined.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
import torch
from _pytest.mark import ParameterSet
from torch import Tensor

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Place(NamedTuple):
    """Where a kernel runs, in which type, and how far it may be from float32's result."""

    device: str
    dtype: torch.dtype
    tolerance: float

    def randn(self, *shape: int, scale: float = 1.0) -> Tensor:
        """Random numbers there, channels_last if they are an image."""
        x = (torch.randn(*shape) * scale).to(self.device, self.dtype)
        return x.to(memory_format=torch.channels_last) if x.ndim == 4 else x

    def assert_close(self, result: Tensor, reference: Tensor) -> None:
        """Compares in the norm, relative to the reference."""
        assert result.isfinite().all()
        distance = (result.float() - reference).norm() / reference.norm()
        assert distance < self.tolerance, f"relative distance {distance:.2e}"


def real_size(*values: object) -> ParameterSet:
    """A case of a size that only a GPU runs through in no time."""
    return pytest.param(*values, marks=[pytest.mark.gpu, NEEDS_GPU])


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("needs the triton package")
    has_gpu = torch.cuda.is_available()
    if has_gpu != (request.param == "cuda"):
        pytest.skip(
            "needs a CUDA device" if request.param == "cuda" else "kernels are compiled for the GPU here"
        )
    if not has_gpu and np.lib.NumpyVersion(np.__version__) >= "2.4.0":
        pytest.skip("Triton's interpreter needs numpy below 2.4")
    torch.manual_seed(0)
    with torch.inference_mode():
        yield Place("cuda", torch.bfloat16, 1e-2) if has_gpu else Place("cpu", torch.float32, 1e-5)
