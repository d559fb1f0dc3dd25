from __future__ import annotations

import pytest
import torch

from darkroom.api.errors import RequestError
from darkroom.api.names import PredictionType, SampleMethod, Scheduler
from darkroom.sampling.extra_args import ExtraArgs, parse_extra_args
from darkroom.sampling.prediction import Prediction, make_prediction
from darkroom.sampling.schedules import custom_sigmas, default_scheduler, get_sigmas, slice_for_strength

EPS = make_prediction(PredictionType.EPS)
FLOW = make_prediction(PredictionType.SD3_FLOW)
NONE = ExtraArgs()


def test_sigmas_equal_stable_diffusion_cpps(schedule_golden: dict[str, list[float]]) -> None:
    kind, scheduler, steps, variant, tokens, extra = schedule_golden["case"]
    prediction = make_prediction(PredictionType(kind))
    sigmas = get_sigmas(
        Scheduler(scheduler), steps, prediction, tokens=tokens, variant=variant, extra=parse_extra_args(extra)
    )
    # Upstream multiplies its alphas up in float32, which shows at the small end.
    torch.testing.assert_close(sigmas, torch.tensor(schedule_golden["sigmas"]), rtol=3e-5, atol=1e-6)


def test_karras_and_exponential_equal_k_diffusions(k_diffusion: dict[str, list[float]]) -> None:
    class Span(type(EPS)):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.sigma_min, self.sigma_max = 0.03, 14.6

    for name in ("karras", "exponential"):
        sigmas = get_sigmas(Scheduler(name), 8, Span())
        torch.testing.assert_close(sigmas, torch.tensor(k_diffusion[name]), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", PredictionType)
@pytest.mark.parametrize("scheduler", Scheduler)
def test_levels_are_finite_and_fall_to_zero(scheduler: Scheduler, kind: PredictionType) -> None:
    prediction = make_prediction(kind)
    for steps in (1, 2, 3, 4, 20, 21, 33, 50):
        sigmas = get_sigmas(scheduler, steps, prediction, tokens=4096)
        assert sigmas.dtype == torch.float32
        assert len(sigmas) == steps + 1 or scheduler is Scheduler.BETA
        assert sigmas.isfinite().all()
        assert sigmas[-1] == 0
        assert sigmas[-2] > 0
        assert (sigmas.diff() <= 0).all()


@pytest.mark.parametrize("scheduler", [Scheduler.KARRAS, Scheduler.EXPONENTIAL])
def test_one_step_starts_at_the_top(scheduler: Scheduler) -> None:
    torch.testing.assert_close(get_sigmas(scheduler, 1, EPS), torch.tensor([EPS.sigma_max, 0.0]))


def test_gits_at_one_step_starts_at_its_tables_top() -> None:
    torch.testing.assert_close(get_sigmas(Scheduler.GITS, 1, EPS), torch.tensor([14.61464119, 0.0]))


def test_normal_is_discrete() -> None:
    assert torch.equal(get_sigmas(Scheduler("normal"), 7, EPS), get_sigmas(Scheduler.DISCRETE, 7, EPS))


def test_ays_for_sd2_takes_sd1s_levels_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    sigmas = get_sigmas(Scheduler.AYS, 12, EPS, variant="sd2")
    assert torch.equal(sigmas, get_sigmas(Scheduler.AYS, 12, EPS, variant="sd1"))
    assert "not made for SD 2" in caplog.text


def test_ays_of_an_unknown_model_is_an_error() -> None:
    with pytest.raises(RequestError, match="ays knows no levels"):
        get_sigmas(Scheduler.AYS, 10, EPS, variant="flux")


def test_no_steps_are_an_error() -> None:
    with pytest.raises(RequestError, match="--steps: 0 is too few"):
        get_sigmas(Scheduler.DISCRETE, 0, EPS)


@pytest.mark.parametrize(
    ("method", "kind", "expected"),
    [
        ("euler_a", "eps", "karras"),
        ("euler_a", "edm_v", "exponential"),
        ("lcm", "eps", "lcm"),
        ("tcd", "v", "lcm"),
        ("ddim_trailing", "eps", "simple"),
        ("lcm", "edm_v", "exponential"),
    ],
)
def test_default_schedule(method: str, kind: str, expected: str) -> None:
    prediction = make_prediction(PredictionType(kind))
    assert default_scheduler(SampleMethod(method), prediction, Scheduler.KARRAS) == expected


def test_custom_levels_are_taken_as_they_are() -> None:
    assert custom_sigmas([14.5, 2.25, 0.5]).tolist() == [14.5, 2.25, 0.5]


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([3.0], "needs two"),
        ([3.0, float("nan")], "nan is no noise level"),
        ([3.0, -1.0], "-1.0 is no noise level"),
        ([3.0, 0.0, 0.0], "value 2 is 0"),
        ([3.0, 4.0, 0.0], "4.0 follows 3.0"),
        ([3.0, 1e-46, 0.0], "value 2 is 0"),
        ([1e39, 0.0], r"1e\+39 is no noise level"),
    ],
)
def test_impossible_custom_levels_are_errors(levels: list[float], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        custom_sigmas(levels)


@pytest.mark.parametrize(
    ("steps", "strength", "run"),
    [(20, 0.75, 16), (20, 1.0, 20), (20, 0.0, 1), (10, 0.99, 10), (10, 0.7, 8), (100, 0.29, 30), (1, 0.5, 1)],
)
def test_strength_runs_one_step_more_than_its_share(steps: int, strength: float, run: int) -> None:
    sigmas = get_sigmas(Scheduler.DISCRETE, steps, EPS)
    sliced = slice_for_strength(sigmas, strength, EPS, NONE)
    assert torch.equal(sliced, sigmas[steps - run :])


@pytest.mark.parametrize(("prediction", "target"), [(EPS, 3.0), (FLOW, 0.75)], ids=["eps", "flow"])
def test_strength_can_mean_the_share_of_noise(prediction: Prediction, target: float) -> None:
    sigmas = get_sigmas(Scheduler.DISCRETE, 30, prediction)
    sliced = slice_for_strength(sigmas, 0.75, prediction, parse_extra_args("strength_as_noise_level=yes"))
    start = len(sigmas) - len(sliced)
    assert sigmas[start] <= target < sigmas[start - 1]
    forced = slice_for_strength(
        sigmas, 0.75, prediction, parse_extra_args("strength_as_noise_level=1;force_first_sigma=1")
    )
    assert forced[0] == target
    assert torch.equal(forced[1:], sliced[1:])
    assert sigmas[start] != target


def test_a_share_of_no_noise_still_runs_a_step() -> None:
    sigmas = get_sigmas(Scheduler.DISCRETE, 5, EPS)
    sliced = slice_for_strength(sigmas, 0.0, EPS, parse_extra_args("strength_as_noise_level=on"))
    assert torch.equal(sliced, sigmas[-2:])


def test_a_share_too_small_to_be_a_level_is_not_forced() -> None:
    sigmas = get_sigmas(Scheduler.DISCRETE, 5, EPS)
    extra = parse_extra_args("strength_as_noise_level=1,force_first_sigma=1")
    assert slice_for_strength(sigmas, 1e-50, EPS, extra)[0] > 0


@pytest.mark.parametrize(
    ("scheduler", "extra"),
    [
        (Scheduler.FLUX, "base_shift=1000"),
        (Scheduler.FLUX, "base_shift=-200,max_shift=-200"),
        (Scheduler.LTX2, "max_shift=1e6"),
        (Scheduler.LOGIT_NORMAL, "logsnr_min=-5000"),
        (Scheduler.BETA, "alpha=1e-300"),
    ],
)
def test_extra_args_that_leave_no_levels_are_errors(scheduler: Scheduler, extra: str) -> None:
    with pytest.raises(RequestError, match=f"{scheduler} without usable noise levels"):
        get_sigmas(scheduler, 4, EPS, tokens=64, extra=parse_extra_args(extra))
