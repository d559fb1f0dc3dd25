"""What the diffusion network's output means: as configured, else as the family finds out."""

from __future__ import annotations

import logging
from contextlib import suppress

from torch import Tensor

from darkroom.api.names import Module, PredictionType
from darkroom.engine.parts import Parts
from darkroom.families.base import Conditioning, Predict
from darkroom.sampling.guidance import PredictBatch
from darkroom.sampling.prediction import Prediction, make_prediction

logger = logging.getLogger(__name__)


class _NotLoaded(Exception):
    """The network is asked what it predicts before it is there."""


class Meaning:
    """Finds out once, when it must be tried with the first picture."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._found: PredictionType | None = None

    def prediction(
        self, shift: float | None, predict: PredictBatch[Conditioning] | None = None
    ) -> Prediction:
        """The prediction with a flow model's shift.

        predict: the loaded network. Without it, what must be tried is taken for eps; v has the same levels.
        """
        model = self._parts.model
        if self._found is None:
            with suppress(_NotLoaded):
                self._found = self._parts.config.prediction or model.family.prediction(
                    model.architecture, lambda: self._probe(predict)
                )
                logger.debug("prediction: %s", self._found)
        alphas = model.alphas_cumprod
        return make_prediction(
            self._found or PredictionType.EPS,
            alphas_cumprod=None if alphas is None else alphas.tolist(),
            shift=shift,
        )

    def _probe(self, predict: PredictBatch[Conditioning] | None) -> Predict:
        if predict is None:
            raise _NotLoaded
        take = self._parts.backend(Module.DIFFUSION).take

        def run(x: Tensor, t: Tensor, context: Tensor) -> Tensor:
            cond = self._parts.to_diffusion(Conditioning(context))
            return predict(take(x), take(t), cond).float().cpu()

        return run
