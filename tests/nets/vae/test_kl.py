"""The KL autoencoder against diffusers' on the same random checkpoint, and its config from shapes."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL as DiffusersKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

from darkroom.nets.vae.kl import AutoencoderKL, KLConfig

SMALL = KLConfig(ch=32, ch_mult=(1, 2, 2, 2))
WIDE_LATENT = KLConfig(ch=32, ch_mult=(1, 2), num_res_blocks=1, z_channels=8, embed_dim=8)
SD3 = KLConfig(ch=32, ch_mult=(1, 2, 2), z_channels=16, embed_dim=16, use_quant_conv=False)
CONFIGS = pytest.mark.parametrize("config", [SMALL, WIDE_LATENT, SD3], ids=("f8", "f2", "sd3"))


def random_vae(config: KLConfig) -> AutoencoderKL:
    torch.manual_seed(0)
    net = AutoencoderKL(config).eval()
    with torch.no_grad():
        for parameter in net.parameters():  # norms too: ones and zeros would hide swapped weights
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return net


def diffusers_vae(config: KLConfig, net: AutoencoderKL) -> DiffusersKL:
    levels = len(config.ch_mult)
    reference = DiffusersKL(
        block_out_channels=tuple(mult * config.ch for mult in config.ch_mult),
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=config.num_res_blocks,
        latent_channels=config.embed_dim,
        use_quant_conv=config.use_quant_conv,
        use_post_quant_conv=config.use_quant_conv,
    )
    native = {f"first_stage_model.{name}": tensor for name, tensor in net.state_dict().items()}
    reference.load_state_dict(convert_ldm_vae_checkpoint(native, {**reference.config}), strict=True)
    return reference.eval()


@CONFIGS
@torch.inference_mode()
def test_decoder_equals_diffusers(config: KLConfig) -> None:
    net = random_vae(config)
    z = torch.randn(2, config.embed_dim, 6, 5)
    expected = diffusers_vae(config, net).decode(z).sample
    got = net.decode(z.contiguous(memory_format=torch.channels_last))
    assert (got - expected).abs().max() / expected.abs().max() < 1e-4


@CONFIGS
@torch.inference_mode()
def test_encoder_equals_diffusers(config: KLConfig) -> None:
    net = random_vae(config)
    x = torch.rand(2, 3, 48, 32) * 2 - 1
    expected = diffusers_vae(config, net).encode(x).latent_dist
    mean, logvar = net.encode(x.contiguous(memory_format=torch.channels_last))
    assert (mean - expected.mean).abs().max() / expected.mean.abs().max() < 1e-4
    assert (logvar - expected.logvar).abs().max() / expected.logvar.abs().max() < 1e-4


@CONFIGS
def test_config_is_read_from_shapes(config: KLConfig) -> None:
    with torch.device("meta"):
        net = AutoencoderKL(config)
    assert KLConfig.from_shapes({name: tuple(p.shape) for name, p in net.state_dict().items()}) == config


@pytest.mark.parametrize(
    ("config", "count"),
    [(KLConfig(), 83_653_863), (KLConfig(z_channels=16, embed_dim=16, use_quant_conv=False), 83_819_683)],
    ids=("sd1", "flux"),
)
def test_full_size_has_the_published_parameter_count(config: KLConfig, count: int) -> None:
    with torch.device("meta"):
        net = AutoencoderKL(config)
    assert sum(p.numel() for p in net.parameters()) == count
