"""Qwen-Image's transformer against diffusers' on the same random checkpoint."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from diffusers import QwenImageTransformer2DModel
from tests.comparison import relative_error
from torch import Tensor

from darkroom.families.qwen_image.model import (
    QwenImageTransformer,
    QwenImageTransformerConfig,
    token_positions,
)
from darkroom.nets.patches import patchify, unpatchify

TINY = QwenImageTransformerConfig(channels=4, context_dim=24, num_layers=3, num_heads=2, head_size=16)
ZERO_COND_T = replace(TINY, zero_cond_t=True)


def random_network(config: QwenImageTransformerConfig) -> QwenImageTransformer:
    torch.manual_seed(0)
    net = QwenImageTransformer(config).eval()
    with torch.no_grad():
        for parameter in net.parameters():  # norms too: ones would hide swapped weights
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return net


def reference_network(net: QwenImageTransformer) -> QwenImageTransformer2DModel:
    """diffusers keeps the authors' names."""
    config = net.config
    reference = QwenImageTransformer2DModel(
        in_channels=config.channels * 4,
        out_channels=config.channels,
        num_layers=config.num_layers,
        attention_head_dim=config.head_size,
        num_attention_heads=config.num_heads,
        joint_attention_dim=config.context_dim,
        axes_dims_rope=config.axes,
        zero_cond_t=config.zero_cond_t,
    )
    reference.load_state_dict(net.state_dict(), strict=True)
    return reference.eval()


def expected_flow(
    reference: QwenImageTransformer2DModel,
    x: Tensor,
    t: Tensor,
    context: Tensor,
    mask: Tensor | None,
    *references: Tensor,
) -> Tensor:
    """As diffusers' pipelines call it: packed tokens, t in [0, 1]."""
    sizes = [(1, image.shape[2] // 2, image.shape[3] // 2) for image in (x, *references)]
    tokens = torch.cat([patchify(image) for image in (x, *references)], dim=1)
    out = reference(
        tokens,
        encoder_hidden_states=context,
        encoder_hidden_states_mask=mask,
        timestep=t / 1000,
        img_shapes=[sizes] * len(x),
        return_dict=False,
    )[0]
    return unpatchify(out[:, : sizes[0][1] * sizes[0][2]], x.shape[2], x.shape[3])


def inputs(batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    t = torch.tensor([1000.0, 37.5])[:batch]
    return torch.randn(batch, TINY.channels, 6, 10), t, torch.randn(batch, 7, TINY.context_dim)


@torch.inference_mode()
def test_output_equals_diffusers() -> None:
    net = random_network(TINY)
    x, t, context = inputs()

    got = net(x, t, context)

    assert relative_error(got, expected_flow(reference_network(net), x, t, context, None)) < 1e-4


@pytest.mark.parametrize("config", [TINY, ZERO_COND_T], ids=("edit", "edit-2511"))
@torch.inference_mode()
def test_references_equal_diffusers(config: QwenImageTransformerConfig) -> None:
    net = random_network(config)
    x, t, context = inputs()
    references = (torch.randn(2, 4, 8, 4), torch.randn(2, 4, 4, 14))

    got = net(x, t, context, None, references)

    expected = expected_flow(reference_network(net), x, t, context, None, *references)
    assert relative_error(got, expected) < 1e-4
    assert relative_error(net(x, t, context), expected) > 0.01  # they are seen


@torch.inference_mode()
def test_zero_cond_t_changes_only_how_references_are_seen() -> None:
    plain, zero = random_network(TINY), random_network(ZERO_COND_T)
    x, t, context = inputs()
    references = (torch.randn(2, 4, 8, 4),)

    assert torch.equal(zero(x, t, context), plain(x, t, context))
    seen = plain(x, t, context, None, references)
    assert relative_error(zero(x, t, context, None, references), seen) > 0.001


@torch.inference_mode()
def test_padding_of_the_context_changes_nothing() -> None:
    net = random_network(TINY)
    x, t, context = inputs()
    mask = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])

    got = net(x, t, context, mask)

    assert relative_error(got, expected_flow(reference_network(net), x, t, context, mask)) < 1e-4
    alone = net(x[1:], t[1:], context[1:, :4])
    assert relative_error(got[1:], alone) < 1e-4


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 2e-2), (torch.float16, 2e-2)])
@torch.inference_mode()
def test_half_precision_follows_a_short_sampling_run(dtype: torch.dtype, limit: float) -> None:
    net = random_network(TINY)
    half = random_network(TINY).to(dtype)
    reference = reference_network(net)
    x, _, context = inputs()
    expected = got = x
    sigmas = torch.linspace(1, 0, 5)
    for sigma, following in itertools.pairwise(sigmas):
        t = (sigma * 1000).expand(2)
        expected = expected + (following - sigma) * expected_flow(reference, expected, t, context, None)
        got = got + (following - sigma) * half(got.to(dtype), t, context.to(dtype)).float()

    assert relative_error(got, expected) < limit


@pytest.mark.parametrize("config", [TINY, replace(TINY, num_layers=1, num_heads=3, head_size=8)])
def test_config_is_read_from_shapes(config: QwenImageTransformerConfig) -> None:
    with torch.device("meta"):
        net = QwenImageTransformer(config)
    shapes = {name: tuple(p.shape) for name, p in net.state_dict().items()}
    assert QwenImageTransformerConfig.from_shapes(shapes) == config


def test_a_missing_tensor_is_named() -> None:
    with pytest.raises(KeyError, match=r"img_in\.weight"):
        QwenImageTransformerConfig.from_shapes({"txt_in.weight": (8, 8)})


def test_full_size_is_the_published_architecture() -> None:
    config = QwenImageTransformerConfig()
    with torch.device("meta"):
        net = QwenImageTransformer(config)
        reference = QwenImageTransformer2DModel()
    assert config.axes == (16, 56, 56)
    ours = {name: p.shape for name, p in net.state_dict().items()}
    assert ours == {name: p.shape for name, p in reference.state_dict().items()}


@pytest.mark.parametrize("head_size", [8, 12, 16, 20, 24, 32, 64])
def test_every_pair_of_channels_turns(head_size: int) -> None:
    widths = replace(TINY, head_size=head_size).axes
    assert sum(widths) == head_size
    assert all(width > 0 and width % 2 == 0 for width in widths)


def test_images_are_centred_and_the_text_starts_at_the_largest_ones_corner() -> None:
    positions = token_positions(2, [(2, 3), (4, 2)], torch.device("cpu")).tolist()
    assert positions[:2] == [[2, 2, 2], [3, 3, 3]]
    assert positions[2:8] == [[0, y, x] for y in (-1, 0) for x in (-2, -1, 0)]
    assert positions[8:] == [[1, y, x] for y in (-2, -1, 0, 1) for x in (-1, 0)]


def test_references_may_share_a_number() -> None:
    sizes, device = [(2, 2), (1, 1), (1, 1)], torch.device("cpu")
    assert token_positions(0, sizes, device)[4:, 0].tolist() == [1, 2]
    assert token_positions(0, sizes, device, increase_index=False)[4:, 0].tolist() == [1, 1]
