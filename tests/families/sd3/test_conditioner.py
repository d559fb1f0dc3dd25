"""Prompts against diffusers' pipeline over the same tiny text encoders, all of them and some left out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.comparison import relative_error
from tests.families.sd3.reference import CLIP_G_WIDTH, CLIP_L_WIDTH, T5_WIDTH, native, pipeline
from torch import Tensor, nn

from darkroom.api.names import Module
from darkroom.families.base import Conditioning, TextPrompt
from darkroom.families.sd3 import FAMILY
from darkroom.families.sd3.config import SD3Config
from darkroom.weights.index import TensorIndex, TensorInfo

PREFIX = "text_encoders."
PROMPTS = ["a photo of a cat", "", "blurry, low quality, bad anatomy, 8 fingers", "naïve 🐈 in a café"]
LONG = "one small red fish beside two large blue fishes " * 10
CLIPS = CLIP_L_WIDTH + CLIP_G_WIDTH


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return native(pipeline())


def model(state: dict[str, Tensor], *absent: str) -> tuple[nn.Module, SD3Config]:
    """The text encoders but those named, and the architecture as detection has it."""
    here = {
        name: tensor
        for name, tensor in state.items()
        if not any(name.startswith(f"{PREFIX}{role}.") for role in absent)
    }
    index = TensorIndex(TensorInfo(name, tuple(t.shape), "f32") for name, t in here.items())
    config = FAMILY.detect(index)
    assert config is not None
    spec = FAMILY.modules(config)[Module.TE]
    net = spec.build()
    own = {name.removeprefix(PREFIX): t for name, t in here.items() if name.startswith(PREFIX)}
    net.load_state_dict(own, strict=True, assign=True)
    return net.eval().requires_grad_(False), config


def encode(
    state: dict[str, Tensor], prompts: list[str], *absent: str, clip_skip: int = 2
) -> list[Conditioning]:
    net, config = model(state, *absent)
    return [*FAMILY.encode(net, [TextPrompt(prompt, clip_skip) for prompt in prompts], config)]


def reference(prompt: str, clip_skip: int | None = None) -> tuple[Tensor, Tensor]:
    """Context and vector of diffusers, which counts clip_skip from the second to last layer."""
    context, _, vector, _ = pipeline().encode_prompt(
        prompt, prompt, prompt, do_classifier_free_guidance=False, max_sequence_length=77, clip_skip=clip_skip
    )
    return context, vector


@torch.no_grad()
def test_equals_diffusers(state: dict[str, Tensor]) -> None:
    for prompt, cond in zip(PROMPTS, encode(state, PROMPTS), strict=True):
        context, vector = reference(prompt)
        assert cond.vector is not None
        assert relative_error(cond.context, context) < 1e-4
        assert relative_error(cond.vector, vector) < 1e-4


@torch.no_grad()
def test_clip_skip_equals_diffusers(state: dict[str, Tensor]) -> None:
    (cond,) = encode(state, PROMPTS[:1], clip_skip=3)
    assert cond.vector is not None
    assert relative_error(cond.context, reference(PROMPTS[0], clip_skip=1)[0]) < 1e-4
    assert relative_error(cond.vector, reference(PROMPTS[0])[1]) < 1e-4


@pytest.mark.parametrize(
    "absent",
    [("t5xxl",), ("clip_l",), ("clip_g",), ("clip_l", "clip_g"), ("clip_l", "t5xxl"), ("clip_g", "t5xxl")],
    ids="+".join,
)
@torch.no_grad()
def test_zeros_stand_for_what_is_absent(state: dict[str, Tensor], absent: tuple[str, ...]) -> None:
    (cond,) = encode(state, PROMPTS[:1], *absent)
    context, vector = (tensor.clone() for tensor in reference(PROMPTS[0]))
    if "clip_l" in absent:
        context[:, :77, :CLIP_L_WIDTH] = vector[:, :CLIP_L_WIDTH] = 0
    if "clip_g" in absent:
        context[:, :77, CLIP_L_WIDTH:CLIPS] = vector[:, CLIP_L_WIDTH:] = 0
    if "t5xxl" in absent:
        context[:, 77:] = 0
    assert cond.vector is not None
    assert relative_error(cond.context, context) < 1e-4
    assert not vector.any() or relative_error(cond.vector, vector) < 1e-4
    assert bool(cond.vector.any()) == bool(vector.any())


class TestLongPrompts:
    @torch.no_grad()
    def test_clip_reads_chunks_and_t5_all_at_once(self, state: dict[str, Tensor]) -> None:
        (cond,) = encode(state, [LONG])
        tokens = pipeline().tokenizer_3(LONG, return_tensors="pt").input_ids
        expected = pipeline().text_encoder_3(tokens)[0]
        assert cond.context.shape == (1, 2 * 77 + tokens.shape[1], T5_WIDTH)
        assert tokens.shape[1] > 77
        assert relative_error(cond.context[:, 2 * 77 :], expected) < 1e-4

    @torch.no_grad()
    def test_t5_in_chunks(self, state: dict[str, Tensor]) -> None:
        net, config = model(state)
        (cond,) = FAMILY.encode(net, [TextPrompt(LONG, 2)], replace(config, t5_chunks=True))
        tokens = pipeline().tokenizer_3(LONG).input_ids
        first = torch.tensor([[*tokens[:76], 1]])
        assert cond.context.shape == (1, 4 * 77, T5_WIDTH)
        assert relative_error(cond.context[:, 154:231], pipeline().text_encoder_3(first)[0]) < 1e-4

    @torch.no_grad()
    def test_as_many_zeros_as_clip_has_tokens(self, state: dict[str, Tensor]) -> None:
        (cond,) = encode(state, [LONG], "t5xxl")
        assert cond.context.shape == (1, 4 * 77, T5_WIDTH)
        assert not cond.context[:, 2 * 77 :].any()


@torch.no_grad()
def test_weights_count_in_every_encoder(state: dict[str, Tensor]) -> None:
    plain, weighted = encode(state, ["a red cat", "a (red:1.5) cat"])
    parts = [
        (plain.context[:, :77, :CLIP_L_WIDTH], weighted.context[:, :77, :CLIP_L_WIDTH], 2),
        (plain.context[:, :77, CLIP_L_WIDTH:CLIPS], weighted.context[:, :77, CLIP_L_WIDTH:CLIPS], 2),
    ]
    for before, after, place in parts:
        by_hand = before.clone()
        by_hand[:, place] *= 1.5
        assert relative_error(after, by_hand * (before.mean() / by_hand.mean())) < 1e-4
    assert plain.vector is not None
    assert weighted.vector is not None
    assert torch.equal(plain.vector, weighted.vector)
    assert not torch.equal(plain.context[:, 77:], weighted.context[:, 77:])
