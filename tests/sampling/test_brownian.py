"""Equality with stable-diffusion.cpp's tree is seen in test_samplers.py (dpm++2m_sde_bt)."""

from __future__ import annotations

import pytest
import torch

from darkroom.sampling.brownian import BrownianNoise, BrownianPath


@pytest.fixture(scope="module")
def path() -> BrownianPath:
    return BrownianPath(42, (20_000,), 0.1, 9.1)


def test_paths_start_at_zero_and_have_the_variance_of_the_time_gone(path: BrownianPath) -> None:
    assert path.at(0.1).abs().max() == 0
    for t in (0.7, 4.6, 8.0, 9.1):
        assert float(path.at(t).var()) == pytest.approx(t - 0.1, rel=0.05)


def test_increments_are_independent(path: BrownianPath) -> None:
    first, second = path.at(2.0) - path.at(0.5), path.at(5.0) - path.at(2.0)
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.03


def test_the_order_of_questions_does_not_matter() -> None:
    forward, backward = (BrownianPath(7, (50,), 0.0, 1.0) for _ in range(2))
    times = [0.2, 0.21, 0.5, 0.8]
    seen = {t: forward.at(t) for t in times}
    assert all(torch.equal(backward.at(t), seen[t]) for t in reversed(times))


def test_times_outside_count_as_the_ends(path: BrownianPath) -> None:
    assert torch.equal(path.at(20.0), path.at(9.1))
    assert torch.equal(path.at(0.0), path.at(0.1))


def test_noise_between_levels_is_standard_normal() -> None:
    noise = BrownianNoise([1, 2], (1, 100, 100), 0.03, 14.6)
    drawn = noise.between(5.0, 3.5, torch.empty(2, 1, 100, 100))
    assert drawn.shape == (2, 1, 100, 100)
    assert float(drawn.std()) == pytest.approx(1.0, rel=0.02)
    assert not torch.equal(drawn[0], drawn[1])
