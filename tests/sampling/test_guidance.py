from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from darkroom.api.names import PredictionType
from darkroom.sampling.extra_args import parse_extra_args
from darkroom.sampling.guidance import (
    Guidance,
    ProjectedGuidance,
    keep_norm,
    keep_unmasked,
    make_denoiser,
    parse_guidance_schedule,
)
from darkroom.sampling.prediction import make_prediction
from darkroom.sampling.samplers import Denoised

EPS = make_prediction(PredictionType.EPS)
SIGMAS = torch.tensor([14.0, 7.0, 3.0, 1.0, 0.0])
COND, UNCOND = 3.0, 1.0


@dataclass(frozen=True)
class Cond:
    context: Tensor
    vector: Tensor | None = None


class Network:
    """Answers with the mean of its conditioning everywhere, and remembers how it was called."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor, Cond]] = []

    def __call__(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        self.calls.append((x, t, cond))
        return cond.context.mean((1, 2)).view(-1, 1, 1, 1).expand_as(x)

    @property
    def batches(self) -> list[int]:
        return [len(x) for x, _, _ in self.calls]


@pytest.fixture
def network() -> Network:
    return Network()


def cond(value: float, tokens: int = 5) -> Cond:
    return Cond(torch.full((1, tokens, 2), value))


def guided_output(denoised: Denoised, x: Tensor, sigma: float) -> float:
    """What the network's guided answer was: eps models give x0 = x - sigma * output."""
    output = (x - denoised.x0) / sigma
    assert torch.allclose(output, output.flatten()[0])
    return float(output.flatten()[0])


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0, 7.5])
def test_guidance_extrapolates_from_uncond_to_cond(scale: float, network: Network) -> None:
    denoise = make_denoiser(network, EPS, cond(COND), cond(UNCOND), Guidance(scale), SIGMAS)
    x = torch.zeros(2, 4, 3, 3)
    assert guided_output(denoise(x, 7.0), x, 7.0) == pytest.approx(UNCOND + scale * (COND - UNCOND), rel=1e-5)


def test_cond_and_uncond_run_as_one_batch(network: Network) -> None:
    denoise = make_denoiser(network, EPS, cond(COND), cond(UNCOND), Guidance(7.0), SIGMAS)
    denoise(torch.zeros(2, 4, 3, 3), 7.0)
    ((x, t, both),) = network.calls
    assert (len(x), len(t), len(both.context)) == (4, 4, 4)
    assert both.context[:, 0, 0].tolist() == [COND, COND, UNCOND, UNCOND]


def test_prompts_of_different_lengths_run_one_after_the_other(network: Network) -> None:
    denoise = make_denoiser(network, EPS, cond(COND, 5), cond(UNCOND, 10), Guidance(2.0), SIGMAS)
    x = torch.zeros(1, 4, 3, 3)
    assert guided_output(denoise(x, 7.0), x, 7.0) == pytest.approx(5.0)
    assert network.batches == [1, 1]


def test_batching_can_be_refused(network: Network) -> None:
    denoise = make_denoiser(network, EPS, cond(COND), cond(UNCOND), Guidance(2.0), SIGMAS, batched=False)
    denoise(torch.zeros(1, 4, 3, 3), 7.0)
    assert network.batches == [1, 1]


def test_a_vector_on_one_side_only_is_not_batched(network: Network) -> None:
    with_vector = Cond(torch.full((1, 5, 2), COND), torch.zeros(1, 3))
    denoise = make_denoiser(network, EPS, with_vector, cond(UNCOND), Guidance(2.0), SIGMAS)
    denoise(torch.zeros(1, 4, 3, 3), 7.0)
    assert network.batches == [1, 1]


@pytest.mark.parametrize("uncond", [cond(UNCOND), None])
def test_scale_one_runs_the_prompt_only(uncond: Cond | None, network: Network) -> None:
    denoise = make_denoiser(network, EPS, cond(COND), uncond, Guidance(1.0), SIGMAS)
    x = torch.zeros(1, 4, 3, 3)
    denoised = denoise(x, 7.0)
    assert guided_output(denoised, x, 7.0) == pytest.approx(COND)
    assert denoised.uncond is None
    assert network.batches == [1]


