"""Recognises Stable Diffusion 3 and 3.5 by their tensors, and checks the text encoders that came along."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial

from darkroom.api.errors import CheckpointError
from darkroom.api.names import Role
from darkroom.families.companions import Companion, has, read_companion, read_network
from darkroom.families.latent_rgb import SD3_RGB
from darkroom.families.latents import LatentFormat, check_channels, read_autoencoder
from darkroom.families.sd3.model import MMDiTConfig
from darkroom.families.t5_text import T5XXL, read_t5
from darkroom.nets.te.clip import CLIPTextConfig
from darkroom.nets.te.t5 import T5Config
from darkroom.nets.vae.kl import KLConfig
from darkroom.tokenizers.base import TextTokenizer
from darkroom.tokenizers.t5 import T5Tokenizer, load_tokenizer
from darkroom.weights.dit_names import NET
from darkroom.weights.index import TensorIndex

logger = logging.getLogger(__name__)

TITLE = "Stable Diffusion 3"

LATENT = LatentFormat(channels=16, downscale=8, scale=1.5305, rgb=SD3_RGB, tiny="taesd3", shift=0.0609)

LANDMARKS = (f"{NET}joint_blocks.0.context_block.attn.qkv.weight", f"{NET}pos_embed")

CLIP_L = Companion(
    Role.CLIP_L,
    "the CLIP-L text encoder",
    ("clip_l.safetensors (Comfy-Org/stable-diffusion-3.5-fp8)",),
)
CLIP_G = Companion(
    Role.CLIP_G,
    "the CLIP-G text encoder (OpenCLIP-bigG)",
    ("clip_g.safetensors (Comfy-Org/stable-diffusion-3.5-fp8)",),
)
VAE = Companion(
    Role.VAE,
    "the 16-channel autoencoder of Stable Diffusion 3",
    ("vae/diffusion_pytorch_model.safetensors (stabilityai/stable-diffusion-3.5-medium)",),
)

ENCODERS = (CLIP_L, CLIP_G, T5XXL)


@dataclass(frozen=True)
class SD3Config:
    """The architecture; text encoders that are not there are None, and their part of the text is zeros.

    t5_chunks: whether T5 reads a long prompt in pieces of 77 tokens instead of in one.
    t5_tokenizer: the T5 file's own, or T5's.
    """

    net: MMDiTConfig
    vae: KLConfig
    clip_l: CLIPTextConfig | None
    clip_g: CLIPTextConfig | None
    t5xxl: T5Config | None
    t5_chunks: bool = False
    t5_tokenizer: TextTokenizer = field(default_factory=T5Tokenizer)

    @property
    def longest_side(self) -> int:
        """Pixels along a picture's side that the network has positions for."""
        return self.net.positions * self.net.patch_size * self.vae.downscale


def detect(index: TensorIndex) -> SD3Config | None:
    """The architecture of a file and its companions under native names; None when it is another family's.

    Raises CheckpointError when the file is broken, when the autoencoder or all text encoders are missing and
    for one that is another model's.
    """
    if any(name not in index for name in LANDMARKS):
        return None
    net = read_network(index, NET, TITLE, MMDiTConfig.from_shapes)
    check_channels(net.in_channels, LATENT, TITLE)
    absent = [encoder.role.flag for encoder in ENCODERS if not has(index, encoder)]
    if len(absent) == len(ENCODERS):
        raise CheckpointError(
            f"{TITLE}: all text encoders are missing; give the files of one or more with "
            f"{', '.join(f'{encoder.role.flag} ({encoder.files[0]})' for encoder in ENCODERS)}"
        )
    vae = read_autoencoder(index, VAE, TITLE, LATENT)
    clip_l = _read_clip_l(index, net) if has(index, CLIP_L) else None
    clip_g = _read_clip_g(index, net, clip_l) if has(index, CLIP_G) else None
    t5xxl = read_t5(index, TITLE, net.context_dim) if has(index, T5XXL) else None
    if absent:
        logger.info("text: without %s, zeros stand for what it would say", " and ".join(absent))
    return SD3Config(net, vae, clip_l, clip_g, t5xxl, t5_tokenizer=load_tokenizer(index.metadata))


def _read_clip_l(index: TensorIndex, net: MMDiTConfig) -> CLIPTextConfig:
    """Its vector is the smaller part of the network's; it is not projected."""
    return read_companion(
        index,
        CLIP_L,
        TITLE,
        partial(CLIPTextConfig.from_shapes, activation="quick_gelu"),
        lambda clip: (
            None
            if 2 * clip.hidden_size < net.vector_dim
            else f"its vector would be most of the {net.vector_dim} that two encoders make together"
        ),
    )


def _read_clip_g(index: TensorIndex, net: MMDiTConfig, clip_l: CLIPTextConfig | None) -> CLIPTextConfig:
    """Its vector is the larger part: what CLIP-L leaves."""

    def problem(clip: CLIPTextConfig) -> str | None:
        width = clip.projection_dim or clip.hidden_size
        both = net.vector_dim if clip_l is None else clip_l.hidden_size + width
        if both == net.vector_dim < 2 * width:
            return None
        return f"with its vector of {width}, two encoders do not make the {net.vector_dim} that are needed"

    return read_companion(
        index, CLIP_G, TITLE, partial(CLIPTextConfig.from_shapes, activation="gelu"), problem
    )
