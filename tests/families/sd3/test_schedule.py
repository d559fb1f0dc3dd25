"""The noise levels of the family's defaults against diffusers' scheduler with Stability's configuration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from darkroom.api.names import PredictionType, Scheduler
from darkroom.sampling.prediction import make_prediction
from darkroom.sampling.schedules import get_sigmas

STEPS = pytest.mark.parametrize("steps", [4, 28, 40])


def ours(steps: int) -> torch.Tensor:
    return get_sigmas(Scheduler.DISCRETE, steps, make_prediction(PredictionType.SD3_FLOW, shift=3.0))


@STEPS
def test_levels_are_shifted_once(steps: int) -> None:
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    theirs.set_timesteps(sigmas=np.linspace(1.0, 1 / 1000, steps))
    torch.testing.assert_close(ours(steps), theirs.sigmas, rtol=1e-5, atol=1e-6)


@STEPS
def test_stabilitys_own_levels_are_near(steps: int) -> None:
    """Stability's code and diffusers shift the lowest level twice: 0.0089 instead of 0.0030."""
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    theirs.set_timesteps(steps)
    assert (ours(steps) - theirs.sigmas).abs().max() < 0.006
