"""Prompts through CLIP against diffusers' pipeline and against single runs of the encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from tests.reference_tokenizers import clip_tokenizer
from torch import Tensor
from transformers import CLIPTextConfig as ReferenceConfig
from transformers import CLIPTextModel as ReferenceModel

from darkroom.api.errors import CheckpointError, RequestError
from darkroom.families.base import TextPrompt
from darkroom.families.clip_text import encode_prompts
from darkroom.families.sd1 import conditioner as sd1
from darkroom.families.sd2 import conditioner as sd2
from darkroom.nets.te.clip import CLIPTextConfig, CLIPTextModel
from darkroom.tokenizers.clip import EOS, VOCAB_SIZE, ClipTokenizer

D, LAYERS = 64, 3
PROMPTS = ["a photo of a cat", "", "blurry, low quality, bad anatomy, 8 fingers", "naïve 🐈 in a café"]


@pytest.fixture(scope="module")
def reference() -> ReferenceModel:
    torch.manual_seed(0)
    model = ReferenceModel(
        ReferenceConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=D,
            intermediate_size=2 * D,
            num_hidden_layers=LAYERS,
            num_attention_heads=1,
            hidden_act="gelu",
        )
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    # diffusers looks for the final norm where transformers 4 had it.
    model.__dict__["text_model"] = model
    return model


@pytest.fixture(scope="module")
def te(reference: ReferenceModel) -> CLIPTextModel:
    state = {
        name if "text_model." in name else f"text_model.{name}": t
        for name, t in reference.state_dict().items()
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    with torch.device("meta"):
        net = CLIPTextModel(CLIPTextConfig.from_shapes(shapes, "gelu"))
    net.load_state_dict(state, assign=True)
    return net.eval().requires_grad_(False)


def pipeline(reference: ReferenceModel, pad_token: str) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=None,
        text_encoder=reference,
        tokenizer=clip_tokenizer(pad_token),
        unet=None,
        scheduler=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def contexts(
    te: CLIPTextModel, *prompts: str, pad: int = EOS, clip_skip: int = 1, **files: Path
) -> list[Tensor]:
    asked = [TextPrompt(prompt, clip_skip, files) for prompt in prompts]
    return [conditioning.context for conditioning in encode_prompts(te, asked, pad=pad)]


@pytest.mark.parametrize(("pad", "token"), [(EOS, "<|endoftext|>"), (0, "!")])
@pytest.mark.parametrize("clip_skip", [1, 2])
@torch.no_grad()
def test_equals_diffusers(
    reference: ReferenceModel, te: CLIPTextModel, pad: int, token: str, clip_skip: int
) -> None:
    pipe = pipeline(reference, token)
    for prompt, context in zip(PROMPTS, contexts(te, *PROMPTS, pad=pad, clip_skip=clip_skip), strict=True):
        expected, _ = pipe.encode_prompt(
            prompt, torch.device("cpu"), 1, False, clip_skip=clip_skip - 1 if clip_skip > 1 else None
        )
        assert context.shape == (1, 77, D)
        assert ((context - expected).abs().max() / expected.abs().max()).item() < 1e-5


def test_families_pad_and_skip_as_they_were_trained(te: CLIPTextModel) -> None:
    prompt = [TextPrompt("a cat", 2)]
    (first,), (second,) = sd1.encode(te, prompt), sd2.encode(te, prompt)
    assert torch.equal(first.context, contexts(te, "a cat", pad=EOS, clip_skip=2)[0])
    assert torch.equal(second.context, contexts(te, "a cat", pad=0, clip_skip=2)[0])
    assert (sd1.CLIP_SKIP, sd2.CLIP_SKIP) == (1, 2)


def test_prompts_of_different_lengths_share_a_batch(te: CLIPTextModel) -> None:
    long = "cat " * 500
    together = contexts(te, long, "", "a BREAK b")
    assert [context.shape[1] for context in together] == [7 * 77, 77, 2 * 77]
    for prompt, context in zip((long, "", "a BREAK b"), together, strict=True):
        torch.testing.assert_close(context, contexts(te, prompt)[0], rtol=1e-5, atol=1e-5)


def test_chunks_are_encoded_on_their_own(te: CLIPTextModel) -> None:
    (context,) = contexts(te, "cat " * 75 + "dog")
    torch.testing.assert_close(context[:, :77], contexts(te, "cat " * 75)[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(context[:, 77:], contexts(te, "dog")[0], rtol=1e-5, atol=1e-5)


def test_weights_scale_and_keep_the_mean(te: CLIPTextModel) -> None:
    (plain,), (weighted,) = contexts(te, "a photo of a cat"), contexts(te, "a photo of a (cat:1.5)")
    scale = torch.ones(77)
    scale[5] = 1.5
    expected = plain * scale[None, :, None]
    expected *= plain.mean() / expected.mean()
    torch.testing.assert_close(weighted, expected, rtol=1e-4, atol=1e-5)


def test_each_prompt_keeps_its_own_clip_skip(te: CLIPTextModel) -> None:
    prompts = [TextPrompt("a", 1), TextPrompt("b", 2), TextPrompt("c", 1)]
    for prompt, conditioning in zip(prompts, encode_prompts(te, prompts, pad=0), strict=True):
        alone = contexts(te, prompt.text, pad=0, clip_skip=prompt.clip_skip)[0]
        torch.testing.assert_close(conditioning.context, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("clip_skip", [0, -1, 4])
def test_clip_skip_outside_the_layers(te: CLIPTextModel, clip_skip: int) -> None:
    with pytest.raises(RequestError, match=rf"--clip-skip: {clip_skip} is outside 1 to 3"):
        contexts(te, "a", clip_skip=clip_skip)


def test_layer_that_the_file_left_out_is_counted(te: CLIPTextModel) -> None:
    (conditioning,) = encode_prompts(te, [TextPrompt("a", 2)], pad=0, layers_cut=1)
    assert torch.equal(conditioning.context, contexts(te, "a", pad=0, clip_skip=1)[0])
    with pytest.raises(RequestError, match="1 is outside 2 to 4"):
        encode_prompts(te, [TextPrompt("a", 1)], pad=0, layers_cut=1)


def test_small_vocabulary() -> None:
    other = CLIPTextModel(CLIPTextConfig(1000, 77, D, D, 1, 1))
    with pytest.raises(CheckpointError, match="knows 1000 tokens; CLIP's vocabulary has 49408"):
        contexts(other, "a cat")


class TestEmbeddings:
    def test_vectors_of_known_tokens_give_the_same_context(self, te: CLIPTextModel, tmp_path: Path) -> None:
        ids = ClipTokenizer().encode("black cat")
        table = te.text_model.embeddings.token_embedding.weight
        save_file({"emb_params": table[ids].clone()}, tmp_path / "inverted.safetensors")
        word = {"inverted": tmp_path / "inverted.safetensors"}
        with_word, without = contexts(te, "a (Inverted:1.2) BREAK inverted", "a black cat", **word)
        expected = contexts(te, "a (black cat:1.2) BREAK black cat")[0]
        torch.testing.assert_close(with_word, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(without, contexts(te, "a black cat")[0], rtol=1e-5, atol=1e-5)

    def test_two_embeddings_keep_their_vectors_apart(self, te: CLIPTextModel, tmp_path: Path) -> None:
        table = te.text_model.embeddings.token_embedding.weight
        files = {"one": tmp_path / "one.safetensors", "two": tmp_path / "two.safetensors"}
        cat, dog = ClipTokenizer().encode("cat dog")
        save_file({"emb_params": table[[cat]].clone()}, files["one"])
        save_file({"emb_params": table[dog].clone()}, files["two"])
        first, second = contexts(te, "two one", "one", **files)
        torch.testing.assert_close(first, contexts(te, "dog cat")[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(second, contexts(te, "cat")[0], rtol=1e-5, atol=1e-5)

    def test_only_used_files_are_read(self, te: CLIPTextModel, tmp_path: Path) -> None:
        (missing := tmp_path / "broken.pt").write_bytes(b"no checkpoint")
        assert torch.equal(contexts(te, "a cat", broken=missing)[0], contexts(te, "a cat")[0])

    def test_wrong_width(self, te: CLIPTextModel, tmp_path: Path) -> None:
        path = tmp_path / "wide.safetensors"
        save_file({"emb_params": torch.zeros(2, 1024)}, path)
        with pytest.raises(CheckpointError, match=r"wide\.safetensors: embedding of width 1024; .* takes 64"):
            contexts(te, "wide", wide=path)
