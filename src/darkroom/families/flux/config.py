"""Recognises Flux.1 by its tensors, and its variants by the channels of a token."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from darkroom.api.errors import CheckpointError
from darkroom.api.names import Role
from darkroom.families.companions import Companion, read_companion, read_network, unfit_width
from darkroom.families.flux.model import FluxNetConfig
from darkroom.families.flux_parts import T5_TOKENS, VAE
from darkroom.families.latents import FLUX_LATENT, check_channels, read_autoencoder
from darkroom.families.t5_text import read_t5
from darkroom.nets.flux_blocks import StreamsConfig
from darkroom.nets.patches import PATCH
from darkroom.nets.te.clip import CLIPTextConfig
from darkroom.nets.te.t5 import T5Config
from darkroom.nets.vae.kl import KLConfig
from darkroom.tokenizers.base import TextTokenizer
from darkroom.tokenizers.t5 import T5Tokenizer, load_tokenizer
from darkroom.weights.dit_names import NET
from darkroom.weights.index import TensorIndex

TITLE = "Flux.1"

LANDMARKS = tuple(
    NET + name
    for name in (
        "img_in.weight",
        "txt_in.weight",
        "time_in.in_layer.weight",
        "vector_in.in_layer.weight",
        "double_blocks.0.img_mod.lin.weight",
        "double_blocks.0.txt_attn.qkv.weight",
        "single_blocks.0.modulation.lin.weight",
        "single_blocks.0.linear1.weight",
        "final_layer.adaLN_modulation.1.weight",
    )
)

CLIP_L = Companion(
    Role.CLIP_L, "the CLIP-L text encoder", ("clip_l.safetensors (comfyanonymous/flux_text_encoders)",)
)

SCHNELL_T5_TOKENS = 256

# Fill: beside the picture, the picture without what the mask hides, and the mask with all its pixels.
_FILL_CHANNELS = PATCH**2 * (2 * FLUX_LATENT.channels + FLUX_LATENT.downscale**2)

# Published networks that take other pictures beside the one they draw.
_OTHERS = {
    128: "Flux.1 Depth or Canny, which draws after a picture of depths or edges",
    196: "Flex.2, which takes a mask and a control picture",
}


@dataclass(frozen=True)
class FluxConfig:
    """The architecture.

    t5_tokens: length of the text that the network is given, filled up.
    t5_tokenizer: the T5 file's own, or T5's.
    """

    net: FluxNetConfig
    vae: KLConfig
    clip_l: CLIPTextConfig
    t5xxl: T5Config
    t5_tokens: int = T5_TOKENS
    t5_tokenizer: TextTokenizer = field(default_factory=T5Tokenizer)

    @property
    def is_fill(self) -> bool:
        """Whether the network paints in: Flux.1 Fill."""
        return self.net.streams.in_channels == _FILL_CHANNELS


def detect(index: TensorIndex) -> FluxConfig | None:
    """The architecture of files under native names; None when they are another family's.

    Raises CheckpointError when a companion is missing or another model's, and for variants that take other
    pictures.
    """
    if any(name not in index for name in LANDMARKS):
        return None
    net = read_network(index, NET, TITLE, FluxNetConfig.from_shapes)
    check_channels(net.streams.out_channels // PATCH**2, FLUX_LATENT, TITLE)
    _check_inputs(net.streams)
    clip_l = read_companion(
        index,
        CLIP_L,
        TITLE,
        partial(CLIPTextConfig.from_shapes, activation="quick_gelu"),
        lambda clip: unfit_width("a vector", clip.hidden_size, net.vector_dim),
    )
    t5xxl = read_t5(index, TITLE, net.streams.context_dim)
    vae = read_autoencoder(index, VAE, TITLE, FLUX_LATENT)
    t5_tokens = T5_TOKENS if net.has_guidance else SCHNELL_T5_TOKENS
    return FluxConfig(net, vae, clip_l, t5xxl, t5_tokens, load_tokenizer(index.metadata))


def _check_inputs(streams: StreamsConfig) -> None:
    if streams.in_channels not in (streams.out_channels, _FILL_CHANNELS):
        what = _OTHERS.get(streams.in_channels, f"a network with {streams.in_channels} channels in a token")
        raise CheckpointError(
            f"model: this is {what}; {TITLE} dev, schnell and Kontext ({streams.out_channels} channels in a "
            f"token) and Fill ({_FILL_CHANNELS}) are supported"
        )
