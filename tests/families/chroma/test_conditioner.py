"""How prompts become conditioning, against ChromaPipeline.encode_prompt with a tiny T5."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.comparison import relative_error
from tests.families.chroma.reference import native, pipeline
from tests.families.reference import bound
from torch import nn

from darkroom.api.names import Module
from darkroom.families.base import TextPrompt
from darkroom.families.chroma import FAMILY
from darkroom.families.chroma.conditioner import encode
from darkroom.families.chroma.config import ChromaConfig
from darkroom.weights.source import MemorySource

PROMPTS = ["a photo of a cat", "", "Straße, 東京 – “neon” lights & a sign: 'chroma'"]


@pytest.fixture(scope="module")
def te() -> nn.Module:
    return bound(FAMILY, Module.TE, native(pipeline()))


@pytest.fixture(scope="module")
def config() -> ChromaConfig:
    config = FAMILY.detect(MemorySource(native(pipeline())).index)
    assert config is not None
    return config


def prompts() -> list[TextPrompt]:
    return [TextPrompt(text, clip_skip=1) for text in PROMPTS]


@torch.inference_mode()
def test_what_diffusers_shows_the_network(te: nn.Module, config: ChromaConfig) -> None:
    context, _, mask, *_ = pipeline().encode_prompt(PROMPTS, do_classifier_free_guidance=False)
    for i, cond in enumerate(encode(te, prompts(), config)):
        seen = context[i : i + 1, mask[i].bool()]
        assert cond.context.shape == seen.shape
        assert relative_error(cond.context, seen) < 1e-4


@torch.inference_mode()
def test_all_of_it_without_masks(te: nn.Module, config: ChromaConfig) -> None:
    pipe = pipeline()
    given = pipe.tokenizer(PROMPTS, padding="max_length", max_length=512, return_tensors="pt")
    expected = pipe.text_encoder(given.input_ids)[0]
    bare = replace(config, t5_mask=False, dit_mask=False)
    for i, cond in enumerate(encode(te, prompts(), bare)):
        assert relative_error(cond.context, expected[i : i + 1]) < 1e-4


@pytest.mark.parametrize(("pad", "length"), [(0, 8), (1, 9), (3, 11), (512, 512)])
@torch.inference_mode()
def test_some_of_the_filling_is_seen(te: nn.Module, config: ChromaConfig, pad: int, length: int) -> None:
    """`a photo of a cat` is eight tokens with the end."""
    (cond,) = encode(te, prompts()[:1], replace(config, pad=pad))
    assert cond.context.shape[1] == length
