"""Recognises Chroma by its tensors."""

from __future__ import annotations

from dataclasses import dataclass, field

from darkroom.api.errors import CheckpointError
from darkroom.families.chroma.model import ChromaNetConfig
from darkroom.families.companions import read_network
from darkroom.families.flux_parts import VAE
from darkroom.families.latents import FLUX_LATENT, check_channels, read_autoencoder
from darkroom.families.t5_text import read_t5
from darkroom.nets.patches import PATCH
from darkroom.nets.te.t5 import T5Config
from darkroom.nets.vae.kl import KLConfig
from darkroom.tokenizers.base import TextTokenizer
from darkroom.tokenizers.t5 import T5Tokenizer, load_tokenizer
from darkroom.weights.dit_names import NET
from darkroom.weights.index import TensorIndex

TITLE = "Chroma"

_APPROXIMATOR = f"{NET}distilled_guidance_layer.in_proj.weight"

LANDMARKS = (
    _APPROXIMATOR,
    *(
        NET + name
        for name in (
            "distilled_guidance_layer.out_proj.weight",
            "img_in.weight",
            "txt_in.weight",
            "double_blocks.0.txt_attn.qkv.weight",
            "single_blocks.0.linear1.weight",
            "final_layer.linear.weight",
        )
    ),
)


@dataclass(frozen=True)
class ChromaConfig:
    """The architecture, and what of the text is seen.

    t5_mask: whether T5's tokens see no filling. dit_mask: whether the network sees none but its first `pad`.
    t5_tokenizer: the T5 file's own, or T5's.
    """

    net: ChromaNetConfig
    vae: KLConfig
    t5xxl: T5Config
    t5_mask: bool = True
    dit_mask: bool = True
    pad: int = 1
    t5_tokenizer: TextTokenizer = field(default_factory=T5Tokenizer)


def detect(index: TensorIndex) -> ChromaConfig | None:
    """The architecture of files under native names; None when they are another family's.

    Raises CheckpointError when a companion is missing or another model's, and for Chroma Radiance.
    """
    if _APPROXIMATOR in index and any(name.startswith(f"{NET}nerf_") for name in index):
        raise CheckpointError(
            "model: this is Chroma Radiance, which draws pixels without an autoencoder; Chroma1-HD, "
            "Chroma1-Base and their kind are supported"
        )
    if any(name not in index for name in LANDMARKS):
        return None
    net = read_network(index, NET, TITLE, ChromaNetConfig.from_shapes)
    check_channels(net.streams.out_channels // PATCH**2, FLUX_LATENT, TITLE)
    t5xxl = read_t5(index, TITLE, net.streams.context_dim)
    vae = read_autoencoder(index, VAE, TITLE, FLUX_LATENT)
    return ChromaConfig(net, vae, t5xxl, t5_tokenizer=load_tokenizer(index.metadata))
