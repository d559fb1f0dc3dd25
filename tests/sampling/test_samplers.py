from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from darkroom.api.names import PredictionType, RngType, SampleMethod, Scheduler
from darkroom.sampling.noise import NoiseSource
from darkroom.sampling.prediction import Prediction, make_prediction
from darkroom.sampling.samplers import (
    NEEDS_UNCOND,
    SAMPLERS,
    Denoise,
    Denoised,
    SampleOptions,
    default_eta,
)
from darkroom.sampling.schedules import get_sigmas

Run = Callable[..., Tensor]
EPS = make_prediction(PredictionType.EPS)
FLOW = make_prediction(PredictionType.SD3_FLOW)

NOISY = {
    *("euler_a", "dpm++2s_a", "er_sde", "euler_a_cfg_pp", "dpm++2m_sde", "dpm++2m_sde_bt"),
}

# Point-mass data makes these end on the point exactly; tcd keeps 3% of the noise direction by its own rule.
EXACT = [method for method in SampleMethod if method is not SampleMethod.TCD]


def test_every_method_has_a_sampler() -> None:
    assert set(SAMPLERS) == set(SampleMethod)


@pytest.mark.parametrize("method", SampleMethod)
def test_default_eta(method: SampleMethod) -> None:
    assert default_eta(method) == (1.0 if method.value in NOISY else 0.0)