def test_a_sampler_that_needs_it_gets_the_unconditional_answer_at_scale_one(network: Network) -> None:
    guidance = Guidance(1.0, needs_uncond=True)
    denoise = make_denoiser(network, EPS, cond(COND), cond(UNCOND), guidance, SIGMAS)
    x = torch.zeros(1, 4, 3, 3)
    denoised = denoise(x, 7.0)
    assert guided_output(denoised, x, 7.0) == pytest.approx(COND)
    assert denoised.uncond is not None
    assert guided_output(Denoised(denoised.uncond), x, 7.0) == pytest.approx(UNCOND)


def test_the_network_gets_scaled_input_and_its_timestep(network: Network) -> None:
    denoise = make_denoiser(network, EPS, cond(COND), None, Guidance(), SIGMAS)
    x = torch.randn(3, 4, 2, 2)
    denoise(x, 3.0)
    seen, t, both = network.calls[0]
    torch.testing.assert_close(seen, x / 10**0.5)
    torch.testing.assert_close(t, torch.full((3,), EPS.timestep(3.0)))
    assert both.context.shape == (3, 5, 2)


def test_conditionings_are_joined_once(network: Network) -> None:
    denoise = make_denoiser(network, EPS, cond(COND), cond(UNCOND), Guidance(7.0), SIGMAS)
    for sigma in (14.0, 7.0):
        denoise(torch.zeros(1, 4, 3, 3), sigma)
    assert network.calls[0][2] is network.calls[1][2]


@pytest.mark.parametrize(
    ("text", "scales"),
    [("7.5x2+3x1", (7.5, 7.5, 3.0)), ("", ()), ("4x1", (4.0,))],
)
def test_schedule_syntax(text: str, scales: tuple[float, ...]) -> None:
    assert parse_guidance_schedule(text) == scales


