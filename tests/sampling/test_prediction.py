from __future__ import annotations

import math

import pytest
import torch
from diffusers import EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

from darkroom.api.errors import RequestError
from darkroom.api.names import PredictionType
from darkroom.sampling.prediction import (
    Prediction,
    ShiftedTimesteps,
    make_prediction,
    scaled_linear_alphas,
    zero_terminal_alphas,
)

ALL = list(PredictionType)


@pytest.fixture(params=ALL)
def prediction(request: pytest.FixtureRequest) -> Prediction:
    return make_prediction(request.param)


def euler_scheduler(kind: str) -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=kind
    )


def test_the_table_of_levels_equals_diffusers() -> None:
    levels = euler_scheduler("epsilon").sigmas[:-1].flip(0)
    prediction = make_prediction(PredictionType.EPS)
    ours = torch.tensor([prediction.t_to_sigma(t) for t in range(1000)])
    torch.testing.assert_close(ours, levels.float(), rtol=3e-5, atol=0)
    assert (prediction.sigma_min, prediction.sigma_max) == pytest.approx((0.0291671, 14.614641), rel=1e-5)


@pytest.mark.parametrize(("kind", "name"), [("eps", "epsilon"), ("v", "v_prediction")])
def test_denoised_and_input_equal_diffusers(kind: str, name: str) -> None:
    scheduler = euler_scheduler(name)
    scheduler.set_timesteps(10)
    prediction = make_prediction(PredictionType(kind))
    x, output = torch.randn(2, 4, 3, 3) * 8, torch.randn(2, 4, 3, 3)
    t = scheduler.timesteps[4]
    scaled = scheduler.scale_model_input(x, t)
    sigma = float(scheduler.sigmas[4])
    expected = scheduler.step(output, t, x).pred_original_sample
    torch.testing.assert_close(prediction.denoised(output, x, sigma), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(prediction.scale_input(x, sigma), scaled, rtol=1e-5, atol=1e-6)
    assert prediction.timestep(sigma) == pytest.approx(float(t), abs=0.02)


def test_sd3_flows_levels_equal_diffusers() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    prediction = make_prediction(PredictionType.SD3_FLOW, shift=3.0)
    ours = torch.tensor([prediction.t_to_sigma(t) for t in range(999, -1, -1)])
    torch.testing.assert_close(ours, scheduler.sigmas[:1000], rtol=1e-5, atol=1e-6)


def test_a_files_own_alphas_make_its_levels() -> None:
    alphas = torch.linspace(0.99, 0.1, 1000)
    prediction = make_prediction(PredictionType.EPS, alphas_cumprod=alphas.tolist())
    assert prediction.sigma_max == pytest.approx(3.0, rel=1e-5)
    assert prediction.t_to_sigma(0) == pytest.approx(math.sqrt(0.01 / 0.99), rel=1e-4)


@pytest.mark.parametrize("kind", ["eps", "v"])
def test_timesteps_and_levels_are_inverse(kind: str) -> None:
    prediction = make_prediction(PredictionType(kind))
    for t in (0.0, 0.25, 17.0, 500.5, 998.75, 999.0):
        assert prediction.sigma_to_t(prediction.t_to_sigma(t)) == pytest.approx(t, abs=1e-6)


def test_levels_beyond_the_table_are_told_as_its_ends() -> None:
    prediction = make_prediction(PredictionType.EPS)
    assert prediction.timestep(100.0) == 999.0
    assert prediction.timestep(0.001) == 0.0


@pytest.mark.parametrize(
    ("kind", "sigma", "t"),
    [("edm_v", math.e**2, 0.5), ("sd3_flow", 0.7, 700.0), ("flux_flow", 0.7, 0.7)],
)
def test_timestep_in_the_networks_unit(kind: str, sigma: float, t: float) -> None:
    assert make_prediction(PredictionType(kind)).timestep(sigma) == pytest.approx(t)


def test_flux_shift_is_exponential() -> None:
    prediction = make_prediction(PredictionType.FLUX_FLOW, shift=1.15)
    e = math.exp(1.15)
    assert prediction.t_to_sigma(499) == pytest.approx(e / (e + 1))
    assert prediction.sigma_max == 1.0


def test_a_perfect_network_is_denoised_to_the_latent(prediction: Prediction) -> None:
    latent, noise = torch.randn(1, 4, 3, 3), torch.randn(1, 4, 3, 3)
    for sigma in (0.05, 0.4, 0.95):
        x = prediction.add_noise(latent, noise, sigma)
        if prediction.is_flow:
            output = noise - latent
        elif isinstance(prediction, type(make_prediction(PredictionType.V))):
            output = (noise - sigma * latent) / math.sqrt(1 + sigma**2)
        else:
            output = noise
        torch.testing.assert_close(prediction.denoised(output, x, sigma), latent, rtol=1e-4, atol=1e-5)


def test_x_stays_float32_when_the_network_answers_in_less(prediction: Prediction) -> None:
    x = torch.randn(1, 4, 2, 2)
    assert prediction.denoised(x.bfloat16(), x, 0.5).dtype == torch.float32


def test_the_share_of_noise(prediction: Prediction) -> None:
    sigma = prediction.noise_level_to_sigma(0.25)
    assert sigma == pytest.approx(0.25 if prediction.is_flow else 1 / 3)


def test_finish_undoes_the_shrinking_of_flows_only() -> None:
    x = torch.ones(1, 1, 1, 1)
    assert make_prediction(PredictionType.SD3_FLOW).finish(x, 0.75).item() == 4.0
    assert make_prediction(PredictionType.FLUX_FLOW).finish(x, 0.0).item() == 1.0
    assert make_prediction(PredictionType.EPS).finish(x, 0.75).item() == 1.0


def test_shifted_timesteps_are_whole_and_shrunk() -> None:
    shifted = ShiftedTimesteps(make_prediction(PredictionType.EPS), 250)
    assert shifted.timestep(shifted.t_to_sigma(999)) == 250.0
    assert shifted.timestep(shifted.t_to_sigma(501)) == 125.0
    assert shifted.timestep(shifted.t_to_sigma(0)) == 0.0


def test_shifted_timesteps_denoise_as_at_the_shifted_level() -> None:
    inner = make_prediction(PredictionType.EPS)
    shifted = ShiftedTimesteps(inner, 250)
    sigma, low = inner.sigma_max, inner.t_to_sigma(250)
    x, output = torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2)
    # The input, scaled for sigma, is taken as an input of the shifted level.
    as_if = shifted.scale_input(x, sigma) * math.sqrt(low**2 + 1)
    torch.testing.assert_close(shifted.scale_input(x, sigma), inner.scale_input(x, sigma))
    torch.testing.assert_close(shifted.denoised(output, x, sigma), as_if - low * output)


