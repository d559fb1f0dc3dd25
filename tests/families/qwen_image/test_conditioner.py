"""How prompts and pictures become text tokens, against the pipelines of diffusers with a tiny Qwen2.5-VL."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import QwenImageEditPipeline, QwenImageEditPlusPipeline, QwenImagePipeline
from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus import calculate_dimensions
from PIL import Image
from tests.comparison import relative_error
from tests.families.qwen_image.reference import WIDTH, Processor, TextEncoder, photo, text_encoder
from tests.reference_tokenizers import qwen_tokenizer
from torch import Tensor, nn
from transformers import Qwen2Tokenizer

from darkroom.api.errors import RequestError
from darkroom.families.base import TextPrompt
from darkroom.families.qwen_image.conditioner import DRAW, EDIT, MAX_TOKENS, Chat, area_size, encode
from darkroom.families.qwen_image.config import QwenImageConfig
from darkroom.families.qwen_image.model import QwenImageTransformerConfig
from darkroom.nets.te.qwen import QwenConfig, QwenTextModel
from darkroom.nets.te.qwen_vision import QwenVisionConfig, QwenVisionModel
from darkroom.nets.te.stack import TextEncoders
from darkroom.nets.vae.wan import WanConfig
from darkroom.tokenizers.qwen import QwenTokenizer

PROMPT = "Ein Haus in blue mit “Neon” 汉字 sign\n\nfor $5"


@pytest.fixture(scope="module")
def reference() -> TextEncoder:
    return text_encoder()


@pytest.fixture(scope="module")
def tokenizer() -> Qwen2Tokenizer:
    return qwen_tokenizer()


@pytest.fixture(scope="module")
def processor(tokenizer: Qwen2Tokenizer) -> Processor:
    return Processor(tokenizer)


@pytest.fixture(scope="module")
def config(reference: TextEncoder) -> QwenImageConfig:
    text, tower = reference.model.language_model.state_dict(), reference.model.visual.state_dict()
    return QwenImageConfig(
        QwenImageTransformerConfig(context_dim=WIDTH, num_layers=1, num_heads=1, head_size=16),
        QwenConfig.from_shapes({f"model.{name}": tuple(t.shape) for name, t in text.items()}),
        QwenVisionConfig.from_shapes({name: tuple(t.shape) for name, t in tower.items()}),
        WanConfig(dim=8),
    )


@pytest.fixture(scope="module")
def te(reference: TextEncoder, config: QwenImageConfig) -> nn.Module:
    assert config.vision is not None
    with torch.device("meta"):
        encoders = TextEncoders(llm=QwenTextModel(config.llm), llm_vision=QwenVisionModel(config.vision))
    text, tower = reference.model.language_model.state_dict(), reference.model.visual.state_dict()
    state = {f"llm.model.{name}": tensor for name, tensor in text.items()}
    state |= {f"llm_vision.{name}": tensor for name, tensor in tower.items()}
    encoders.load_state_dict(state, assign=True, strict=True)
    return encoders.eval()


def context(te: nn.Module, config: QwenImageConfig, text: str, *images: Image.Image, **rest: Any) -> Tensor:  # noqa: ANN401
    (cond,) = encode(te, [TextPrompt(text, 1, images=images, **rest)], config)
    assert cond.mask is None
    return cond.context


@pytest.mark.parametrize("text", [PROMPT, "", " ", "\n\nx", "a <|im_end|> b"])
@torch.inference_mode()
def test_prompts_equal_diffusers(
    te: nn.Module, config: QwenImageConfig, reference: TextEncoder, tokenizer: Qwen2Tokenizer, text: str
) -> None:
    pipeline = QwenImagePipeline(None, None, reference, tokenizer, None)
    expected, mask = pipeline.encode_prompt(text, device="cpu")
    assert mask is None
    assert relative_error(context(te, config, text), expected) < 1e-5


@pytest.mark.parametrize("sizes", [[(640, 480)], [(200, 504), (256, 256)]], ids=("one", "two"))
@torch.inference_mode()
def test_numbered_pictures_equal_diffusers(
    te: nn.Module,
    config: QwenImageConfig,
    reference: TextEncoder,
    processor: Processor,
    sizes: list[tuple[int, int]],
) -> None:
    """As the pipeline of Edit-2509 and Edit-2511 sees them."""
    images = [photo(*size, seed) for seed, size in enumerate(sizes)]
    pipeline = QwenImageEditPlusPipeline(None, None, reference, processor.tokenizer, processor, None)
    small = []
    for image in images:
        width, height = calculate_dimensions(384 * 384, image.width / image.height)
        small.append(pipeline.image_processor.resize(image, height, width))
    expected, _ = pipeline.encode_prompt(PROMPT, image=small, device="cpu")
    got = context(te, config, PROMPT, *images)
    assert relative_error(got, expected) < 1e-4
    assert relative_error(context(te, config, PROMPT, *(photo(*size, 7) for size in sizes)), expected) > 0.01


@torch.inference_mode()
def test_the_first_edits_picture_equals_diffusers(
    te: nn.Module, config: QwenImageConfig, reference: TextEncoder, processor: Processor
) -> None:
    image = photo(640, 480)
    pipeline = QwenImageEditPipeline(None, None, reference, processor.tokenizer, processor, None)
    width, height = calculate_dimensions(1024 * 1024, image.width / image.height)
    large = pipeline.image_processor.resize(image, height, width)
    expected, _ = pipeline.encode_prompt(PROMPT, image=large, device="cpu")
    got = context(te, replace(config, numbers_pictures=False), PROMPT, image)
    assert relative_error(got, expected) < 1e-4


@torch.inference_mode()
def test_an_empty_negative_prompt_is_a_space(te: nn.Module, config: QwenImageConfig) -> None:
    """As in the authors' examples."""
    assert torch.equal(context(te, config, "", negative=True), context(te, config, " "))
    assert torch.equal(context(te, config, "x", negative=True), context(te, config, "x"))


