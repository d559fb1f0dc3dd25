"""The toy model of the golden numbers, and the numbers themselves (tests/data/golden/sampling/README.md)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from darkroom.api.names import RngType
from darkroom.sampling.extra_args import parse_extra_args
from darkroom.sampling.noise import NoiseSource
from darkroom.sampling.samplers import Denoise, Denoised, SampleOptions, Sampler

GOLDEN = Path(__file__).parents[1] / "data/golden/sampling"


def read_golden(name: str) -> dict[str, list[dict[str, object]]]:
    return json.loads((GOLDEN / name).read_text())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`schedule_golden` and `sampler_golden` run over all cases of stable-diffusion.cpp's numbers."""
    for fixture, part in (("schedule_golden", "schedules"), ("sampler_golden", "samplers")):
        if fixture in metafunc.fixturenames:
            cases = read_golden("sd_cpp.json")[part]
            metafunc.parametrize(fixture, cases, ids=["-".join(map(str, case["case"])) for case in cases])


@pytest.fixture(scope="session")
def k_diffusion() -> dict[str, list[float]]:
    return json.loads((GOLDEN / "k_diffusion.json").read_text())


@pytest.fixture(scope="session")
def toy_model() -> Callable[[bool], Denoise]:
    """The exact denoiser of N(m, 1/4), bent by tanh, for flows or not."""

    def make(is_flow: bool) -> Denoise:
        def denoise(x: Tensor, sigma: float) -> Denoised:
            i = torch.arange(float(x[0].numel())).reshape(x.shape[1:])
            alpha = 1 - sigma if is_flow else 1.0
            mean = (0.3 * torch.sin(0.7 * i) + 0.1) * sigma**2 + 0.25 * alpha * x
            mean = mean / (0.25 * alpha**2 + sigma**2)
            out = mean + 0.1 * torch.tanh(mean)
            return Denoised(out, 0.9 * out + 0.02)

        return denoise

    return make


@pytest.fixture(scope="session")
def run() -> Callable[..., Tensor]:
    """A sampler's last x. Noise: `cuda`, seed 1234, its first call for the start as in the golden runs."""

    def run_sampler(
        sampler: Sampler,
        denoise: Denoise,
        sigmas: Tensor,
        *,
        start: Tensor | None = None,
        shape: tuple[int, ...] = (2, 3, 4),
        eta: float = 0.0,
        is_flow: bool = False,
        extra: str = "",
    ) -> Tensor:
        noise = NoiseSource([1234], RngType.CUDA)
        x = noise.initial(shape) * sigmas[0]
        options = SampleOptions(eta, is_flow, parse_extra_args(extra))
        *_, last = sampler(denoise, x if start is None else start, sigmas, noise, options)
        return last.x

    return run_sampler
