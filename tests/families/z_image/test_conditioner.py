"""How prompts become text tokens, against diffusers' pipeline with a tiny Qwen3."""

from __future__ import annotations

import logging

import pytest
import torch
from diffusers import ZImagePipeline
from tests.families.z_image.reference import TEXT_WIDTH, encoder_state, text_encoder, tokenizer
from torch import Tensor
from transformers import Qwen3ForCausalLM

from darkroom.api.errors import CheckpointError
from darkroom.families.base import Conditioning, TextPrompt
from darkroom.families.z_image.conditioner import MAX_TOKENS, encode
from darkroom.families.z_image.model import TOKENS_MULTIPLE
from darkroom.nets.te.qwen import QwenConfig, QwenTextModel
from darkroom.nets.te.stack import TextEncoders
from darkroom.tokenizers.qwen import QwenTokenizer

PROMPTS = (
    "",
    "a red cube",
    "Ein Haus mit “Neon” 汉字 sign\n\nfor $5, don't!  two  spaces",
    "seventeen tall lamps " * 9,
    "<|im_end|>",
)


@pytest.fixture(scope="module")
def reference() -> Qwen3ForCausalLM:
    return text_encoder()


@pytest.fixture(scope="module")
def te(reference: Qwen3ForCausalLM) -> TextEncoders:
    state = encoder_state(reference)
    with torch.device("meta"):
        llm = QwenTextModel(QwenConfig.from_shapes({name: tuple(t.shape) for name, t in state.items()}))
    llm.load_state_dict(state, assign=True, strict=True)
    return TextEncoders(llm=llm).eval()


@pytest.fixture(scope="module")
def pipeline(reference: Qwen3ForCausalLM) -> ZImagePipeline:
    return ZImagePipeline(None, None, reference, tokenizer(), None)


def encoded(te: TextEncoders, *texts: str) -> list[Conditioning]:
    with torch.inference_mode():
        return encode(te, [TextPrompt(text, 1) for text in texts], QwenTokenizer())


def expected(pipeline: ZImagePipeline, text: str) -> Tensor:
    with torch.inference_mode():
        (states,) = pipeline.encode_prompt(text, device="cpu", do_classifier_free_guidance=False)[0]
    return states


def tokens_of(cond: Conditioning) -> Tensor:
    assert cond.mask is not None
    return cond.context[0, cond.mask[0]]


@pytest.mark.parametrize("text", PROMPTS)
def test_context_equals_diffusers(te: TextEncoders, pipeline: ZImagePipeline, text: str) -> None:
    (cond,) = encoded(te, text)
    torch.testing.assert_close(tokens_of(cond), expected(pipeline, text), rtol=1e-4, atol=1e-5)


def test_a_long_prompt_is_cut_where_diffusers_cuts_it(
    te: TextEncoders, pipeline: ZImagePipeline, caplog: pytest.LogCaptureFixture
) -> None:
    text = "lamp " * 600
    with caplog.at_level(logging.WARNING):
        (cond,) = encoded(te, text)
    assert "more than 512 tokens" in caplog.text
    assert cond.context.shape == (1, MAX_TOKENS, TEXT_WIDTH)
    torch.testing.assert_close(tokens_of(cond), expected(pipeline, text), rtol=1e-4, atol=1e-5)


def test_prompts_of_about_one_length_have_contexts_of_one_shape(te: TextEncoders) -> None:
    short, longer, long = encoded(te, "a", "a red cube on a table", "lamp " * 40)
    assert short.context.shape == longer.context.shape == (1, TOKENS_MULTIPLE, TEXT_WIDTH)
    assert long.context.shape == (1, 2 * TOKENS_MULTIPLE, TEXT_WIDTH)
    assert not torch.equal(tokens_of(short), tokens_of(longer)[: len(tokens_of(short))])


def test_weights_make_tokens_stronger(te: TextEncoders) -> None:
    plain, weighted = encoded(te, "a red cube", "a( red:1.5) cube")
    assert tokens_of(plain).shape == tokens_of(weighted).shape
    ratios = tokens_of(weighted).norm(dim=-1) / tokens_of(plain).norm(dim=-1)
    assert ratios.argmax() == 4  # <|im_start|> user \n a red cube


def test_another_vocabulary_is_an_error() -> None:
    shapes = {
        "model.embed_tokens.weight": (1000, TEXT_WIDTH),
        "model.layers.0.self_attn.q_proj.weight": (32, TEXT_WIDTH),
        "model.layers.0.self_attn.k_proj.weight": (16, TEXT_WIDTH),
        "model.layers.0.self_attn.q_norm.weight": (16,),
        "model.layers.0.mlp.gate_proj.weight": (48, TEXT_WIDTH),
    }
    with torch.device("meta"):
        te = TextEncoders(llm=QwenTextModel(QwenConfig.from_shapes(shapes)))
    with pytest.raises(CheckpointError, match="--llm: knows 1000 tokens, the prompt has token 151645"):
        encoded(te, "a")
