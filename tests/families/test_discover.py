"""Which family answers for which tensors: native and foreign spellings, and files that are neither."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL as DiffusersKL
from diffusers import UNet2DConditionModel
from torch import nn

from darkroom.api.errors import CheckpointError
from darkroom.api.names import Module
from darkroom.families import discover
from darkroom.families.base import Family
from darkroom.families.latent_diffusion import LatentDiffusionConfig
from darkroom.nets.te.clip import CLIPTextConfig, CLIPTextModel
from darkroom.nets.unet import UNetConfig, UNetModel
from darkroom.nets.vae.kl import AutoencoderKL, KLConfig
from darkroom.weights.index import TensorIndex, TensorInfo
from darkroom.weights.spellings import TE, UNET, VAE

SD1 = UNetConfig(model_channels=32, context_dim=64)
SD1_INPAINT = UNetConfig(in_channels=9, model_channels=32, context_dim=64)
SD2 = UNetConfig(model_channels=64, context_dim=128, linear_proj=True)
SD2_INPAINT = UNetConfig(in_channels=9, model_channels=64, context_dim=128, linear_proj=True)
KL = KLConfig(ch=32)
KINDS = pytest.mark.parametrize(
    ("unet", "name"),
    [(SD1, "sd1"), (SD1_INPAINT, "sd1"), (SD2, "sd2"), (SD2_INPAINT, "sd2")],
    ids=("sd1", "sd1-inpaint", "sd2", "sd2-inpaint"),
)


def tensors(net: nn.Module, prefix: str) -> list[TensorInfo]:
    return [TensorInfo(prefix + name, tuple(p.shape), "f16") for name, p in net.state_dict().items()]


def text_encoder(unet: UNetConfig, layers: int = 2) -> CLIPTextModel:
    activation = "gelu" if unet.linear_proj else "quick_gelu"
    heads = max(1, unet.context_dim // 64)
    return CLIPTextModel(CLIPTextConfig(100, 77, unet.context_dim, 256, layers, heads, activation))


def native(unet: UNetConfig) -> TensorIndex:
    with torch.device("meta"):
        found = tensors(UNetModel(unet), UNET) + tensors(AutoencoderKL(KL), VAE)
        found += tensors(text_encoder(unet), TE)
    return TensorIndex([*found, TensorInfo("alphas_cumprod", (1000,), "f32")])


def diffusers_folder(unet: UNetConfig) -> TensorIndex:
    widths = tuple(mult * unet.model_channels for mult in unet.channel_mult)
    with torch.device("meta"):
        net = UNet2DConditionModel(
            in_channels=unet.in_channels,
            block_out_channels=widths,
            cross_attention_dim=unet.context_dim,
            attention_head_dim=tuple(unet.heads(width) for width in widths),
            use_linear_projection=unet.linear_proj,
        )
        vae = DiffusersKL(
            block_out_channels=(32, 64, 128, 128),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
        return TensorIndex(tensors(net, "unet.") + tensors(vae, "vae.") + tensors(text_encoder(unet), "te."))


def family(name: str) -> Family[Any]:
    return next(family for family in discover() if family.name == name)


def answers(index: TensorIndex) -> dict[str, LatentDiffusionConfig]:
    found = {family.name: family.detect(family.key_rules().apply(index).index) for family in discover()}
    return {name: config for name, config in found.items() if config is not None}


@KINDS
def test_native_files_have_one_answer(unet: UNetConfig, name: str) -> None:
    config = answers(native(unet))
    assert list(config) == [name]
    assert (config[name].unet, config[name].vae) == (unet, KL)


@KINDS
def test_diffusers_folders_have_one_answer(unet: UNetConfig, name: str) -> None:
    config = answers(diffusers_folder(unet))
    assert list(config) == [name]
    assert (config[name].unet, config[name].vae) == (unet, KL)


def test_stable_diffusion_2_is_known_with_convolutions_for_projections() -> None:
    """So did stable-diffusion.cpp write GGUF files before 2025; the text is OpenCLIP's all the same."""
    unet = UNetConfig(model_channels=64, context_dim=1024, linear_proj=True)
    files = native(unet)
    wide = TensorIndex(
        replace(info, shape=(*info.shape, 1, 1)) if re.search(r"\.1\.proj_(in|out)\.weight$", name) else info
        for name, info in files.items()
    )
    assert wide.shapes() != files.shapes()
    assert {name: config.unet for name, config in answers(wide).items()} == {"sd2": unet}


