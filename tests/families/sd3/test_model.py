"""The MMDiT against diffusers' on the same random checkpoint, and its configuration read from shapes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import SD3Transformer2DModel
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers
from tests.comparison import relative_error
from torch import Tensor

from darkroom.families.sd3.model import MMDiT, MMDiTConfig

MEDIUM = MMDiTConfig(hidden_size=128, num_layers=3, num_heads=2, mlp_size=512, positions=12, context_dim=48,
                     vector_dim=40)  # fmt: skip
LARGE = replace(MEDIUM, qk_norm=True, num_heads=4)
MEDIUM_X = replace(MEDIUM, qk_norm=True, num_heads=4, dual_blocks=(0, 1))
CONFIGS = pytest.mark.parametrize(
    "config", [MEDIUM, LARGE, MEDIUM_X], ids=("3-medium", "large", "3.5-medium")
)


def random_net(config: MMDiTConfig) -> MMDiT:
    torch.manual_seed(0)
    net = MMDiT(config).eval()
    with torch.no_grad():
        for tensor in net.state_dict().values():  # norms and positions too: ones and zeros hide swaps
            tensor.add_(torch.randn_like(tensor) * 0.05)
    return net


def diffusers_net(config: MMDiTConfig, state: dict[str, Tensor]) -> SD3Transformer2DModel:
    reference = SD3Transformer2DModel(
        sample_size=8,
        num_layers=config.num_layers,
        attention_head_dim=config.hidden_size // config.num_heads,
        num_attention_heads=config.num_heads,
        joint_attention_dim=config.context_dim,
        caption_projection_dim=config.hidden_size,
        pooled_projection_dim=config.vector_dim,
        pos_embed_max_size=config.positions,
        dual_attention_layers=config.dual_blocks,
        qk_norm="rms_norm" if config.qk_norm else None,
    )
    reference.load_state_dict(convert_sd3_transformer_checkpoint_to_diffusers(dict(state)), strict=True)
    return reference.eval()


def inputs(config: MMDiTConfig) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return (
        torch.randn(2, 16, 10, 16),
        torch.tensor([1000.0, 3.5]),
        torch.randn(2, 11, config.context_dim),
        torch.randn(2, config.vector_dim),
    )


@CONFIGS
@torch.inference_mode()
def test_output_equals_diffusers(config: MMDiTConfig) -> None:
    net = random_net(config)
    reference = diffusers_net(config, net.state_dict())
    x, t, context, y = inputs(config)

    expected = reference(x, encoder_hidden_states=context, pooled_projections=y, timestep=t).sample
    got = net(x.contiguous(memory_format=torch.channels_last), t, context, y)

    assert relative_error(got, expected) < 1e-5


@CONFIGS
@torch.inference_mode()
def test_short_sampling_in_bfloat16_stays_near(config: MMDiTConfig) -> None:
    net = random_net(config)
    x, _, context, y = inputs(config)
    ends = []
    for kind in (torch.float32, torch.bfloat16):
        net.to(kind)
        latent = x.clone()
        for sigma, following in ((1.0, 0.9), (0.9, 0.75), (0.75, 0.5), (0.5, 0.0)):
            t = torch.full((2,), 1000 * sigma)
            velocity = net(latent.to(kind), t, context.to(kind), y.to(kind))
            latent = latent + velocity.float() * (following - sigma)
        ends.append(latent)
    assert relative_error(ends[1], ends[0]) < 2e-2


@CONFIGS
def test_config_is_read_from_shapes(config: MMDiTConfig) -> None:
    with torch.device("meta"):
        net = MMDiT(config)
    assert MMDiTConfig.from_shapes({name: tuple(t.shape) for name, t in net.state_dict().items()}) == config


FULL = MMDiTConfig()


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (FULL, 2_028_328_000),
        (replace(FULL, positions=384, qk_norm=True, dual_blocks=tuple(range(13))), 2_243_171_520),
        (
            replace(FULL, hidden_size=2432, num_layers=38, num_heads=38, mlp_size=9728, qk_norm=True),
            8_056_627_520,
        ),
    ],
    ids=("3-medium", "3.5-medium", "3.5-large"),
)
def test_full_size_has_the_published_parameter_counts(config: MMDiTConfig, count: int) -> None:
    with torch.device("meta"):
        net = MMDiT(config)
    assert sum(tensor.numel() for tensor in net.parameters()) == count


def test_gradients_reach_every_parameter() -> None:
    net = random_net(MEDIUM_X)
    net(*inputs(MEDIUM_X)).square().mean().backward()
    without = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == ["joint_blocks.2.context_block.attn.ln_q.weight"]  # nobody hears it ask
