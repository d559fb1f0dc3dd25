"""SDXL's prompts against diffusers' pipeline on the same tiny text encoders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import save_file
from tests.comparison import relative_error
from tests.reference_tokenizers import clip_tokenizer
from transformers import CLIPTextConfig as ReferenceConfig
from transformers import CLIPTextModel as ReferenceModel
from transformers import CLIPTextModelWithProjection as ReferenceWithProjection

from darkroom.api.errors import CheckpointError
from darkroom.api.names import PredictionType
from darkroom.families.base import Conditioning, Frame, TextPrompt
from darkroom.families.sdxl.conditioner import CLIP_SKIP, add_sizes, encode
from darkroom.families.sdxl.config import SDXLConfig
from darkroom.nets.te.clip import CLIPTextConfig, CLIPTextModel
from darkroom.nets.te.stack import TextEncoders
from darkroom.nets.unet import UNetConfig
from darkroom.nets.vae.kl import KLConfig
from darkroom.tokenizers.clip import EOS, VOCAB_SIZE, ClipTokenizer

WIDTH_L, WIDTH_G, POOLED, LAYERS = 64, 128, 48, 3
PROMPTS = ["a photo of a cat", "blurry, low quality, bad anatomy, 8 fingers", "naïve 🐈 in a café"]


def reference_config(width: int, activation: str) -> ReferenceConfig:
    return ReferenceConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=LAYERS,
        num_attention_heads=width // 64,
        hidden_act=activation,
        projection_dim=POOLED,
        eos_token_id=EOS,
    )


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionXLPipeline:
    torch.manual_seed(0)
    encoders = (
        ReferenceModel(reference_config(WIDTH_L, "quick_gelu")),
        ReferenceWithProjection(reference_config(WIDTH_G, "gelu")),
    )
    with torch.no_grad():
        for encoder in encoders:
            for parameter in encoder.eval().parameters():
                parameter.normal_(std=0.2)
    return StableDiffusionXLPipeline(
        vae=None,
        text_encoder=encoders[0],
        text_encoder_2=encoders[1],
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer("!"),
        unet=None,
        scheduler=None,
    )


def our_encoder(reference: torch.nn.Module, activation: str) -> CLIPTextModel:
    state = {
        name if name.startswith("text_") else f"text_model.{name}": tensor
        for name, tensor in reference.state_dict().items()
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    net = CLIPTextModel(CLIPTextConfig.from_shapes(shapes, activation))  # type: ignore[arg-type]
    net.load_state_dict(state, strict=True)
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def te(pipeline: StableDiffusionXLPipeline) -> TextEncoders:
    return TextEncoders(
        clip_l=our_encoder(pipeline.text_encoder, "quick_gelu"),
        clip_g=our_encoder(pipeline.text_encoder_2, "gelu"),
    )


@pytest.fixture(scope="module")
def config(te: TextEncoders) -> SDXLConfig:
    return SDXLConfig(UNetConfig(), KLConfig(), te.clip_l.config, te.clip_g.config)  # type: ignore[arg-type]


def encode_one(te: TextEncoders, config: SDXLConfig, text: str, **files: Path) -> Conditioning:
    return encode(te, [TextPrompt(text, CLIP_SKIP, files)], config)[0]


@pytest.mark.parametrize("clip_skip", [1, 2, 3])
@torch.no_grad()
def test_equals_diffusers(
    pipeline: StableDiffusionXLPipeline, te: TextEncoders, config: SDXLConfig, clip_skip: int
) -> None:
    encoded = encode(te, [TextPrompt(text, clip_skip) for text in PROMPTS], config)
    for text, ours in zip(PROMPTS, encoded, strict=True):
        hidden, _, pooled, _ = pipeline.encode_prompt(
            text, device="cpu", do_classifier_free_guidance=False, clip_skip=clip_skip - 2
        )
        assert relative_error(ours.context, hidden) < 1e-5
        assert ours.vector is not None
        assert relative_error(ours.vector, pooled) < 1e-5


@torch.no_grad()
def test_negative_prompts_equal_diffusers(
    pipeline: StableDiffusionXLPipeline, te: TextEncoders, config: SDXLConfig
) -> None:
    (ours,) = encode(te, [TextPrompt(PROMPTS[1], CLIP_SKIP, negative=True)], config)
    _, hidden, _, pooled = pipeline.encode_prompt("a cat", negative_prompt=PROMPTS[1], device="cpu")
    assert relative_error(ours.context, hidden) < 1e-5
    assert ours.vector is not None
    assert relative_error(ours.vector, pooled) < 1e-5


@torch.no_grad()
def test_an_empty_negative_prompt_is_zeros_and_its_vector_an_empty_texts(
    pipeline: StableDiffusionXLPipeline, te: TextEncoders, config: SDXLConfig
) -> None:
    (ours,) = encode(te, [TextPrompt("", CLIP_SKIP, negative=True)], config)
    _, hidden, _, _ = pipeline.encode_prompt("a cat", device="cpu")  # none given: zeros
    _, _, _, pooled = pipeline.encode_prompt("a cat", negative_prompt="", device="cpu")
    assert torch.equal(ours.context, hidden)
    assert not ours.context.any()
    assert ours.vector is not None
    assert relative_error(ours.vector, pooled) < 1e-5


@torch.no_grad()
def test_an_empty_text_that_is_none_of_these_counts(
    pipeline: StableDiffusionXLPipeline, te: TextEncoders, config: SDXLConfig
) -> None:
    hidden, _, _, _ = pipeline.encode_prompt("", device="cpu")
    assert relative_error(encode_one(te, config, "").context, hidden) < 1e-5
    cosxl = replace(config, prediction=PredictionType.EDM_V)
    (negative,) = encode(te, [TextPrompt("", CLIP_SKIP, negative=True)], cosxl)
    assert relative_error(negative.context, hidden) < 1e-5


@torch.no_grad()
def test_chunks_stand_one_after_the_other_and_the_first_is_pooled(
    te: TextEncoders, config: SDXLConfig
) -> None:
    long = encode_one(te, config, "cat " * 75 + "dog")
    first, second = encode_one(te, config, "cat " * 75), encode_one(te, config, "dog")
    expected = torch.cat((first.context, second.context), dim=1)
    torch.testing.assert_close(long.context, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(long.vector, first.vector, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_projection_may_stay_as_open_clip_has_it(te: TextEncoders, config: SDXLConfig) -> None:
    torch.manual_seed(3)
    square = CLIPTextModel(replace(config.clip_g, projection_dim=WIDTH_G)).eval().requires_grad_(False)
    turned = CLIPTextModel(square.config).eval().requires_grad_(False)
    matrix = square.text_projection.weight
    turned.load_state_dict({**square.state_dict(), "text_projection.weight": matrix.mT.contiguous()})
    prompt = [TextPrompt("a cat", CLIP_SKIP)]
    unturned = replace(config, unturned_projection=True)
    (ours,) = encode(TextEncoders(clip_l=te.clip_l, clip_g=square), prompt, unturned)
    (expected,) = encode(TextEncoders(clip_l=te.clip_l, clip_g=turned), prompt, config)
    torch.testing.assert_close(ours.vector, expected.vector)


@torch.no_grad()
def test_break_fills_a_chunk_as_its_end_does(te: TextEncoders, config: SDXLConfig) -> None:
    both = encode_one(te, config, "a black cat BREAK a dog")
    first, second = encode_one(te, config, "a black cat "), encode_one(te, config, " a dog")
    expected = torch.cat((first.context, second.context), dim=1)
    torch.testing.assert_close(both.context, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_weights_scale_both_halves_and_keep_their_mean(te: TextEncoders, config: SDXLConfig) -> None:
    plain, weighted = encode_one(te, config, "a cat"), encode_one(te, config, "a (cat:1.5)")
    expected = plain.context.clone()
    expected[:, 2] *= 1.5
    expected *= plain.context.mean() / expected.mean()
    torch.testing.assert_close(weighted.context, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(weighted.vector, plain.vector)  # type: ignore[arg-type]


@torch.no_grad()
def test_the_vector_ends_with_sizes_as_diffusers_embeds_them() -> None:
    from diffusers.models.embeddings import Timesteps

    pooled = torch.randn(1, POOLED)
    framed = add_sizes(Conditioning(torch.zeros(1, 77, 8), vector=pooled), Frame(width=832, height=1216))
    sizes = torch.tensor([1216.0, 832, 0, 0, 1216, 832])
    embedded = Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0)(sizes).flatten()[None]
    assert framed.vector is not None
    torch.testing.assert_close(framed.vector, torch.cat((pooled, embedded), dim=1))


class TestEmbeddings:
    @torch.no_grad()
    def test_vectors_of_known_tokens_give_the_same(
        self, te: TextEncoders, config: SDXLConfig, tmp_path: Path
    ) -> None:
        ids = ClipTokenizer().encode("black cat")
        tables = {
            role: getattr(te, role).text_model.embeddings.token_embedding.weight
            for role in ("clip_l", "clip_g")
        }
        save_file({role: table[ids].clone() for role, table in tables.items()}, tmp_path / "word.safetensors")
        with_word = encode_one(te, config, "a (word:1.2)", word=tmp_path / "word.safetensors")
        expected = encode_one(te, config, "a (black cat:1.2)")
        torch.testing.assert_close(with_word.context, expected.context, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(with_word.vector, expected.vector, rtol=1e-5, atol=1e-5)

    def test_one_encoder_is_not_enough(self, te: TextEncoders, config: SDXLConfig, tmp_path: Path) -> None:
        path = tmp_path / "sd1.safetensors"
        save_file({"emb_params": torch.zeros(2, WIDTH_L)}, path)
        with pytest.raises(CheckpointError, match=rf"embedding of width {WIDTH_L}; .* takes {WIDTH_G}"):
            encode_one(te, config, "sd1", sd1=path)

    def test_vectors_must_be_as_many(self, te: TextEncoders, config: SDXLConfig, tmp_path: Path) -> None:
        path = tmp_path / "uneven.safetensors"
        save_file({"clip_l": torch.zeros(2, WIDTH_L), "clip_g": torch.zeros(3, WIDTH_G)}, path)
        with pytest.raises(CheckpointError, match="it needs as many in clip_l as in clip_g"):
            encode_one(te, config, "uneven", uneven=path)
