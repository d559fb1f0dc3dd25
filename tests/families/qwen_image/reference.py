"""A tiny Qwen2.5-VL as diffusers' pipelines of Qwen-Image use it, and pictures for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from darkroom.tokenizers.qwen import IMAGE_PAD, VISION_START

WIDTH = 64


class TextEncoder(Qwen2_5_VLForConditionalGeneration):
    """Tells transformers 5 which tokens are pictures; the pipelines are from when it looked itself."""

    def forward(self, input_ids: Tensor, **kwargs: Any) -> Any:  # noqa: ANN401
        return super().forward(input_ids, mm_token_type_ids=(input_ids == IMAGE_PAD).int(), **kwargs)


def text_encoder() -> TextEncoder:
    """Random weights, Qwen's vocabulary."""
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 151680,
            "hidden_size": WIDTH,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]},
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 80,
            "intermediate_size": 48,
            "num_heads": 1,
            "out_hidden_size": WIDTH,
        },
        image_token_id=IMAGE_PAD,
        vision_start_token_id=VISION_START,
        tie_word_embeddings=True,
    )
    model = TextEncoder(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3 if parameter.ndim == 1 else 0.1)
    return model


class Processor:
    """transformers' Qwen2VLProcessor without its videos, which need torchvision."""

    def __init__(self, tokenizer: Qwen2Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.image_processor = Qwen2VLImageProcessorPil(min_pixels=3136, max_pixels=12845056)

    def __call__(self, text: list[str], images: Any, **kwargs: Any) -> BatchFeature:  # noqa: ANN401
        features = self.image_processor(images, return_tensors="pt")
        (whole,) = text
        parts = whole.split("<|image_pad|>")
        counts = [int(grid.prod()) // 4 for grid in features["image_grid_thw"]]
        whole = parts[0] + "".join(
            "<|image_pad|>" * n + part for n, part in zip(counts, parts[1:], strict=True)
        )
        return BatchFeature({**features, **self.tokenizer([whole], **kwargs)})


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Soft random colours."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