@KINDS
def test_networks_have_the_tensors_of_the_file(unet: UNetConfig, name: str) -> None:
    index = diffusers_folder(unet)
    renamed = family(name).key_rules().apply(index).index
    for spec in family(name).modules(answers(index)[name]).values():
        expected = {key: tuple(p.shape) for key, p in spec.build().state_dict().items()}
        assert renamed.under(spec.prefix).shapes() == expected


@KINDS
def test_landmarks_are_in_every_file(unet: UNetConfig, name: str) -> None:
    assert [mark for mark in family(name).landmarks if mark not in native(unet)] == []


@KINDS
def test_nine_input_channels_mean_inpainting(unet: UNetConfig, name: str) -> None:
    assert family(name).inpaints(answers(native(unet))[name]) == (unet.in_channels == 9)


@pytest.mark.parametrize(
    "names",
    [
        {},
        {"double_blocks.0.img_attn.qkv.weight": (9216, 3072)},
        {"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": (4608, 1536)},
        {"text_model.embeddings.token_embedding.weight": (49408, 768)},
        {UNET + "input_blocks.0.0.weight": (320, 4, 3, 3)},
    ],
    ids=("empty", "flux", "sd3", "clip", "torn"),
)
def test_other_files_have_no_answer(names: dict[str, tuple[int, ...]]) -> None:
    assert answers(TensorIndex(TensorInfo(name, shape, "f16") for name, shape in names.items())) == {}


@pytest.mark.parametrize("channels", [5, 8], ids=("depth", "pix2pix"))
def test_other_inputs_have_no_answer(channels: int) -> None:
    assert answers(native(UNetConfig(in_channels=channels, model_channels=32, context_dim=64))) == {}


def test_a_pooled_embedding_is_another_family() -> None:
    label = TensorInfo(UNET + "label_emb.0.0.weight", (256, 2816), "f16")
    assert answers(TensorIndex([*native(SD2).values(), label])) == {}


def test_a_missing_vae_is_named() -> None:
    index = TensorIndex(info for name, info in native(SD1).items() if not name.startswith(VAE))
    with pytest.raises(CheckpointError, match=r"a KL autoencoder .* is missing; .*--vae"):
        answers(index)


def test_a_missing_text_encoder_is_named() -> None:
    index = TensorIndex(info for name, info in native(SD1).items() if not name.startswith(TE))
    with pytest.raises(CheckpointError, match="no complete text encoder"):
        answers(index)


def test_default_size_is_the_files_own() -> None:
    index = native(SD1)
    assert family("sd1").defaults(answers(index)["sd1"]).width == 512
    sized = TensorIndex(index.values(), {"modelspec.resolution": "256x320"})
    defaults = family("sd1").defaults(answers(sized)["sd1"])
    assert (defaults.width, defaults.height) == (256, 320)


def test_size_multiple_follows_the_depth() -> None:
    shallow = UNetConfig(
        model_channels=32,
        channel_mult=(1, 2),
        num_res_blocks=(1, 1),
        transformer_depth=(1, 1),
        context_dim=64,
    )
    assert family("sd1").defaults(answers(native(shallow))["sd1"]).size_multiple == 16
    assert family("sd1").defaults(answers(native(SD1))["sd1"]).size_multiple == 64


def test_every_network_is_built_without_memory() -> None:
    for module, spec in family("sd1").modules(answers(native(SD1))["sd1"]).items():
        assert module in Module
        assert all(parameter.is_meta for parameter in spec.build().parameters())


def test_the_package_itself_needs_no_torch() -> None:
    code = "import sys, darkroom.families; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
