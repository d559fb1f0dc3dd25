"""Qwen2.5-VL's vision tower against transformers on the same random weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.comparison import relative_error
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from darkroom.nets.te.qwen import QwenConfig, QwenTextModel, image_positions
from darkroom.nets.te.qwen_vision import QwenVisionConfig, QwenVisionModel, normalised, smart_size

IMAGE, START = 90, 91


def reference_model() -> Qwen2_5_VLForConditionalGeneration:
    """The tower's second block of three sees the whole picture; heads of 40 in both."""
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 99,
            "hidden_size": 96,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]},
        },
        vision_config={
            "depth": 3,
            "hidden_size": 160,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 96,
            "fullatt_block_indexes": [1],
        },
        image_token_id=IMAGE,
        vision_start_token_id=START,
    )
    model = Qwen2_5_VLForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3 if parameter.ndim == 1 else 0.1)
    return model


def our_tower(reference: Qwen2_5_VisionTransformerPretrainedModel) -> QwenVisionModel:
    state = reference.state_dict()
    config = QwenVisionConfig.from_shapes({name: tuple(tensor.shape) for name, tensor in state.items()})
    with torch.device("meta"):
        net = QwenVisionModel(replace(config, whole_every=2))
    net.load_state_dict(state, assign=True, strict=True)
    return net.eval()


def processed(pixels: Tensor) -> dict[str, Tensor]:
    """What transformers' own preprocessing makes of pixels (b, 3, H, W) in [0, 1]."""
    processor = Qwen2VLImageProcessorPil(do_resize=False, do_rescale=False)
    return processor(list(pixels), return_tensors="pt")


@pytest.mark.parametrize(
    ("height", "width"),
    [(112, 112), (224, 112), (84, 140), (28, 28), (196, 252)],
    ids=["one window", "two", "padded right", "one cell", "padded both ways"],
)
@torch.no_grad()
def test_equals_transformers(height: int, width: int) -> None:
    reference = reference_model().model.visual
    pixels = torch.rand(2, 3, height, width)
    inputs = processed(pixels)
    expected = reference(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]).pooler_output
    actual = our_tower(reference)(pixels)
    assert actual.shape == (2, height // 28 * (width // 28), 96)
    assert relative_error(actual.flatten(0, 1), expected) < 1e-5


@torch.no_grad()
def test_decoder_with_eyes_equals_transformers() -> None:
    """A prompt with two pictures of different sizes, from pixels to hidden states."""
    reference = reference_model()
    pictures = [torch.rand(1, 3, 84, 112), torch.rand(1, 3, 56, 56)]
    grids = [(3, 4), (2, 2)]
    tokens = [1, START, *[IMAGE] * 12, 2, 3, START, *[IMAGE] * 4, 4]
    ids = torch.tensor([tokens])
    inputs = [processed(picture) for picture in pictures]
    expected = reference.model(
        ids,
        pixel_values=torch.cat([each["pixel_values"] for each in inputs]),
        image_grid_thw=torch.cat([each["image_grid_thw"] for each in inputs]),
        mm_token_type_ids=(ids == IMAGE).int(),
    ).last_hidden_state

    tower = our_tower(reference.model.visual)
    state = {f"model.{name}": t for name, t in reference.model.language_model.state_dict().items()}
    config = QwenConfig.from_shapes({name: tuple(tensor.shape) for name, tensor in state.items()})
    with torch.device("meta"):
        decoder = QwenTextModel(replace(config, image_token=IMAGE)).eval()
    decoder.load_state_dict(state, assign=True, strict=True)
    images = torch.cat([tower(picture)[0] for picture in pictures])
    actual = decoder(ids, images=images, positions=image_positions(tokens, grids, IMAGE)[:, None])
    assert relative_error(actual, expected) < 1e-5


def test_colours_are_normalised_as_transformers_does() -> None:
    pixels = torch.rand(1, 3, 28, 28)
    patches = processed(pixels)["pixel_values"]  # (4, 3 * 2 * 14 * 14)
    expected = patches.view(2, 2, 3, 2, 14, 14)[:, :, :, 0].permute(2, 0, 3, 1, 4).reshape(1, 3, 28, 28)
    torch.testing.assert_close(normalised(pixels), expected)


@pytest.mark.parametrize("limits", [(56**2, 1280 * 28**2), (384**2, 560**2)])
@pytest.mark.parametrize(
    ("width", "height"), [(1024, 1024), (512, 512), (30, 20), (4000, 300), (9, 700), (13, 13), (1919, 1081)]
)
def test_sizes_equal_transformers(width: int, height: int, limits: tuple[int, int]) -> None:
    expected = smart_resize(height, width, min_pixels=limits[0], max_pixels=limits[1])
    assert smart_size(width, height, min_pixels=limits[0], max_pixels=limits[1]) == expected[::-1]


def test_the_published_tower_is_read_from_shapes() -> None:
    shapes = {
        "patch_embed.proj.weight": (1280, 3, 2, 14, 14),
        "blocks.31.norm1.weight": (1280,),
        "blocks.0.mlp.gate_proj.weight": (3420, 1280),
        "merger.mlp.2.weight": (3584, 5120),
    }
    assert QwenVisionConfig.from_shapes(shapes) == QwenVisionConfig(1280, 3420, 32, 16, 3584, 14, 2)


def test_no_patches_is_an_error_with_the_name() -> None:
    with pytest.raises(KeyError, match=r"patch_embed\.proj\.weight"):
        QwenVisionConfig.from_shapes({})


@torch.no_grad()
def test_half_precision() -> None:
    net = our_tower(reference_model().model.visual)
    pixels = torch.rand(1, 3, 56, 84)
    expected = net(pixels)
    actual = net.to(torch.bfloat16)(pixels)
    assert actual.dtype == torch.bfloat16
    assert relative_error(actual.float(), expected) < 0.05
