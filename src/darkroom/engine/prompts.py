"""Prompts become conditioning, from memory or through the text encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from darkroom.api.names import Module
from darkroom.api.result import Phase
from darkroom.engine.cache import PromptCache, key_of
from darkroom.engine.drawing import Drawing, ending
from darkroom.engine.parts import Parts
from darkroom.engine.pipeline import require_numbers
from darkroom.engine.plan import Plan
from darkroom.engine.report import loading_for
from darkroom.families.base import TextPrompt


class Prompts:
    """What prompts of this model became; the last ones are remembered.

    embeddings: files of textual inversions by trigger word.
    """

    def __init__(self, parts: Parts, embeddings: Mapping[str, Path]) -> None:
        self._parts = parts
        self._embeddings = embeddings
        self._known = PromptCache()

    def forget(self) -> None:
        """Nothing is remembered any more."""
        self._known = PromptCache()

    def encode(self, drawings: Sequence[Drawing]) -> None:
        """Fills in `cond` and, where guidance wants it, `uncond`; the text encoder comes once for all."""
        unknown = [drawing for drawing in drawings if not self._recall(drawing)]
        if unknown:
            component = self._parts.components[Module.TE]
            on_bytes = loading_for([drawing.report for drawing in unknown], component.file_bytes)
            with ending(unknown), component.resident(on_bytes) as te:
                for drawing in unknown:
                    with ending([drawing]):
                        self._encode(te, drawing)

    def _recall(self, drawing: Drawing) -> bool:
        """Fills in what is remembered; False where something is not."""
        found = [self._known.get(key_of(prompt)) for prompt in self._prompts(drawing.plan)]
        if not all(found):
            return False
        drawing.cond, drawing.uncond = found[0], found[1] if len(found) > 1 else None
        return True

    def _encode(self, te: nn.Module, drawing: Drawing) -> None:
        model, prompts = self._parts.model, self._prompts(drawing.plan)
        keys = map(key_of, prompts)
        new = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if not self._known.get(key)}
        if new:
            with drawing.report.phase(Phase.ENCODE_TEXT, len(new)) as advance:
                # One by one: beside another prompt a text's numbers could differ in their last bits.
                for done, (key, prompt) in enumerate(new.items(), 1):
                    (encoded,) = model.family.encode(te, [prompt], model.architecture)
                    require_numbers("te: the encoded prompt", encoded.context, encoded.vector)
                    self._known.put(key, self._parts.to_diffusion(encoded))
                    advance(done)
        is_known = self._recall(drawing)
        assert is_known, "it was just put there"

    def _prompts(self, plan: Plan) -> list[TextPrompt]:
        images = plan.shown_references if self._parts.model.family.shows_references else ()
        return [
            TextPrompt(text, plan.clip_skip or 1, self._embeddings, images, negative)
            for text, negative in ((plan.prompt, False), (plan.negative_prompt, True))
            if not negative or plan.guidance.wants_uncond
        ]
