from __future__ import annotations

import pytest
from tests.headers import read_header

from darkroom.weights.identify import describe_part, describe_stranger, describe_unknown
from darkroom.weights.index import TensorIndex, TensorInfo

FAMILIES = {
    "Stable Diffusion 1.x": ["model.diffusion_model.out.2.weight", "cond_stage_model.transformer.x", "vae.y"],
    "Stable Diffusion 2.x": ["model.diffusion_model.out.2.weight", "cond_stage_model.model.z"],
}


def index(*names: str) -> TensorIndex:
    return TensorIndex(TensorInfo(name, (1,), "f32") for name in names)


def test_names_the_closest_family_and_what_differs() -> None:
    text = describe_unknown(
        index("model.diffusion_model.out.2.weight", "vae.y", "joint.a", "joint.b", "joint.c", "joint.d"),
        FAMILIES,
    )
    assert text == (
        "unknown model: closest is Stable Diffusion 1.x, with 2 of 3 tensors it needs; "
        "1 (cond_stage_model.transformer.x) missing, 4 (joint.a, joint.b, joint.c, ...) unexpected; "
        "the file holds mostly model.diffusion_model (1), vae.y (1), joint.a (1), joint.b (1)"
    )


def test_says_what_there_is_where_nothing_is_close() -> None:
    names = [f"double_blocks.0.{i}" for i in range(5)]
    assert describe_unknown(index(*names), FAMILIES) == (
        "unknown model: 5 tensors, mostly double_blocks.0 (5); "
        "known families: Stable Diffusion 1.x, Stable Diffusion 2.x"
    )


def test_a_file_without_tensors_says_so() -> None:
    assert describe_unknown(TensorIndex([], {}), {"A": ["a"]}) == "holds no tensors; known families: A"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("companions/clip_l-comfyui", "CLIP-L, a text encoder of width 768"),
        ("companions/clip_g-comfyui", "OpenCLIP-bigG (CLIP-G), a text encoder of width 1280"),
        ("companions/t5xxl-comfyui", "T5-XXL, a text encoder of width 4096 with 32128 tokens"),
        ("companions/t5xxl-gguf", "T5-XXL, a text encoder of width 4096 with 32128 tokens"),
        ("companions/qwen2.5_vl_7b-comfyui", "Qwen2.5 7B, a language model of width 3584"),
        ("companions/qwen2.5_vl_7b-gguf", "Qwen2.5 7B, a language model of width 3584"),
        (
            "companions/qwen2.5_vl_7b_mmproj-gguf",
            "a vision tower without a language model (an mmproj file)",
        ),
        ("companions/qwen3_4b-comfyui", "Qwen3 4B, a language model of width 2560"),
        ("companions/qwen3_4b-gguf", "Qwen3 4B, a language model of width 2560"),
        ("companions/flux_ae-bfl", "a KL autoencoder with 16 latent channels (SD3 or Flux.1)"),
    ],
)
def test_a_part_given_as_the_whole_is_named(header: str, expected: str) -> None:
    part = read_header(header)
    assert describe_part(part) == expected
    assert f"{expected}; -m takes a whole model" in str(describe_stranger(part))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lora_unet_down_blocks_0.lora_down.weight", "a LoRA"),
        ("transformer.double_blocks.0.img_attn.qkv.lora_A.weight", "a LoRA"),
        ("control_model.input_blocks.0.0.weight", "a ControlNet"),
        ("model.diffusion_model.double_stream_modulation_img.lin.weight", "Flux.2"),
    ],
)
def test_what_is_not_drawn_with_is_named(name: str, expected: str) -> None:
    assert str(describe_stranger(index(name))).startswith(expected)


@pytest.mark.parametrize("header", ["sdxl-original", "flux_dev-bfl", "z_image-comfyui", "qwen_image-gguf"])
def test_diffusion_networks_are_no_strangers(header: str) -> None:
    assert describe_stranger(read_header(header)) is None
    assert describe_part(read_header(header)) == "a diffusion network or a whole model"
