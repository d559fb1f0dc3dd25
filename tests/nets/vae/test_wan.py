"""Wan's autoencoder against diffusers' AutoencoderKLWan and AutoencoderKLQwenImage, through their names."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLQwenImage, AutoencoderKLWan
from torch import Tensor, nn

from darkroom.nets.vae.wan import WanConfig, WanVAE
from darkroom.weights.bind import bind_weights
from darkroom.weights.index import TensorIndex, TensorInfo
from darkroom.weights.source import MemorySource
from darkroom.weights.spellings import VAE
from darkroom.weights.wan_vae_names import WAN_VAE

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}
SMALL = WanConfig(dim=8, dim_mult=(1, 2, 2, 4), z_dim=4)
OTHER = WanConfig(dim=6, dim_mult=(2, 1, 3), num_res_blocks=1, temporal_downsample=(True, False), z_dim=3)


def reference(config: WanConfig, kind: type[nn.Module] = AutoencoderKLWan) -> nn.Module:
    """Diffusers' autoencoder of the same architecture, random in every tensor."""
    torch.manual_seed(0)
    net = kind(
        base_dim=config.dim,
        z_dim=config.z_dim,
        dim_mult=list(config.dim_mult),
        num_res_blocks=config.num_res_blocks,
        temperal_downsample=list(config.temporal_downsample),
    ).eval()
    for parameter in net.parameters():
        parameter.requires_grad_(False).add_(torch.randn_like(parameter) * 0.05)
    return net


def native(net: nn.Module) -> dict[str, Tensor]:
    """Its tensors under Wan's names."""
    state = {VAE + name: tensor for name, tensor in net.state_dict().items()}
    view = WAN_VAE.apply(TensorIndex(TensorInfo(name, tuple(t.shape), "f32") for name, t in state.items()))
    made = {name: recipe.make(state[recipe.source.name]) for name, recipe in view.recipes.items()}
    return {name.removeprefix(VAE): tensor for name, tensor in made.items() if isinstance(tensor, Tensor)}


def ours(state: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> WanVAE:
    with torch.device("meta"):
        net = WanVAE(WanConfig.from_shapes({name: tuple(tensor.shape) for name, tensor in state.items()}))
    bind_weights(net, MemorySource(state), device=torch.device("cpu"), dtype=dtype, subject="vae")
    return net.eval()


def error(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    return ((got.float() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("kind", [AutoencoderKLWan, AutoencoderKLQwenImage])
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@torch.inference_mode()
def test_pictures_equal_diffusers(kind: type[nn.Module], dtype: torch.dtype) -> None:
    expected = reference(SMALL, kind)
    net = ours(native(expected), dtype)
    assert net.config == SMALL

    x = torch.rand(2, 3, 32, 48) * 2 - 1
    moments = expected.encode(x[:, :, None]).latent_dist
    mean, logvar = net.encode(x.to(dtype))
    assert error(mean, moments.mean[:, :, 0]) < TOLERANCE[dtype]
    assert error(logvar, moments.logvar[:, :, 0]) < TOLERANCE[dtype]

    z = torch.randn(2, 4, 5, 6)
    pixels = net.decode(z.to(dtype).contiguous(memory_format=torch.channels_last))
    assert error(pixels.clamp(-1, 1), expected.decode(z[:, :, None]).sample[:, :, 0]) < TOLERANCE[dtype]


@pytest.mark.parametrize("config", [SMALL, OTHER], ids=("f8", "f4"))
@pytest.mark.parametrize("latent_frames", [1, 2, 3])
@torch.inference_mode()
def test_videos_equal_diffusers(config: WanConfig, latent_frames: int) -> None:
    expected = reference(config)
    net = ours(native(expected))
    assert net.config == config

    frames = 1 + (latent_frames - 1) * config.frames_per_latent
    z = torch.randn(2, config.z_dim, latent_frames, 4, 3)
    pixels = net.decode(z)
    assert pixels.shape == (2, 3, frames, 4 * config.downscale, 3 * config.downscale)
    assert error(pixels.clamp(-1, 1), expected.decode(z).sample) < 1e-4

    if config.frames_per_latent != 4:  # the chunks that diffusers encodes
        return
    x = torch.rand(1, 3, frames, 32, 16) * 2 - 1
    moments = expected.encode(x).latent_dist
    mean, logvar = net.encode(x)
    assert error(mean, moments.mean) < 1e-4
    assert error(logvar, moments.logvar) < 1e-4


def test_a_number_of_frames_that_makes_no_latent_is_named() -> None:
    with pytest.raises(ValueError, match="video: 6 frames cannot be encoded; their number is 1 more than"):
        WanVAE(SMALL).encode(torch.zeros(1, 3, 6, 8, 8))


@torch.inference_mode()
def test_files_cut_down_to_pictures_draw_the_same() -> None:
    state = native(reference(SMALL))
    flat = {name: t[:, :, -1] if t.dim() == 5 and "time_conv" not in name else t for name, t in state.items()}
    unfolded = WAN_VAE.apply(
        TensorIndex(TensorInfo(VAE + name, tuple(t.shape), "f32") for name, t in flat.items())
    )
    cut = {
        name.removeprefix(VAE): flat[recipe.source.name.removeprefix(VAE)].reshape(recipe.shape)
        for name, recipe in unfolded.recipes.items()
    }
    z = torch.randn(1, 4, 3, 3)
    net = ours(cut)
    assert net.config.time_kernel == 1
    torch.testing.assert_close(net.decode(z), ours(state).decode(z), rtol=1e-4, atol=1e-5)


def test_full_size_has_the_published_parameter_count() -> None:
    with torch.device("meta"):
        ours_, theirs = WanVAE(WanConfig()), AutoencoderKLQwenImage()
    counts = [sum(p.numel() for p in net.parameters()) for net in (ours_, theirs)]
    assert counts == [126_892_531] * 2
