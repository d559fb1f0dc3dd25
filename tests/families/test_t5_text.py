"""Prompts through T5 against transformers' encoder and against single runs of ours."""

from __future__ import annotations

import pytest
import torch
from tests.comparison import relative_error
from transformers import T5Config as ReferenceConfig
from transformers import T5EncoderModel as ReferenceModel

from darkroom.api.errors import CheckpointError
from darkroom.families.t5_text import encode_chunks
from darkroom.nets.te.t5 import T5Config, T5EncoderModel
from darkroom.tokenizers.prompt import MaskedChunks, chunk_t5, parse_weights
from darkroom.tokenizers.t5 import VOCAB_SIZE, T5Tokenizer

LENGTH = 12
SHORT, EMPTY, LONG = "a photo of a cat", "", "one two three four five six seven eight nine ten eleven twelve"


@pytest.fixture(scope="module")
def reference() -> ReferenceModel:
    torch.manual_seed(0)
    config = ReferenceConfig(
        vocab_size=VOCAB_SIZE, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return ReferenceModel(config).eval()


@pytest.fixture(scope="module")
def te(reference: ReferenceModel) -> T5EncoderModel:
    state = {name: t for name, t in reference.state_dict().items() if "embed_tokens" not in name}
    net = T5EncoderModel(T5Config.from_shapes({name: tuple(t.shape) for name, t in state.items()}))
    net.load_state_dict(state)
    return net.eval().requires_grad_(False)


def laid_out(prompt: str, length: int = LENGTH) -> MaskedChunks:
    return chunk_t5(parse_weights(prompt), T5Tokenizer(), length=length)


@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_equals_transformers(te: T5EncoderModel, reference: ReferenceModel, masked: bool) -> None:
    prompts = [laid_out(prompt) for prompt in (SHORT, EMPTY, LONG)]
    for chunks, hidden in zip(prompts, encode_chunks(te, prompts, masked=masked), strict=True):
        mask = torch.tensor(chunks.mask).long() if masked else None
        expected = reference(torch.tensor(chunks.tokens), attention_mask=mask).last_hidden_state
        assert hidden.shape == (1, LENGTH * len(chunks.tokens), 32)
        assert relative_error(hidden, expected.flatten(0, 1)[None]) < 1e-5


def test_chunks_of_different_lengths(te: T5EncoderModel) -> None:
    prompts = [laid_out(SHORT), laid_out(LONG, 40)]
    for hidden, prompt in zip(encode_chunks(te, prompts), prompts, strict=True):
        torch.testing.assert_close(hidden, encode_chunks(te, [prompt])[0])


def test_weights_keep_the_mean(te: T5EncoderModel) -> None:
    plain, weighted = encode_chunks(te, [laid_out("a cat"), laid_out("a (cat:1.5)")])
    by_hand = plain.clone()
    by_hand[:, 2] *= 1.5  # of the tokens a, empty, cat, EOS
    assert relative_error(weighted, by_hand * (plain.mean() / by_hand.mean())) < 1e-4


def test_another_vocabulary_is_an_error() -> None:
    with torch.device("meta"):
        net = T5EncoderModel(T5Config(100, 8, 8, 8, 1, 1, 32))
    with pytest.raises(CheckpointError, match="--t5xxl: knows 100 tokens, the prompt has token"):
        encode_chunks(net, [laid_out(SHORT)])
