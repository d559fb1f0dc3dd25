"""How prompts become conditioning, against FluxPipeline.encode_prompt with tiny encoders."""

from __future__ import annotations

import pytest
import torch
from tests.comparison import relative_error
from tests.families.flux.reference import native, pipeline
from tests.families.reference import bound
from torch import nn

from darkroom.api.names import Module
from darkroom.families.base import TextPrompt
from darkroom.families.flux import FAMILY
from darkroom.families.flux.conditioner import encode
from darkroom.tokenizers.t5 import T5Tokenizer

PROMPTS = ["a photo of a cat", "", "Straße, 東京 – “neon” lights & a sign: 'flux'", "a red fox jumps, " * 12]


@pytest.fixture(scope="module")
def te() -> nn.Module:
    return bound(FAMILY, Module.TE, native(pipeline()))


@pytest.mark.parametrize("length", [512, 256], ids=["dev", "schnell"])
@torch.inference_mode()
def test_equals_diffusers(te: nn.Module, length: int) -> None:
    context, vector, _ = pipeline().encode_prompt(PROMPTS, max_sequence_length=length)

    conditionings = encode(te, [TextPrompt(text, clip_skip=1) for text in PROMPTS], T5Tokenizer(), length)

    for i, cond in enumerate(conditionings):
        assert cond.vector is not None
        assert cond.mask is None
        assert cond.context.shape == (1, length, context.shape[-1])
        assert relative_error(cond.context, context[i : i + 1]) < 1e-4
        assert relative_error(cond.vector, vector[i : i + 1]) < 1e-4


@torch.inference_mode()
def test_weights_count_for_the_text_and_not_for_the_vector(te: nn.Module) -> None:
    plain, weighted = encode(
        te, [TextPrompt(text, 1) for text in ("a cat", "a (cat:1.5)")], T5Tokenizer(), 16
    )
    assert plain.vector is not None
    assert weighted.vector is not None
    assert torch.equal(plain.vector, weighted.vector)
    assert relative_error(weighted.context, plain.context) > 1e-2


@torch.inference_mode()
def test_text_of_any_length_is_read(te: nn.Module) -> None:
    (cond,) = encode(
        te, [TextPrompt("one two three four five six seven eight nine ten", 1)], T5Tokenizer(), 8
    )
    assert cond.context.shape[1] == 16
