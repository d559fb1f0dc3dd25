"""Diffusers' spellings: the renamed tensors hold what diffusers computes."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL as DiffusersKL
from diffusers import UNet2DConditionModel
from torch import Tensor

from darkroom.nets.unet import UNetConfig, UNetModel
from darkroom.nets.vae.kl import AutoencoderKL, KLConfig
from darkroom.weights.index import TensorIndex, TensorInfo
from darkroom.weights.keys import KeyRules
from darkroom.weights.spellings import LATENT_DIFFUSION, ONE_TEXT_ENCODER, PREFIXES, TE, UNET, VAE


def renamed(state: dict[str, Tensor], rules: KeyRules, prefix: str) -> dict[str, Tensor]:
    view = rules.apply(TensorIndex(TensorInfo(name, tuple(t.shape), "f32") for name, t in state.items()))
    made = {name: recipe.make(state[recipe.source.name]) for name, recipe in view.recipes.items()}
    assert all(name.startswith(prefix) for name in made)
    return {name.removeprefix(prefix): tensor for name, tensor in made.items() if isinstance(tensor, Tensor)}


@pytest.mark.parametrize("blocks", [1, 2, 3])
@torch.inference_mode()
def test_unet_gives_the_same_output(blocks: int) -> None:
    torch.manual_seed(0)
    reference = UNet2DConditionModel(
        block_out_channels=(32, 64, 64),
        layers_per_block=blocks,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=8,
    ).eval()
    state = {f"unet.{name}": tensor for name, tensor in reference.state_dict().items()}
    native = renamed(state, LATENT_DIFFUSION, UNET)
    net = UNetModel(UNetConfig.from_shapes({name: tuple(t.shape) for name, t in native.items()})).eval()
    net.load_state_dict(native)

    x, t, context = torch.randn(1, 4, 8, 8), torch.tensor([500.0]), torch.randn(1, 5, 16)
    torch.testing.assert_close(net(x, t, context), reference(x, t, context).sample, rtol=1e-4, atol=1e-5)


OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@pytest.mark.parametrize("attention", [{}, OLD_ATTENTION], ids=("new", "before-2023"))
@pytest.mark.parametrize("prefix", ["vae.", "", "first_stage_model."], ids=("folder", "bare", "prefixed"))
@pytest.mark.parametrize("channels", [4, 16], ids=("sdxl", "sd3"))
@torch.inference_mode()
def test_vae_gives_the_same_output(channels: int, prefix: str, attention: dict[str, str]) -> None:
    torch.manual_seed(0)
    reference = DiffusersKL(
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=channels,
        use_quant_conv=channels == 4,
        use_post_quant_conv=channels == 4,
    ).eval()
    state: dict[str, Tensor] = {}
    for name, tensor in reference.state_dict().items():
        for new, old in attention.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        state[prefix + name] = tensor
    native = renamed(state, LATENT_DIFFUSION, VAE)
    net = AutoencoderKL(KLConfig.from_shapes({name: tuple(t.shape) for name, t in native.items()})).eval()
    net.load_state_dict(native)

    x = torch.rand(1, 3, 16, 16) * 2 - 1
    torch.testing.assert_close(net.encode(x)[0], reference.encode(x).latent_dist.mean, rtol=1e-4, atol=1e-5)
    z = torch.randn(1, channels, 4, 4)
    torch.testing.assert_close(net.decode(z), reference.decode(z).sample, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "native"),
    [
        ("unet.conv_in.weight", UNET + "conv_in.weight"),
        ("diffusion_model.out.0.weight", UNET + "out.0.weight"),
        ("vae.first_stage_model.quant_conv.bias", VAE + "quant_conv.bias"),
        ("decoder.up.0.block.0.norm1.weight", VAE + "decoder.up.0.block.0.norm1.weight"),
        ("post_quant_conv.weight", VAE + "post_quant_conv.weight"),
        ("input_blocks.0.0.weight", UNET + "input_blocks.0.0.weight"),
        ("label_emb.0.0.weight", UNET + "label_emb.0.0.weight"),
        ("out.2.bias", UNET + "out.2.bias"),
        ("down_blocks.0.resnets.0.conv1.weight", UNET + "down_blocks.0.resnets.0.conv1.weight"),
        ("add_embedding.linear_1.weight", UNET + "add_embedding.linear_1.weight"),
        ("conv_in.weight", UNET + "conv_in.weight"),
        ("te.text_model.final_layer_norm.bias", TE + "text_model.final_layer_norm.bias"),
        ("text_encoder.text_model.final_layer_norm.bias", TE + "text_model.final_layer_norm.bias"),
        ("clip_l.transformer.text_model.final_layer_norm.bias", TE + "text_model.final_layer_norm.bias"),
        ("text_encoders.clip_l.text_model.final_layer_norm.bias", TE + "text_model.final_layer_norm.bias"),
        ("text_encoders.clip_l.transformer.text_projection.weight", TE + "text_projection.weight"),
        ("text_encoders.clip_l.encoder.layers.0.mlp.fc1.bias", TE + "encoder.layers.0.mlp.fc1.bias"),
        ("text_encoders.clip_l.ln_final.bias", "cond_stage_model.model.ln_final.bias"),
        (
            "text_encoders.clip_l.transformer.resblocks.0.ln_1.bias",
            "cond_stage_model.model.transformer.resblocks.0.ln_1.bias",
        ),
        ("conditioner.embedders.0.model.ln_final.bias", "cond_stage_model.model.ln_final.bias"),
        ("encoder.layers.0.self_attn.q_proj.weight", "encoder.layers.0.self_attn.q_proj.weight"),
        (UNET + "out.0.weight", UNET + "out.0.weight"),
    ],
)
def test_prefixes(name: str, native: str) -> None:
    rules = PREFIXES + ONE_TEXT_ENCODER
    assert list(rules.apply(TensorIndex([TensorInfo(name, (1,), "f32")])).index) == [native]


@pytest.mark.parametrize("prefix", ["unet.", UNET, ""])
def test_what_lcm_adds_for_guidance_is_left_out(prefix: str) -> None:
    """It says how strong the guidance is; stable-diffusion.cpp leaves it out, too."""
    name = prefix + "time_embedding.cond_proj.weight"
    assert not LATENT_DIFFUSION.apply(TensorIndex([TensorInfo(name, (32, 256), "f32")])).index


def test_native_names_stay() -> None:
    with torch.device("meta"):
        nets = {UNET: UNetModel(UNetConfig(model_channels=32)), VAE: AutoencoderKL(KLConfig(ch=32))}
    names = [prefix + name for prefix, net in nets.items() for name in net.state_dict()]
    index = TensorIndex(TensorInfo(name, (1,), "f32") for name in names)
    assert list(LATENT_DIFFUSION.apply(index).index) == names
