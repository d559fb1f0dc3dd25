"""Autoencoders are told apart by shapes alone, under the names of their authors and of diffusers."""

from __future__ import annotations

import diffusers
import pytest
import torch
from torch import nn

from darkroom.nets.vae.kl import AutoencoderKL, KLConfig
from darkroom.nets.vae.wan import WanConfig, WanVAE
from darkroom.weights.autoencoders import describe_autoencoder
from darkroom.weights.index import TensorIndex, TensorInfo

WAN_2_2 = {"base_dim": 16, "decoder_base_dim": 16, "z_dim": 48, "is_residual": True, "in_channels": 12}


def index_of(net: nn.Module, prefix: str = "") -> TensorIndex:
    return TensorIndex(
        TensorInfo(prefix + name, tuple(t.shape), "f32") for name, t in net.state_dict().items()
    )


@pytest.mark.parametrize("prefix", ["", "vae.", "first_stage_model."], ids=("bare", "vae", "native"))
@pytest.mark.parametrize(
    ("channels", "title"), [(4, "Stable Diffusion 1, 2 or SDXL"), (16, "SD3 or Flux.1")], ids=("4", "16")
)
def test_kl(channels: int, title: str, prefix: str) -> None:
    has_quant_conv = channels == 4
    with torch.device("meta"):
        ours = AutoencoderKL(KLConfig(z_channels=channels, embed_dim=channels, use_quant_conv=has_quant_conv))
        theirs = diffusers.AutoencoderKL(latent_channels=channels)
    expected = f"a KL autoencoder with {channels} latent channels ({title})"
    assert describe_autoencoder(index_of(ours, prefix)) == expected
    assert describe_autoencoder(index_of(theirs, prefix)) == expected


@pytest.mark.parametrize("prefix", ["", "first_stage_model."], ids=("bare", "native"))
@pytest.mark.parametrize(("pixels", "title"), [(3, "Wan 2.1 or Qwen-Image"), (4, "Qwen-Image-Layered")])
def test_wan(pixels: int, title: str, prefix: str) -> None:
    with torch.device("meta"):
        ours = WanVAE(WanConfig(in_channels=pixels, out_channels=pixels))
        theirs = diffusers.AutoencoderKLWan(in_channels=pixels, out_channels=pixels)
    expected = f"a video autoencoder with 16 latent channels ({title})"
    assert describe_autoencoder(index_of(ours, prefix)) == expected
    assert describe_autoencoder(index_of(theirs, prefix)) == expected


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("AutoencoderKLWan", WAN_2_2, "a video autoencoder with 48 latent channels (Wan 2.2)"),
        ("AutoencoderKLFlux2", {}, "a KL autoencoder with 32 latent channels (Flux.2)"),
        ("AutoencoderTiny", {}, "a tiny autoencoder (TAESD) with 4 latent channels, for previews"),
        (
            "AutoencoderTiny",
            {"latent_channels": 16},
            "a tiny autoencoder (TAESD) with 16 latent channels, for previews",
        ),
        ("AutoencoderDC", {}, "an autoencoder with 32 latent channels"),
        (
            "AutoencoderKLLTXVideo",
            {},
            "a video autoencoder with 128 latent channels (such as LTX-Video's or HunyuanVideo's)",
        ),
        (
            "AutoencoderKLTemporalDecoder",
            {},
            "a video autoencoder with 4 latent channels (Stable Video Diffusion)",
        ),
    ],
)
def test_others(kind: str, options: dict[str, object], expected: str) -> None:
    with torch.device("meta"):
        net = getattr(diffusers, kind)(**options)
    assert describe_autoencoder(index_of(net)) == expected


def test_taesd_by_its_authors_names() -> None:
    index = TensorIndex(
        TensorInfo(name, shape, "f32") for name, shape in (("1.weight", (64, 4, 3, 3)), ("1.bias", (64,)))
    )
    assert describe_autoencoder(index) == "a tiny autoencoder (TAESD) with 4 latent channels, for previews"


def test_what_is_none_is_not_described() -> None:
    names = (
        "double_blocks.0.img_attn.proj.weight",
        "img_in.weight",
        "txt_in.weight",
        "final_layer.linear.weight",
    )
    index = TensorIndex(TensorInfo(name, (4, 4), "f32") for name in names)
    assert describe_autoencoder(index) is None
    assert describe_autoencoder(TensorIndex([])) is None
