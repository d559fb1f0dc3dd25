"""Recognises Z-Image by its tensors."""

from __future__ import annotations

from dataclasses import dataclass, field

from darkroom.api.errors import CheckpointError
from darkroom.api.names import Role
from darkroom.families.base import LatentFormat
from darkroom.families.companions import Companion, read_companion
from darkroom.families.z_image.keys import NET
from darkroom.families.z_image.model import ZImageTransformerConfig
from darkroom.nets.te.qwen import QwenConfig
from darkroom.nets.vae.kl import KLConfig
from darkroom.tokenizers.base import TextTokenizer
from darkroom.tokenizers.qwen import QwenTokenizer, load_tokenizer
from darkroom.weights.index import TensorIndex

TITLE = "Z-Image"

LATENT = LatentFormat(channels=16, downscale=8, scale=0.3611, shift=0.1159)
"""Flux.1's autoencoder."""

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

    transformer: ZImageTransformerConfig
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
    try:
        transformer = ZImageTransformerConfig.from_shapes(index.under(NET).shapes())
    except KeyError as err:
        raise CheckpointError(
            f"model: its diffusion network lacks {NET}{err.args[0]}; a complete file of {TITLE} is needed"
        ) from err
    if transformer.channels != LATENT.channels:
        raise CheckpointError(
            f"model: built like Z-Image, but for latents with {transformer.channels} channels; "
            f"Z-Image's have {LATENT.channels}"
        )
    width = transformer.context_width
    llm = read_companion(index, LLM, TITLE, QwenConfig.from_shapes, lambda llm: _unfit_llm(llm, width))
    vae = read_companion(index, VAE, TITLE, KLConfig.from_shapes, _unfit_vae)
    return ZImageConfig(transformer, llm, vae, load_tokenizer(index.metadata))


def _unfit_llm(llm: QwenConfig, width: int) -> str | None:
    if llm.has_bias or not llm.has_qk_norm:
        return "its attention is not Qwen3's"
    return None if llm.hidden_size == width else f"it gives text of width {llm.hidden_size}, not {width}"


def _unfit_vae(vae: KLConfig) -> str | None:
    if vae.embed_dim != LATENT.channels:
        return f"its latents have {vae.embed_dim} channels, not {LATENT.channels}"
    return None if vae.downscale == LATENT.downscale else f"its latents are {vae.downscale} times smaller"