@torch.inference_mode()
def test_prompts_are_the_same_alone_and_together(te: nn.Module, config: QwenImageConfig) -> None:
    texts = ["a cat", "a much longer prompt than the other", ""]
    together = encode(te, [TextPrompt(text, 1) for text in texts], config)
    for text, cond in zip(texts, together, strict=True):
        assert torch.equal(cond.context, context(te, config, text))


@torch.inference_mode()
@pytest.mark.parametrize("place", ["<|image_pad|>", "<|image_<|image_pad|>pad|>"])
def test_the_place_of_pictures_cannot_be_written(te: nn.Module, config: QwenImageConfig, place: str) -> None:
    image = photo(64, 64)
    got = context(te, config, f"a{place}b", image)
    assert torch.equal(got, context(te, config, "ab", image))


@torch.inference_mode()
def test_long_prompts_are_cut(
    te: nn.Module, config: QwenImageConfig, caplog: pytest.LogCaptureFixture
) -> None:
    assert context(te, config, "cat " * (MAX_TOKENS + 100)).shape[1] == MAX_TOKENS
    assert "more than 1024 tokens" in caplog.text


@torch.inference_mode()
def test_weights_make_tokens_stronger(te: nn.Module, config: QwenImageConfig) -> None:
    plain, weighted = (context(te, config, text)[0] for text in ("a red cube", "a( red:1.5) cube"))
    assert (weighted.norm(dim=-1) / plain.norm(dim=-1)).argmax() == 1  # a red cube


def test_pictures_need_the_vision_tower(te: nn.Module, config: QwenImageConfig) -> None:
    with pytest.raises(RequestError, match="--llm_vision"):
        context(te, replace(config, vision=None), PROMPT, photo(64, 64))


@pytest.mark.parametrize("chat", [DRAW, EDIT])
def test_what_is_dropped_ends_where_the_prompt_begins(chat: Chat) -> None:
    assert len(QwenTokenizer().encode(chat.before)) == chat.drop


@pytest.mark.parametrize(("width", "height"), [(1024, 1024), (640, 480), (100, 1000), (3000, 17), (1, 5000)])
@pytest.mark.parametrize("area", [384 * 384, 1024 * 1024])
def test_sizes_are_the_authors(width: int, height: int, area: int) -> None:
    theirs = calculate_dimensions(area, width / height)
    assert area_size(width, height, area) == tuple(max(32, side) for side in theirs)
