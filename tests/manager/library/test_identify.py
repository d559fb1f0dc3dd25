"""Files that are no model of ours: LoRAs, ControlNets, other families; and variants of those that are."""

from __future__ import annotations

import pytest
from tests.headers import changed, read_header

from darkroom.manager.library.identify import identify
from darkroom.manager.library.parts import FileFormat, Identity, PartKind
from darkroom.manager.library.tensors import Header, TensorHead
from darkroom.weights.index import TensorIndex


def of(tensors: dict[str, tuple[int, ...]]) -> Identity:
    return identify(
        Header(FileFormat.SAFETENSORS, {name: TensorHead(s, "f16", 2) for name, s in tensors.items()})
    )


def of_header(index: TensorIndex) -> Identity:
    return of({name: info.shape for name, info in index.items()})


STRANGERS = {
    "kohya lora": (
        {
            "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": (16, 3072),
            "lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": (9216, 16),
            "lora_unet_double_blocks_0_img_attn_qkv.alpha": (),
        },
        PartKind.LORA,
        "LoRA for flux",
    ),
    "diffusers lora": (
        {f"transformer.transformer_blocks.0.img_mlp.net.2.lora_{part}.weight": (4, 4) for part in "AB"},
        PartKind.LORA,
        "LoRA for qwen_image",
    ),
    "controlnet": (
        {"control_model.input_hint_block.0.weight": (16, 3, 3, 3)},
        PartKind.CONTROLNET,
        "ControlNet",
    ),
    "esrgan": (
        {"conv_first.weight": (64, 3, 3, 3), "body.0.rdb1.conv1.weight": (32, 64, 3, 3)},
        PartKind.UPSCALER,
        "ESRGAN",
    ),
    "old esrgan": ({"model.1.sub.0.RDB1.conv1.0.weight": (32, 64, 3, 3)}, PartKind.UPSCALER, "ESRGAN"),
    "embedding": ({"emb_params": (4, 768)}, PartKind.EMBEDDING, "embedding"),
    "embedding of webui": ({"string_to_param.*": (4, 768)}, PartKind.EMBEDDING, "embedding"),
    "embedding for sdxl": ({"clip_l": (4, 768), "clip_g": (4, 1280)}, PartKind.EMBEDDING, "embedding"),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_files_that_belong_to_models(name: str) -> None:
    tensors, kind, problem = STRANGERS[name]
    identity = of(tensors)
    assert [part.kind for part in identity.parts] == [kind]
    assert problem in identity.problem
    assert not identity.is_model


COMPANIONS = {
    "taesd of diffusers": ({"decoder.layers.0.weight": (64, 4, 3, 3)}, PartKind.TAE, "taesd", 4),
    "taef1": ({"decoder.1.weight": (64, 16, 3, 3)}, PartKind.TAE, "taesd", 16),
    "flux2": (
        {
            "decoder.conv_in.weight": (512, 32, 3, 3),
            "encoder.conv_in.weight": (128, 3, 3, 3),
            "bn.running_mean": (128,),
        },
        PartKind.VAE,
        "flux2_vae",
        32,
    ),
    "wan 2.2": (
        {
            "decoder.conv1.weight": (1024, 48, 3, 3, 3),
            "conv2.bias": (48,),
            "encoder.conv1.weight": (160, 12, 3, 3, 3),
        },
        PartKind.VAE,
        "wan",
        48,
    ),
    "qwen3 8b": (
        {"model.embed_tokens.weight": (151936, 4096), "model.layers.0.self_attn.q_norm.weight": (128,)},
        PartKind.LLM,
        "qwen3",
        4096,
    ),
    "qwen2.5 3b": (
        {"model.embed_tokens.weight": (151936, 2048), "model.layers.0.self_attn.q_proj.bias": (2048,)},
        PartKind.LLM,
        "qwen2",
        2048,
    ),
    "mistral": (
        {"token_embd.weight": (131072, 5120), "blk.0.attn_norm.weight": (5120,)},
        PartKind.LLM,
        "llama",
        5120,
    ),
    "umt5 gguf": (
        {"token_embd.weight": (256384, 4096), "enc.blk.0.attn_q.weight": (4096, 4096)},
        PartKind.T5XXL,
        "umt5",
        4096,
    ),
    "clip vision": (
        {"vision_model.embeddings.patch_embedding.weight": (1280, 3, 14, 14)},
        PartKind.CLIP_VISION,
        "clip_vision",
        1280,
    ),
    "open_clip": (
        {"token_embedding.weight": (49408, 1024), "positional_embedding": (77, 1024)},
        PartKind.CLIP_L,
        "clip_text",
        1024,
    ),
}


@pytest.mark.parametrize("name", COMPANIONS)
def test_companions_are_told_apart(name: str) -> None:
    tensors, kind, architecture, width = COMPANIONS[name]
    (part,) = of(tensors).parts
    assert (part.kind, part.architecture, part.width) == (kind, architecture, width)


VARIANTS = {
    ("flux_schnell-bfl", "schnell"),
    ("flux_fill-bfl", "Fill"),
    ("flux_dev-diffusers", "dev, Kontext or Krea"),
    ("sd3.5_medium-original", "3.5 medium"),
    ("sd3_medium-original", "3 medium"),
    ("sdxl_inpainting-diffusers", "inpainting"),
    ("ssd_1b-original", "SSD-1B"),
    ("segmind_vega-original", "Vega"),
    ("qwen_image_edit_2511-comfyui", "Edit-2511"),
}


@pytest.mark.parametrize(("header", "variant"), sorted(VARIANTS))
def test_variants(header: str, variant: str) -> None:
    assert of_header(read_header(header)).variant == variant


def test_variants_that_are_not_drawn_with() -> None:
    depth = of_header(changed("flux_dev-bfl", {"img_in.weight": (3072, 128)}))
    assert (depth.family, depth.is_model) == ("flux", False)
    assert "Depth or Canny" in depth.problem
    pix2pix = of_header(changed("sdxl-gguf", {"input_blocks.0.0.weight": (320, 8, 3, 3)}))
    assert "8 input channels" in pix2pix.problem


OTHERS = {
    "wan": {
        "head.modulation": (1, 2, 5120),
        "blocks.0.cross_attn.norm_k.weight": (5120,),
        "patch_embedding.weight": (5120, 16, 1, 2, 2),
        "text_embedding.0.weight": (5120, 4096),
    },
    "wan_i2v": {
        "head.modulation": (1, 2, 5120),
        "blocks.0.cross_attn.norm_k.weight": (5120,),
        "patch_embedding.weight": (5120, 36, 1, 2, 2),
        "text_embedding.0.weight": (5120, 4096),
        "img_emb.proj.0.weight": (1280,),
    },
    "wan22_5b": {
        "head.modulation": (1, 2, 3072),
        "blocks.0.cross_attn.norm_k.weight": (3072,),
        "patch_embedding.weight": (3072, 48, 1, 2, 2),
        "text_embedding.0.weight": (3072, 4096),
    },
    "flux2": {
        "double_stream_modulation_img.lin.weight": (1, 1),
        "img_in.weight": (6144, 128),
        "txt_in.weight": (6144, 15360),
    },
    "chroma_radiance": {
        "distilled_guidance_layer.in_proj.weight": (1, 1),
        "nerf_image_embedder.embedder.0.weight": (1, 1),
    },
    "hunyuan_video": {"txt_in.individual_token_refiner.blocks.0.adaLN_modulation.1.weight": (1, 1)},
    "ltxv": {"adaln_single.emb.timestep_embedder.linear_1.bias": (1,), "patchify_proj.weight": (1, 1)},
    "svd": {"input_blocks.1.1.time_stack.0.norm1.weight": (1,)},
}


@pytest.mark.parametrize("family", OTHERS)
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_other_families_are_named(family: str, prefix: str) -> None:
    identity = of({prefix + name: shape for name, shape in OTHERS[family].items()})
    assert identity.family == family


def test_tensors_of_nothing_known() -> None:
    assert "2 tensors (a.b, c, ...)" in of({"a.b": (1,), "c": (2,)}).problem
    assert of({}).problem == "it holds no tensors"
