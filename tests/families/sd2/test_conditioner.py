"""OpenCLIP-H in its two forms: all 24 layers, and diffusers' 23."""

from __future__ import annotations

import pytest
import torch

from darkroom.api.errors import RequestError
from darkroom.families.base import TextPrompt
from darkroom.families.sd2 import conditioner
from darkroom.nets.te.clip import CLIPTextConfig, CLIPTextModel
from darkroom.tokenizers.clip import VOCAB_SIZE


def text_encoder(layers: int) -> CLIPTextModel:
    torch.manual_seed(0)
    net = CLIPTextModel(CLIPTextConfig(VOCAB_SIZE, 77, 64, 64, layers, 1, "gelu"))
    return net.eval().requires_grad_(False)


def test_a_file_without_the_last_layer_gives_the_same_context() -> None:
    whole, cut = text_encoder(24), text_encoder(23)
    state = {name: tensor for name, tensor in whole.state_dict().items() if ".layers.23." not in name}
    cut.load_state_dict(state)
    prompt = [TextPrompt("a cat", conditioner.CLIP_SKIP)]
    (expected,), (actual,) = conditioner.encode(whole, prompt), conditioner.encode(cut, prompt)
    assert torch.equal(actual.context, expected.context)


def test_the_missing_layer_cannot_be_asked_for() -> None:
    with pytest.raises(RequestError, match="--clip-skip: 1 is outside 2 to 24"):
        conditioner.encode(text_encoder(23), [TextPrompt("a cat", 1)])