def test_result_equals_stable_diffusion_cpps(
    sampler_golden: dict[str, list[float]], toy_model: Callable[[bool], Denoise], run: Run
) -> None:
    prediction, _, _, method, eta, extra = sampler_golden["case"]
    is_flow = "flow" in prediction
    sigmas = torch.tensor(sampler_golden["sigmas"])
    result = run(
        SAMPLERS[SampleMethod(method)], toy_model(is_flow), sigmas, eta=eta, is_flow=is_flow, extra=extra
    )
    # Upstream's coefficients are float32; tcd's noise is the root of a difference of near equals.
    tolerance = 4e-4 if method == "tcd" else 3e-5
    torch.testing.assert_close(
        result.flatten(), torch.tensor(sampler_golden["result"]), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize(
    ("name", "method", "extra"),
    [
        ("euler", "euler", ""),
        ("heun", "heun", ""),
        ("dpm_2", "dpm2", ""),
        ("lms", "lms", "lms_shift=0,lms_divisions=20000"),
        ("dpmpp_2m", "dpm++2m", ""),
        ("euler_ancestral", "euler_a", ""),
        ("dpmpp_2s_ancestral", "dpm++2s_a", ""),
        ("dpmpp_2m_sde", "dpm++2m_sde", ""),
    ],
)
def test_result_equals_k_diffusions(
    name: str,
    method: str,
    extra: str,
    k_diffusion: dict[str, list[float]],
    toy_model: Callable[[bool], Denoise],
    run: Run,
) -> None:
    sigmas = torch.tensor(k_diffusion["karras"])
    kind = SampleMethod(method)
    result = run(SAMPLERS[kind], toy_model(False), sigmas, eta=default_eta(kind), extra=extra)
    torch.testing.assert_close(result.flatten(), torch.tensor(k_diffusion[name]), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("prediction", [EPS, FLOW], ids=["eps", "flow"])
@pytest.mark.parametrize("scheduler", Scheduler)
@pytest.mark.parametrize("method", EXACT)
def test_point_mass_data_is_met_exactly(
    method: SampleMethod, scheduler: Scheduler, prediction: Prediction, run: Run
) -> None:
    point = torch.linspace(-1, 1, 6).reshape(1, 1, 2, 3)
    for steps in (1, 2, 3, 12):
        sigmas = get_sigmas(scheduler, steps, prediction, tokens=64)
        result = run(
            SAMPLERS[method],
            lambda x, sigma: Denoised(point, point),
            sigmas,
            shape=(1, 2, 3),
            eta=default_eta(method),
            is_flow=prediction.is_flow,
        )
        torch.testing.assert_close(result, point, rtol=0, atol=2e-4)


@pytest.mark.parametrize("scheduler", Scheduler)
def test_tcd_leaves_three_percent_of_the_noise_direction(scheduler: Scheduler, run: Run) -> None:
    point = torch.linspace(-1, 1, 6).reshape(1, 1, 2, 3)
    result = run(
        SAMPLERS[SampleMethod.TCD],
        lambda x, sigma: Denoised(point),
        get_sigmas(scheduler, 5, EPS, tokens=64),
        shape=(1, 2, 3),
    )
    assert (result - point).abs().max() < 0.03 * 4


def gaussian(deviation: float) -> Denoise:
    """The exact denoiser of data that is N(0, deviation**2)."""

    def denoise(x: Tensor, sigma: float) -> Denoised:
        x0 = x * (deviation**2 / (deviation**2 + sigma**2))
        return Denoised(x0, x0)

    return denoise


ODE_SOLVERS = [
    *(method for method in SampleMethod if method.value not in NOISY),
]


@pytest.mark.parametrize(
    "method", [m for m in ODE_SOLVERS if m.value not in ("lcm", "tcd", "euler_ge", "dpm++2mv2")]
)
def test_ode_solvers_converge_to_the_exact_flow_of_gaussian_data(method: SampleMethod, run: Run) -> None:
    start = torch.linspace(-20, 20, 8).reshape(1, 1, 2, 4)
    errors = []
    for steps in (20, 80):
        sigmas = get_sigmas(Scheduler.KARRAS, steps, EPS)
        # The last step, from sigma_min to 0, is Euler's in most samplers; leave it to the exact answer.
        ends = sigmas[:-1]
        exact = start * math.sqrt((0.25 + float(ends[-1]) ** 2) / (0.25 + float(ends[0]) ** 2))
        result = run(SAMPLERS[method], gaussian(0.5), ends, start=start, extra="lms_shift=0")
        errors.append(float((result - exact).abs().max()))
    first_order = method.value in ("euler", "ddim_trailing", "euler_cfg_pp")
    assert errors[1] < (0.05 if first_order else 0.03)
    # Four times the steps: a first-order method gains about 4, a second-order one 16.
    assert errors[1] < errors[0] / (3 if first_order else 6)


@pytest.mark.parametrize("method", [m for m in SampleMethod if m.value in {*NOISY, "tcd"}])
def test_noisy_samplers_draw_from_gaussian_data(method: SampleMethod, run: Run) -> None:
    sigmas = get_sigmas(Scheduler.KARRAS, 120, EPS)
    result = run(SAMPLERS[method], gaussian(0.5), sigmas, shape=(1, 100, 100), eta=default_eta(method))
    assert float(result.std()) == pytest.approx(0.5, rel=0.06)
    assert abs(float(result.mean())) < 0.02


@pytest.mark.parametrize("is_flow", [False, True])
@pytest.mark.parametrize("method", SampleMethod)
def test_repeated_levels_do_no_harm(method: SampleMethod, is_flow: bool, run: Run) -> None:
    sigmas = torch.tensor([0.9, 0.6, 0.6, 0.6, 0.2, 0.2, 0.0])
    result = run(SAMPLERS[method], gaussian(0.5), sigmas, eta=1.0, is_flow=is_flow)
    assert result.isfinite().all()


@pytest.mark.parametrize("method", SampleMethod)
def test_a_schedule_may_end_above_zero(method: SampleMethod, run: Run) -> None:
    result = run(SAMPLERS[method], gaussian(0.5), torch.tensor([3.0, 1.0, 0.4]), eta=default_eta(method))
    assert result.isfinite().all()


@pytest.mark.parametrize("method", SampleMethod)
def test_steps_are_counted_and_nothing_is_changed_in_place(method: SampleMethod) -> None:
    sigmas = get_sigmas(Scheduler.DISCRETE, 4, EPS)
    noise = NoiseSource([1, 2], RngType.CUDA)
    x = noise.initial((1, 2, 2)) * sigmas[0]
    kept = x.clone()
    steps = list(SAMPLERS[method](gaussian(0.5), x, sigmas, noise, SampleOptions(default_eta(method))))
    assert [step.index for step in steps] == [1, 2, 3, 4]
    assert all(step.steps == 4 and step.x.shape == step.x0.shape == (2, 1, 2, 2) for step in steps)
    assert [step.sigma for step in steps] == sigmas.tolist()[1:]
    assert torch.equal(x, kept)


@pytest.mark.parametrize("method", SampleMethod)
def test_a_batch_equals_its_images_one_by_one(
    method: SampleMethod, toy_model: Callable[[bool], Denoise]
) -> None:
    sigmas = get_sigmas(Scheduler.KARRAS, 5, EPS)

    def sample(seeds: list[int]) -> Tensor:
        noise = NoiseSource(seeds, RngType.CPU)
        x = noise.initial((2, 4, 4)) * sigmas[0]
        options = SampleOptions(default_eta(method))
        *_, last = SAMPLERS[method](toy_model(False), x, sigmas, noise, options)
        return last.x

    torch.testing.assert_close(sample([5, 6]), torch.cat([sample([5]), sample([6])]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", sorted(NEEDS_UNCOND))
def test_cfg_pp_walks_along_the_unconditional_prediction(method: SampleMethod, run: Run) -> None:
    cond, uncond = torch.full((1, 1, 1, 2), 2.0), torch.full((1, 1, 1, 2), 1.0)
    result = run(
        SAMPLERS[method],
        lambda x, sigma: Denoised(cond, uncond),
        torch.tensor([4.0, 2.0]),
        start=torch.full((1, 1, 1, 2), 5.0),
    )
    # 2 + (5 - 1) / 4 * 2
    torch.testing.assert_close(result, torch.full((1, 1, 1, 2), 4.0))


def test_a_sampler_stops_where_its_reader_stops() -> None:
    calls = []

    def denoise(x: Tensor, sigma: float) -> Denoised:
        calls.append(sigma)
        return Denoised(x * 0)

    sigmas = get_sigmas(Scheduler.DISCRETE, 10, EPS)
    noise = NoiseSource([0], RngType.CUDA)
    steps = SAMPLERS[SampleMethod.EULER](denoise, noise.initial((1, 2, 2)), sigmas, noise, SampleOptions())
    next(steps)
    next(steps)
    assert len(calls) == 2
