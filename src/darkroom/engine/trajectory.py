"""From noise to latents: one or several pictures of one schedule, step by step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace

from torch import Tensor

from darkroom.engine.pipeline import Start
from darkroom.engine.plan import Plan
from darkroom.families.base import Conditioning
from darkroom.sampling.guidance import PredictBatch, keep_unmasked, make_denoiser
from darkroom.sampling.noise import NoiseSource
from darkroom.sampling.prediction import Prediction, ShiftedTimesteps
from darkroom.sampling.rows import LiveRows
from darkroom.sampling.samplers import SAMPLERS, SampleOptions, Step


class Trajectory:
    """The way of n pictures that are drawn together; each may leave at any step.

    plan: of the first; its sampler, schedule and guidance are everyone's. seeds: one for each picture.
    start, cond, uncond: of batch size 1, for everyone, or n.
    """

    def __init__(
        self,
        predict: PredictBatch[Conditioning],
        prediction: Prediction,
        plan: Plan,
        start: Start,
        cond: Conditioning,
        uncond: Conditioning | None,
        noise: NoiseSource,
        n: int = 1,
    ) -> None:
        assert plan.schedule is not None, "an engine planned it"
        if plan.timestep_shift:
            prediction = ShiftedTimesteps(prediction, plan.timestep_shift)
        self.sigmas = plan.schedule.sigmas
        self._plan = plan
        self._prediction = prediction
        self._start = start
        self._noise = noise
        self._live = LiveRows(make_denoiser(predict, prediction, cond, uncond, plan.guidance, self.sigmas), n)

    def leave(self, rows: Collection[int]) -> None:
        """These pictures go no further; what they are from now on has no meaning."""
        self._live.leave(rows)

    def noisy(self, step: Step) -> Tensor:
        """The latents (n, c, h, w) after a step, noise and all, scaled as the network sees them."""
        return self._prediction.scale_input(step.x, step.sigma)

    def steps(self, stop: Callable[[], bool]) -> Iterator[Step]:
        """The steps; the last one's x are the latents (n, c, h, w).

        stop: asked before each step whether there is nobody left to draw for; pictures may then leave, too.
        """
        if stop():
            return
        start, plan, prediction, levels = self._start, self._plan, self._prediction, self.sigmas.tolist()
        denoise = self._live if start.mask is None else keep_unmasked(self._live, start.mask, start.latent)
        first = self._noise.initial(tuple(start.latent.shape[1:])).to(start.latent.device)
        x = prediction.add_noise(start.latent, first, levels[0])
        options = SampleOptions(eta=plan.eta, is_flow=prediction.is_flow, extra=plan.extra)
        for step in SAMPLERS[plan.method](denoise, x, self.sigmas, self._noise, options):
            if step.index == step.steps:
                yield replace(step, x=prediction.finish(step.x, levels[-1]))
                return
            yield step
            if stop():
                return
