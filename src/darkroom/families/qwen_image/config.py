"""Recognises Qwen-Image by its tensors."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

from darkroom.api.errors import CheckpointError
from darkroom.api.names import Role
from darkroom.families.companions import Companion, has, read_companion, read_network, unfit_width
from darkroom.families.latent_rgb import WAN_RGB
from darkroom.families.latents import LatentFormat, check_channels
from darkroom.families.qwen_image.keys import ZERO_COND_T
from darkroom.families.qwen_image.model import QwenImageTransformerConfig
from darkroom.nets.te.qwen import QwenConfig
from darkroom.nets.te.qwen_vision import QwenVisionConfig
from darkroom.nets.vae.wan import WanConfig
from darkroom.tokenizers.base import TextTokenizer
from darkroom.tokenizers.qwen import QwenTokenizer, load_tokenizer
from darkroom.weights.dit_names import NET
from darkroom.weights.index import TensorIndex

TITLE = "Qwen-Image"

# Wan 2.1's autoencoder: mean and deviation of each channel. The authors take the mean of its distribution.
_MEAN = (-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
         0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921)  # fmt: skip
_DEVIATION = (2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
              3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160)  # fmt: skip
LATENT = LatentFormat(
    channels=16,
    downscale=8,
    scale=tuple(1 / deviation for deviation in _DEVIATION),
    rgb=WAN_RGB,
    tiny="taew2_1",
    shift=_MEAN,
    sampled=False,
)

LANDMARKS = tuple(
    NET + name
    for name in (
        "transformer_blocks.0.img_mod.1.weight",
        "transformer_blocks.0.txt_mod.1.weight",
        "transformer_blocks.0.attn.add_q_proj.weight",
        "transformer_blocks.0.attn.norm_q.weight",
        "img_in.weight",
        "txt_in.weight",
        "txt_norm.weight",
        "proj_out.weight",
    )
)

# Qwen-Image-Layered draws pictures in layers, told by an embedding beside the timestep's.
_LAYERED = f"{NET}time_text_embed.addition_t_embedding.weight"

LLM = Companion(
    Role.LLM,
    "the Qwen2.5-VL-7B language model",
    (
        "qwen_2.5_vl_7b_fp8_scaled.safetensors (Comfy-Org/Qwen-Image_ComfyUI)",
        "Qwen2.5-VL-7B-Instruct-Q8_0.gguf (unsloth/Qwen2.5-VL-7B-Instruct-GGUF)",
    ),
)
LLM_VISION = Companion(
    Role.LLM_VISION,
    "Qwen2.5-VL-7B's vision tower",
    ("mmproj-BF16.gguf (unsloth/Qwen2.5-VL-7B-Instruct-GGUF)",),
)
VAE = Companion(
    Role.VAE,
    "Qwen-Image's autoencoder",
    ("qwen_image_vae.safetensors (Comfy-Org/Qwen-Image_ComfyUI)",),
)


@dataclass(frozen=True)
class QwenImageConfig:
    """The architecture.

    vision: None without the vision tower, which only reference images need.
    numbers_pictures: whether the text encoder sees reference images small, each under its number, as for
    Edit-2509 and later; the first Edit saw one picture, at the autoencoder's size. No shape tells.
    tokenizer: the text encoder's own, or Qwen's.
    """

    net: QwenImageTransformerConfig
    llm: QwenConfig
    vision: QwenVisionConfig | None
    vae: WanConfig
    numbers_pictures: bool = True
    tokenizer: TextTokenizer = field(default_factory=QwenTokenizer)


def detect(index: TensorIndex) -> QwenImageConfig | None:
    """The architecture of files under native names; None when they are another family's.

    Raises CheckpointError when a companion is missing or another model's, and for Qwen-Image-Layered.
    """
    if any(name not in index for name in LANDMARKS):
        return None
    net = read_network(index, NET, TITLE, QwenImageTransformerConfig.from_shapes)
    if _LAYERED in index:
        raise CheckpointError(
            "model: this is Qwen-Image-Layered, which draws pictures in layers; "
            "Qwen-Image, Qwen-Image-2512 and Qwen-Image-Edit are supported"
        )
    check_channels(net.channels, LATENT, TITLE)
    net = replace(net, zero_cond_t=ZERO_COND_T in index)
    unfit = partial(_unfit_llm, width=net.context_dim)
    llm = read_companion(index, LLM, TITLE, QwenConfig.from_shapes, unfit)
    vision = None
    if has(index, LLM_VISION):
        vision = read_companion(
            index,
            LLM_VISION,
            TITLE,
            QwenVisionConfig.from_shapes,
            lambda tower: unfit_width("embeddings", tower.text_size, llm.hidden_size),
        )
    vae = read_companion(index, VAE, TITLE, WanConfig.from_shapes, _unfit_vae)
    return QwenImageConfig(net, llm, vision, vae, tokenizer=load_tokenizer(index.metadata))


def _unfit_llm(llm: QwenConfig, width: int) -> str | None:
    if llm.has_qk_norm or not llm.has_bias:
        return "its attention is not Qwen2.5's"
    return unfit_width("text", llm.hidden_size, width)


def _unfit_vae(vae: WanConfig) -> str | None:
    if vae.z_dim != LATENT.channels:
        return f"its latents have {vae.z_dim} channels, not {LATENT.channels}"
    if (vae.in_channels, vae.out_channels) != (3, 3):
        return "it is for pictures with transparency"
    return None if vae.downscale == LATENT.downscale else f"its latents are {vae.downscale} times smaller"
