"""What Stable Diffusion 1 and 2 have in common: a UNet, a KL autoencoder and one CLIP text encoder.

Some of it is SDXL's as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from darkroom.api.errors import CheckpointError
from darkroom.api.names import Module, Role, SampleMethod, Scheduler
from darkroom.families.base import Conditioning, Family, ModuleSpec, SampleDefaults, on_meta
from darkroom.families.companions import Companion
from darkroom.families.latent_rgb import SD1_RGB
from darkroom.families.latents import LatentFormat, read_autoencoder
from darkroom.nets.te.clip import Activation, CLIPTextConfig, CLIPTextModel
from darkroom.nets.unet import UNetConfig, UNetModel
from darkroom.nets.vae.kl import AutoencoderKL, KLConfig
from darkroom.weights.index import Metadata, TensorIndex
from darkroom.weights.spellings import TE, UNET, VAE

LATENT = LatentFormat(channels=4, downscale=8, scale=0.18215, rgb=SD1_RGB, tiny="taesd")

# Input channels: latents, and for inpainting models the mask and the latents of what it leaves.
TEXT_TO_IMAGE, INPAINTING = 4, 9

AUTOENCODER = Companion(
    Role.VAE,
    "a KL autoencoder with 4 latent channels",
    ("vae-ft-mse-840000-ema-pruned.safetensors (stabilityai/sd-vae-ft-mse-original)",),
)
TEXT_ENCODER = Companion(
    Role.CLIP_L,
    "the CLIP text encoder",
    ("model.safetensors of text_encoder (stable-diffusion-v1-5/stable-diffusion-v1-5)",),
)

CONTEXT = f"{UNET}middle_block.1.transformer_blocks.0.attn2.to_k.weight"

OPEN_CLIP_WIDTH = 1024
"""Of the text that 2.x takes, which 1.x never does."""

LANDMARKS = (
    f"{UNET}input_blocks.0.0.weight",
    f"{UNET}time_embed.0.weight",
    CONTEXT,
    f"{UNET}out.2.weight",
    f"{VAE}encoder.conv_in.weight",
    f"{VAE}decoder.conv_out.weight",
    f"{TE}text_model.embeddings.token_embedding.weight",
    f"{TE}text_model.final_layer_norm.weight",
)

_MODELSPEC_SIZE = re.compile(r"([1-9]\d*)x([1-9]\d*)")


@dataclass(frozen=True)
class LatentDiffusionConfig:
    """The architecture. width, height: of the pictures it was trained on."""

    unet: UNetConfig
    vae: KLConfig
    te: CLIPTextConfig
    width: int = 512
    height: int = 512

    @property
    def size_multiple(self) -> int:
        """Pixels that the sides of a picture must be a multiple of, so that every level halves evenly."""
        return self.vae.downscale << (len(self.unet.channel_mult) - 1)


def read_unet(index: TensorIndex) -> UNetConfig | None:
    """The UNet in a file under native names; None when it is not Stable Diffusion 1's or 2's."""
    shapes = index.under(UNET).shapes()
    if any(name.startswith("label_emb.") for name in shapes):  # a pooled embedding: SDXL, unCLIP, upscalers
        return None
    try:
        unet = UNetConfig.from_shapes(shapes)
    except (KeyError, IndexError):
        return None
    return unet if unet.in_channels in (TEXT_TO_IMAGE, INPAINTING) else None


def read_config(
    index: TensorIndex, unet: UNetConfig, activation: Activation, needed_by: str
) -> LatentDiffusionConfig:
    """The architecture of a file whose UNet is known.

    activation: the text encoder's, which no shape tells. needed_by: the family's title.

    Raises CheckpointError when the file lacks the autoencoder or the text encoder.
    """
    vae = read_autoencoder(index, AUTOENCODER, needed_by, LATENT)
    try:
        te = CLIPTextConfig.from_shapes(index.under(TE).shapes(), activation)
    except (KeyError, ValueError) as err:
        raise CheckpointError(
            f"model: has a UNet but no complete text encoder under {TE}; "
            f"a full checkpoint, a folder with text_encoder or {Role.CLIP_L.flag} is needed"
        ) from err
    if te.hidden_size != unet.context_dim:
        raise CheckpointError(
            f"model: its UNet takes text of width {unet.context_dim}, its text encoder gives width "
            f"{te.hidden_size}; they must come from the same model"
        )
    width, height = read_size(index.metadata)
    return LatentDiffusionConfig(unet, vae, te, width, height)


def read_size(metadata: Metadata, default: int = 512) -> tuple[int, int]:
    """Width and height that a file recommends (ModelSpec's `modelspec.resolution`), or the default's."""
    match = _MODELSPEC_SIZE.fullmatch(str(metadata.get("modelspec.resolution", "")).strip())
    return (int(match[1]), int(match[2])) if match else (default, default)


def run_unet(net: nn.Module, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
    """The UNet for x (b, 4, h, w) at timesteps t (b,); mask and hidden picture stand beside x."""
    if cond.concat is not None:
        x = torch.cat((x, cond.concat.expand(len(x), -1, -1, -1)), dim=1)
    inputs = [x, t, cond.context.expand(len(x), -1, -1)]
    if cond.vector is not None:
        inputs.append(cond.vector.expand(len(x), -1))
    out: Tensor = net(*inputs)
    return out


class LatentDiffusion(Family[LatentDiffusionConfig]):
    """A family of this kind. What is left to say: its name, its spellings, its text and what it predicts."""

    latent = LATENT
    landmarks = LANDMARKS
    companions = (AUTOENCODER, TEXT_ENCODER)
    clip_skip: ClassVar[int]
    """At which layer from the end the text is taken where the request says nothing; 1 is the last."""

    def modules(self, config: LatentDiffusionConfig) -> Mapping[Module, ModuleSpec]:  # noqa: D102
        return {
            Module.TE: ModuleSpec(TE, on_meta(lambda: CLIPTextModel(config.te))),
            Module.DIFFUSION: ModuleSpec(UNET, on_meta(lambda: UNetModel(config.unet))),
            Module.VAE: ModuleSpec(VAE, on_meta(lambda: AutoencoderKL(config.vae))),
        }

    def prefix(self, role: Role) -> str:
        """These files name their one text encoder in a way of their own."""
        return TE if role is Role.CLIP_L else role.prefix

    def inpaints(self, config: LatentDiffusionConfig) -> bool:  # noqa: D102
        return config.unet.in_channels == INPAINTING

    def predict(self, net: nn.Module, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:  # noqa: D102
        return run_unet(net, x, t, cond)

    def defaults(self, config: LatentDiffusionConfig) -> SampleDefaults:
        """stable-diffusion.cpp's defaults, at the size that the model was trained on."""
        return SampleDefaults(
            method=SampleMethod.EULER_A,
            scheduler=Scheduler.DISCRETE,
            steps=20,
            cfg_scale=7.0,
            width=config.width,
            height=config.height,
            size_multiple=config.size_multiple,
            clip_skip=self.clip_skip,
        )