@pytest.mark.parametrize("text", ["7.5", "x3", "7x0", "7x-1", "7x2+", "axb", "7x2x3", "infx2"])
def test_a_malformed_schedule_is_warned_about_and_ignored(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert parse_guidance_schedule(text) == ()
    assert "ignoring guidance_schedule" in caplog.text


def test_a_schedule_counts_from_the_last_step_and_cfg_scale_fills_up(network: Network) -> None:
    guidance = Guidance.parse(2.0, parse_extra_args("guidance_schedule=3x1+5x2"))
    assert guidance.scales(4) == (2.0, 5.0, 5.0, 3.0)
    denoise = make_denoiser(network, EPS, cond(COND), cond(UNCOND), guidance, SIGMAS)
    x = torch.zeros(1, 4, 3, 3)
    for sigma, scale in ((14.0, 2.0), (9.0, 2.0), (7.0, 5.0), (3.0, 5.0), (1.0, 3.0), (0.5, 3.0)):
        assert guided_output(denoise(x, sigma), x, sigma) == pytest.approx(1 + 2 * scale, rel=1e-5)


def test_a_schedule_that_is_too_long_loses_its_first_steps(caplog: pytest.LogCaptureFixture) -> None:
    assert Guidance(2.0, (3.0, 3.0, 5.0)).scales(2) == (3.0, 3.0)
    assert "names 3 steps of 2" in caplog.text


@pytest.mark.parametrize(
    ("guidance", "wanted"),
    [
        (Guidance(1.0), False),
        (Guidance(7.0), True),
        (Guidance(1.0, needs_uncond=True), True),
        (Guidance(1.0, (1.0, 4.0)), True),
    ],
)
def test_whether_a_negative_prompt_is_needed(guidance: Guidance, wanted: bool) -> None:
    assert guidance.wants_uncond is wanted


def test_projection_is_off_without_its_keys() -> None:
    assert ProjectedGuidance.parse(parse_extra_args("apg_norm_threshold_smoothing=2")) is None


def test_eta_zero_leaves_the_orthogonal_part() -> None:
    rule = ProjectedGuidance(eta=0.0)
    prediction, delta = torch.randn(2, 4, 5, 5), torch.randn(2, 4, 5, 5)
    kept = rule.tame(delta, prediction)
    parallel = [float((kept[i] * prediction[i]).sum()) for i in range(2)]
    assert parallel == pytest.approx([0.0, 0.0], abs=1e-3)
    # What went is parallel to the prediction, image by image.
    gone = (delta - kept) / prediction
    torch.testing.assert_close(gone, gone[:, :1, :1, :1].expand_as(gone), rtol=1e-3, atol=1e-5)


def test_threshold_caps_the_norm_of_each_image() -> None:
    delta = torch.stack([torch.full((4, 6, 6), 10.0), torch.full((4, 6, 6), 0.01)])
    capped = ProjectedGuidance(norm_threshold=15.0).tame(delta, delta)
    # As if 256 x 256 numbers: root mean square * 256 = 15.
    torch.testing.assert_close(capped[0], torch.full((4, 6, 6), 15 / 256))
    torch.testing.assert_close(capped[1], delta[1])


def test_a_smooth_threshold_stays_below_the_hard_one() -> None:
    delta = torch.full((1, 4, 6, 6), 0.1)
    hard = ProjectedGuidance(norm_threshold=15.0).tame(delta, delta)
    smooth = ProjectedGuidance(norm_threshold=15.0, smoothing=1.0).tame(delta, delta)
    ratio = 15 / 25.6
    torch.testing.assert_close(smooth, delta * (ratio / (1 + ratio)))
    assert (smooth < hard).all()


def test_no_difference_stays_none() -> None:
    zero = torch.zeros(1, 4, 2, 2)
    assert torch.equal(ProjectedGuidance(eta=0.0, norm_threshold=15.0).tame(zero, zero), zero)


def test_momentum_adds_up_over_steps(network: Network) -> None:
    guidance = Guidance(3.0, projected=ProjectedGuidance(momentum=0.5))
    denoise = make_denoiser(network, EPS, cond(COND), cond(UNCOND), guidance, SIGMAS)
    x = torch.zeros(1, 4, 3, 3)
    outputs = [guided_output(denoise(x, sigma), x, sigma) for sigma in (14.0, 7.0, 3.0)]
    # delta = 2, then 2 + 1, then 2 + 1.5; output = cond + (scale - 1) * delta.
    assert outputs == pytest.approx([3 + 2 * 2, 3 + 2 * 3, 3 + 2 * 3.5], rel=1e-5)


def test_momentum_starts_anew_with_each_denoiser(network: Network) -> None:
    guidance = Guidance(3.0, projected=ProjectedGuidance(momentum=0.5))
    x = torch.zeros(1, 4, 3, 3)
    first, second = (
        make_denoiser(network, EPS, cond(COND), cond(UNCOND), guidance, SIGMAS)(x, 14.0).x0 for _ in range(2)
    )
    assert torch.equal(first, second)


def test_tokens_keep_the_norm_of_the_conditional_prediction() -> None:
    cond, guided = torch.randn(2, 3, 4, 6), torch.randn(2, 3, 4, 6)
    kept = keep_norm(guided, cond, 2)
    for row, column in ((0, 0), (2, 4)):
        tokens = (x[:, :, row : row + 2, column : column + 2].flatten(1) for x in (kept, cond, guided))
        of_kept, of_cond, of_guided = tokens
        torch.testing.assert_close(of_kept.norm(dim=1), of_cond.norm(dim=1))
        torch.testing.assert_close(F.cosine_similarity(of_kept, of_guided), torch.ones(2))
    assert torch.equal(
        keep_norm(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), 2), torch.zeros(1, 1, 2, 2)
    )


@pytest.mark.parametrize(("text", "patch"), [("", 2), ("keep_norm=false", 0), ("apg_eta=1", 2)])
def test_keeping_norms_can_be_refused(text: str, patch: int) -> None:
    assert Guidance.parse(4.0, parse_extra_args(text), norm_patch=2).norm_patch == patch


def test_unmasked_latents_are_kept() -> None:
    latent = torch.full((2, 4, 2, 2), 5.0)
    mask = torch.tensor([[1.0, 0.0], [0.5, 1.0]]).view(1, 1, 2, 2)
    denoise = keep_unmasked(lambda x, sigma: Denoised(x * 0 + 1, x * 0 + 2), mask, latent)
    denoised = denoise(torch.zeros(2, 4, 2, 2), 1.0)
    torch.testing.assert_close(denoised.x0[1, 3], torch.tensor([[1.0, 5.0], [3.0, 1.0]]))
    assert denoised.uncond is not None
    assert (denoised.uncond == 2).all()


def test_a_schedule_of_absurd_length_takes_no_memory() -> None:
    guidance = Guidance.parse(2.0, parse_extra_args("guidance_schedule=3x99999999999999"))
    assert guidance.scales(3) == (3.0, 3.0, 3.0)
