"""Recognises Z-Image by its tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from darkroom.api.errors import CheckpointError
from darkroom.api.names import Role
from darkroom.families.companions import Companion, read_companion, read_network, unfit_width
from darkroom.families.latents import FLUX_LATENT, check_channels, read_autoencoder
from darkroom.families.z_image.model import ZImageTransformerConfig
from darkroom.nets.te.qwen import QwenConfig
from darkroom.nets.vae.kl import KLConfig
from darkroom.tokenizers.base import TextTokenizer
from darkroom.tokenizers.qwen import QwenTokenizer, load_tokenizer
from darkroom.weights.dit_names import NET
from darkroom.weights.index import TensorIndex

TITLE = "Z-Image"

LANDMARKS = tuple(
    NET + name
    for name in (
        "x_embedder.weight",
        "cap_embedder.1.weight",
        "cap_pad_token",
        "noise_refiner.0.attention.qkv.weight",
        "layers.0.attention.q_norm.weight",
        "layers.0.adaLN_modulation.0.weight",
    )
)

# Z-Image-Omni's, which looks at pictures.
_EYES = f"{NET}siglip_embedder.1.weight"

LLM = Companion(
    Role.LLM,
    "the Qwen3-4B language model",
    (
        "qwen_3_4b.safetensors (Comfy-Org/z_image_turbo)",
        "Qwen3-4B-Instruct-2507-Q4_K_M.gguf (unsloth/Qwen3-4B-Instruct-2507-GGUF)",
    ),
)
VAE = Companion(Role.VAE, "Flux.1's autoencoder", ("ae.safetensors (Comfy-Org/z_image_turbo)",))


@dataclass(frozen=True)
class ZImageConfig:
    """The architecture of all three networks. tokenizer: the text encoder's own, or Qwen's."""

    net: ZImageTransformerConfig
    llm: QwenConfig
    vae: KLConfig
    tokenizer: TextTokenizer = field(default_factory=QwenTokenizer)


def detect(index: TensorIndex) -> ZImageConfig | None:
    """The architecture of files under native names; None when they are another family's.

    Raises CheckpointError when the file is broken or Z-Image-Omni's, and when a companion is missing or
    another model's.
    """
    if any(name not in index for name in LANDMARKS):
        return None
    if _EYES in index:
        raise CheckpointError(
            "model: this is Z-Image-Omni, which looks at pictures; Z-Image and Z-Image-Turbo are supported"
        )
    net = read_network(index, NET, TITLE, ZImageTransformerConfig.from_shapes)
    check_channels(net.channels, FLUX_LATENT, TITLE)
    unfit = partial(_unfit_llm, width=net.context_dim)
    llm = read_companion(index, LLM, TITLE, QwenConfig.from_shapes, unfit)
    vae = read_autoencoder(index, VAE, TITLE, FLUX_LATENT)
    return ZImageConfig(net, llm, vae, load_tokenizer(index.metadata))


def _unfit_llm(llm: QwenConfig, width: int) -> str | None:
    if llm.has_bias or not llm.has_qk_norm:
        return "its attention is not Qwen3's"
    return unfit_width("text", llm.hidden_size, width)
