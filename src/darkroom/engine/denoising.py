"""The stage that draws: drawings that may be one batch in batches that the device has room for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from darkroom.api.errors import OutOfMemoryError
from darkroom.api.names import Module
from darkroom.engine.drawing import Drawing, Row, ending, release
from darkroom.engine.meaning import Meaning
from darkroom.engine.member import Member
from darkroom.engine.parts import Parts
from darkroom.engine.pipeline import Start
from darkroom.engine.preview import Previewer
from darkroom.engine.report import loading_for
from darkroom.engine.sharing import evenly, groups_of, most_together
from darkroom.engine.trajectory import Trajectory
from darkroom.families.base import Conditioning
from darkroom.sampling.conditions import expand, join
from darkroom.sampling.guidance import PredictBatch
from darkroom.sampling.noise import NoiseSource

logger = logging.getLogger(__name__)


class Denoising:
    """Fills in the latents of drawings whose conditioning and start are there."""

    def __init__(self, parts: Parts, meaning: Meaning, previewer: Previewer) -> None:
        self._parts = parts
        self._meaning = meaning
        self._previewer = previewer

    def run(self, drawings: Sequence[Drawing]) -> None:
        """Draws all of them; those that are alike in shape together, where that is faster."""
        if not drawings:
            return
        component = self._parts.components[Module.DIFFUSION]
        on_bytes = loading_for([drawing.report for drawing in drawings], component.file_bytes)
        with ending(drawings), component.resident(on_bytes) as net:
            predict = self._predict(net)
            for group in groups_of(list(drawings)):
                with ending(group):
                    self._draw(group, predict)

    def _predict(self, net: nn.Module) -> PredictBatch[Conditioning]:
        family, dtype = self._parts.model.family, self._parts.components[Module.DIFFUSION].dtype

        def predict(x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
            # Of one layout: samplers hand on the network's own, and each would be recorded by itself.
            return family.predict(net, x.to(dtype).contiguous(), t, cond)

        return predict

    def _draw(self, group: Sequence[Drawing], predict: PredictBatch[Conditioning]) -> None:
        rows = [(drawing, image) for drawing in group for image in drawing.undone]
        most = most_together(self._parts, group[0].plan) if len(rows) > 1 else 1
        for size in evenly(len(rows), most):
            batch, rows = rows[:size], rows[size:]
            batch = _wanted(batch)
            if batch and not self._fits(batch, predict):
                for row in batch:
                    if _wanted([row]):
                        self._fits([row], predict)

    def _fits(self, batch: Sequence[Row], predict: PredictBatch[Conditioning]) -> bool:
        """Draws a batch. False if it takes more memory than there is, and fewer at a time might not."""
        backend = self._parts.backend(Module.DIFFUSION)
        try:
            with backend.guarded("running diffusion"):
                self._together(batch, predict)
        except OutOfMemoryError as error:
            release(error)
            if len(batch) == 1:
                batch[0][0].error = error
            else:
                logger.warning("%d pictures at once take too much memory; one by one then", len(batch))
        else:
            return True
        backend.empty_cache()
        return len(batch) == 1

    def _together(self, batch: Sequence[Row], predict: PredictBatch[Conditioning]) -> None:
        drawings = list(dict.fromkeys(drawing for drawing, _ in batch))
        plan = drawings[0].plan
        backend, config = self._parts.backend(Module.DIFFUSION), self._parts.config
        prediction = self._meaning.prediction(plan.flow_shift, predict)
        start, cond, uncond = _stacked(drawings, [drawing for drawing, _ in batch])
        seeds = [drawing.plan.seeds[image] for drawing, image in batch]
        noise = NoiseSource(seeds, config.rng, config.sampler_rng)
        trajectory = Trajectory(predict, prediction, plan, start, cond, uncond, noise, len(batch))
        with ExitStack() as stack:
            wait = backend.marker()
            members = [Member(drawing, batch, self._previewer, stack) for drawing in drawings]
            for step in trajectory.steps(stop=lambda: _all_left(trajectory, members)):
                wait()  # asking runs at most one step ahead of the device, or nobody could cancel
                for member in members:
                    member.show(step, trajectory)
                wait = backend.marker()
                for member in members:
                    member.advance(step)


def _wanted(batch: Sequence[Row]) -> list[Row]:
    """Those of a batch that somebody still waits for."""
    return [(drawing, image) for drawing, image in batch if not drawing.error and image in drawing.undone]


def _all_left(trajectory: Trajectory, members: Sequence[Member]) -> bool:
    """Takes those that are to leave out of the batch; True if nobody stays."""
    trajectory.leave([row for member in members for row in member.leaving()])
    return not any(member.rows for member in members)


def _stacked(
    drawings: Sequence[Drawing], owners: Sequence[Drawing]
) -> tuple[Start, Conditioning, Conditioning | None]:
    """What a batch sees whose pictures belong to `owners`: of batch size 1 where that is one drawing."""
    first = drawings[0]
    assert first.start is not None, "earlier stages filled it in"
    assert first.cond is not None, "earlier stages filled it in"
    if len(drawings) == 1:
        return first.start, first.cond, first.uncond
    counts = [owners.count(drawing) for drawing in drawings]

    def joined(conds: Sequence[Conditioning]) -> Conditioning:
        whole = expand(conds[0], counts[0])
        for cond, count in zip(conds[1:], counts[1:], strict=True):
            both = join(whole, expand(cond, count))
            assert both is not None, "only what is alike is drawn together"
            whole = both
        return whole

    def cat(tensors: Sequence[Tensor]) -> Tensor:
        pairs = zip(tensors, counts, strict=True)
        return torch.cat([tensor.expand(count, *tensor.shape[1:]) for tensor, count in pairs])

    starts = [drawing.start for drawing in drawings if drawing.start is not None]
    masks = [start.mask for start in starts if start.mask is not None]
    unconds = [drawing.uncond for drawing in drawings if drawing.uncond is not None]
    return (
        Start(cat([start.latent for start in starts]), cat(masks) if masks else None),
        joined([drawing.cond for drawing in drawings if drawing.cond is not None]),
        joined(unconds) if unconds else None,
    )