def test_a_table_that_ends_without_signal_gives_finite_levels() -> None:
    table = scaled_linear_alphas()
    table[-1] = 0
    prediction = make_prediction(PredictionType.V, alphas_cumprod=table.tolist())
    assert prediction.sigma_max == pytest.approx(4518.8, rel=1e-4)  # ComfyUI's for zero terminal SNR
    assert prediction.t_to_sigma(998) == pytest.approx(make_prediction(PredictionType.V).t_to_sigma(998))


@pytest.mark.parametrize("table", ["bf16", "one entry", "nan"])
def test_a_table_that_is_no_schedule_is_not_used(table: str, caplog: pytest.LogCaptureFixture) -> None:
    whole = torch.from_numpy(scaled_linear_alphas())
    alphas = {"bf16": whole.bfloat16(), "one entry": whole[:1], "nan": whole * math.nan}[table].tolist()
    prediction = make_prediction(PredictionType.EPS, alphas_cumprod=alphas)
    default = make_prediction(PredictionType.EPS)
    assert (prediction.sigma_min, prediction.sigma_max) == (default.sigma_min, default.sigma_max)
    assert "alphas_cumprod" in caplog.text


def test_zero_terminal_table_is_diffusers() -> None:
    theirs = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=True
    ).alphas_cumprod
    ours = torch.from_numpy(zero_terminal_alphas())
    torch.testing.assert_close(ours[:-1].float(), theirs[:-1], rtol=1e-3, atol=1e-6)
    assert ours[-1] == 0


@pytest.mark.parametrize(
    ("kind", "shift"), [("sd3_flow", 0.0), ("sd3_flow", 1e30), ("flux_flow", 50.0), ("flux_flow", 1000.0)]
)
def test_a_shift_that_leaves_one_level_is_refused(kind: str, shift: float) -> None:
    with pytest.raises(RequestError, match=r"--flow-shift: \S+ leaves this model no noise levels"):
        make_prediction(PredictionType(kind), shift=shift)


def test_flux_without_a_shift_is_fine() -> None:
    assert make_prediction(PredictionType.FLUX_FLOW, shift=0.0).t_to_sigma(499) == pytest.approx(0.5)
