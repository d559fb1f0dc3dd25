"""Recognises SDXL by its tensors, and what its UNet predicts by the marks that files carry."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from darkroom.api.errors import CheckpointError
from darkroom.api.names import PredictionType, Role
from darkroom.families.companions import Companion, read_companion, unfit_width
from darkroom.families.latent_diffusion import INPAINTING, TEXT_TO_IMAGE, read_size
from darkroom.families.latent_rgb import SDXL_RGB
from darkroom.families.latents import LatentFormat, read_autoencoder
from darkroom.nets.te.clip import CLIPTextConfig
from darkroom.nets.unet import UNetConfig
from darkroom.nets.vae.kl import KLConfig
from darkroom.weights.index import TensorIndex
from darkroom.weights.spellings import UNET

TITLE = "SDXL"

LATENT = LatentFormat(channels=4, downscale=8, scale=0.13025, rgb=SDXL_RGB, tiny="taesdxl")

SIZE_WIDTH = 256
"""Channels that each of the six numbers about the picture's size takes in the UNet's vector."""

SIZES = 6

CLIP_L = Companion(
    Role.CLIP_L,
    "the CLIP-L text encoder",
    ("text_encoder/model.safetensors (stabilityai/stable-diffusion-xl-base-1.0)", "clip_l.safetensors"),
)
CLIP_G = Companion(
    Role.CLIP_G,
    "the CLIP-G text encoder (OpenCLIP-bigG)",
    ("text_encoder_2/model.safetensors (stabilityai/stable-diffusion-xl-base-1.0)", "clip_g.safetensors"),
)
VAE = Companion(
    Role.VAE,
    "SDXL's autoencoder, with 4 latent channels",
    ("sdxl_vae.safetensors (stabilityai/sdxl-vae)",),
)

LANDMARKS = (
    f"{UNET}input_blocks.0.0.weight",
    f"{UNET}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight",
    f"{UNET}label_emb.0.0.weight",
    f"{UNET}out.2.weight",
    f"{VAE.role.prefix}decoder.conv_out.weight",
    f"{CLIP_L.role.prefix}text_model.embeddings.token_embedding.weight",
    f"{CLIP_G.role.prefix}text_model.embeddings.token_embedding.weight",
    f"{CLIP_G.role.prefix}text_projection.weight",
)


@dataclass(frozen=True)
class SDXLConfig:
    """The architecture.

    width, height: of the pictures it was trained on. unturned_projection: CLIP-G's text_projection is taken
    as open_clip's files have it, which stable-diffusion.cpp does with one-file checkpoints.
    """

    unet: UNetConfig
    vae: KLConfig
    clip_l: CLIPTextConfig
    clip_g: CLIPTextConfig
    prediction: PredictionType = PredictionType.EPS
    width: int = 1024
    height: int = 1024
    unturned_projection: bool = False


def detect(index: TensorIndex) -> SDXLConfig | None:
    """The architecture of a file under native names; None when it is another family's.

    SDXL's UNet takes a vector and has no transformer on its first level; unCLIP's has both.

    Raises CheckpointError for a companion that is missing or another model's, and for models of this design
    that need another sampling: the refiner, instruct-pix2pix, Playground 2.5.
    """
    shapes = index.under(UNET).shapes()
    try:
        unet = UNetConfig.from_shapes(shapes)
    except (KeyError, IndexError):
        return None
    if unet.adm_in_channels is None or not unet.linear_proj or unet.transformer_depth[0]:
        return None
    _check_kind(index, unet)
    vae = read_autoencoder(index, VAE, TITLE, LATENT)
    clip_g = read_companion(
        index,
        CLIP_G,
        TITLE,
        partial(CLIPTextConfig.from_shapes, activation="gelu"),
        partial(_unfit_clip_g, pooled=unet.adm_in_channels - SIZES * SIZE_WIDTH),
    )
    clip_l = read_companion(
        index,
        CLIP_L,
        TITLE,
        partial(CLIPTextConfig.from_shapes, activation="quick_gelu"),
        partial(_unfit_clip_l, width=unet.context_dim - clip_g.hidden_size),
    )
    width, height = read_size(index.metadata, default=1024)
    return SDXLConfig(unet, vae, clip_l, clip_g, _prediction(index), width, height)


def _check_kind(index: TensorIndex, unet: UNetConfig) -> None:
    if not unet.transformer_depth[-1]:
        raise CheckpointError(
            "model: this is SDXL's refiner, which finishes pictures that another model has begun; "
            "SDXL's base model and its fine-tunes draw on their own"
        )
    if unet.in_channels not in (TEXT_TO_IMAGE, INPAINTING):
        raise CheckpointError(
            f"model: an SDXL UNet with {unet.in_channels} input channels (such as instruct-pix2pix with 8) "
            f"is not supported; those with {TEXT_TO_IMAGE} or {INPAINTING} (inpainting) are"
        )
    if "edm_mean" in index:
        raise CheckpointError(
            "model: this is Playground 2.5, whose latents and noise levels are its own, which is not "
            "supported; SDXL's base model and its fine-tunes are"
        )


def _unfit_clip_g(clip: CLIPTextConfig, pooled: int) -> str | None:
    if clip.projection_dim is None:
        return "it has no text_projection"
    return unfit_width("a vector", clip.projection_dim, pooled)


def _unfit_clip_l(clip: CLIPTextConfig, width: int) -> str | None:
    return unfit_width("text", clip.hidden_size, width)


def _prediction(index: TensorIndex) -> PredictionType:
    """What the file says: CosXL's and most v-prediction files by a tensor's name, others in ModelSpec."""
    if "edm_vpred.sigma_max" in index:
        return PredictionType.EDM_V
    if "v_pred" in index or index.metadata.get("modelspec.prediction_type") == "v":
        return PredictionType.V
    return PredictionType.EPS
