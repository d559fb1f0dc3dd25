"""Z-Image's transformer against diffusers' on one random checkpoint, through diffusers' own conversion."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from diffusers import ZImageTransformer2DModel
from diffusers.loaders.single_file_utils import convert_z_image_transformer_checkpoint_to_diffusers
from torch import Tensor

from darkroom.families.z_image.model import (
    TOKENS_MULTIPLE,
    ZImageTransformer,
    ZImageTransformerConfig,
    token_positions,
)

# diffusers' feed-forward has 8/3 of the width, its timestep 256 numbers at most.
TINY = ZImageTransformerConfig(channels=4, context_dim=24, num_layers=3, num_refiners=2, num_heads=3,
                               head_size=16, mlp_size=128, time_width=48)  # fmt: skip


def random_network(config: ZImageTransformerConfig) -> ZImageTransformer:
    torch.manual_seed(0)
    net = ZImageTransformer(config).eval()
    with torch.no_grad():
        for parameter in net.parameters():  # norms and filling tokens too: ones and zeros hide swaps
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return net


def reference_network(net: ZImageTransformer) -> ZImageTransformer2DModel:
    config = net.config
    reference = ZImageTransformer2DModel(
        in_channels=config.channels,
        dim=config.hidden_size,
        n_layers=config.num_layers,
        n_refiner_layers=config.num_refiners,
        n_heads=config.num_heads,
        n_kv_heads=config.num_heads,
        cap_feat_dim=config.context_dim,
        axes_dims=config.axes,
    )
    state = convert_z_image_transformer_checkpoint_to_diffusers(dict(net.state_dict()))
    reference.load_state_dict(state, strict=True)
    return reference.eval()


def expected_flow(reference: ZImageTransformer2DModel, x: Tensor, t: Tensor, *texts: Tensor) -> Tensor:
    """As diffusers' pipeline calls it: time from noise to picture, texts of any length, the output turned."""
    out = reference(list(x[:, :, None]), (1000 - t) / 1000, list(texts), return_dict=False)[0]
    return -torch.stack(out)[:, :, 0]


def filled(text: Tensor) -> tuple[Tensor, Tensor]:
    """A text (l, D) as the network takes it: a context with rubbish in its unused rows, and a mask."""
    missing = -len(text) % TOKENS_MULTIPLE
    mask = torch.arange(len(text) + missing) < len(text)
    return torch.cat((text, torch.randn(missing, text.shape[1]) * 100))[None], mask[None]


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual.float() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(
    ("height", "width", "length"), [(8, 16, 32), (6, 10, 7), (10, 14, 45)], ids=("whole", "filled", "longer")
)
@torch.inference_mode()
def test_output_equals_diffusers(height: int, width: int, length: int) -> None:
    net = random_network(TINY)
    x, t, text = torch.randn(1, 4, height, width), torch.tensor([637.5]), torch.randn(length, 24)

    got = net(x, t, *filled(text))

    assert relative_error(got, expected_flow(reference_network(net), x, t, text)) < 1e-4


@torch.inference_mode()
def test_a_batch_equals_diffusers() -> None:
    """Texts of different lengths that are filled up to the same one."""
    net = random_network(TINY)
    x, t = torch.randn(2, 4, 6, 10), torch.tensor([1000.0, 37.5])
    texts = torch.randn(7, 24), torch.randn(30, 24)
    contexts, masks = zip(*map(filled, texts), strict=True)

    got = net(x, t, torch.cat(contexts), torch.cat(masks))

    assert relative_error(got, expected_flow(reference_network(net), x, t, *texts)) < 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@torch.inference_mode()
def test_half_precision_follows_a_short_sampling_run(dtype: torch.dtype) -> None:
    net = random_network(TINY)
    half = random_network(TINY).to(dtype)
    reference = reference_network(net)
    text = torch.randn(7, 24)
    context, mask = filled(text)
    expected = got = torch.randn(1, 4, 8, 16)
    for sigma, following in itertools.pairwise(torch.linspace(1, 0, 5)):
        t = sigma[None] * 1000
        expected = expected + (following - sigma) * expected_flow(reference, expected, t, text)
        flow = half(got.to(dtype), t, context.to(dtype), mask)
        assert flow.dtype == dtype
        got = got + (following - sigma) * flow.float()

    assert relative_error(got, expected) < 2e-2


@torch.inference_mode()
def test_float16_stays_finite_where_hidden_numbers_do_not() -> None:
    net = random_network(TINY).half()
    for block in net.layers:
        for part in (block.feed_forward.w1, block.feed_forward.w3, block.attention.qkv):
            part.weight.mul_(2000)
    context, mask = filled(torch.randn(7, 24))
    out = net(torch.randn(1, 4, 8, 8).half(), torch.tensor([500.0]), context.half(), mask)
    assert out.isfinite().all()


@pytest.mark.parametrize("config", [TINY, replace(TINY, num_layers=1, num_refiners=1, num_heads=2)])
def test_config_is_read_from_shapes(config: ZImageTransformerConfig) -> None:
    with torch.device("meta"):
        net = ZImageTransformer(config)
    shapes = {name: tuple(p.shape) for name, p in net.state_dict().items()}
    assert ZImageTransformerConfig.from_shapes(shapes) == config


def test_a_missing_tensor_is_named() -> None:
    with pytest.raises(KeyError, match=r"x_embedder\.weight"):
        ZImageTransformerConfig.from_shapes({"cap_embedder.1.weight": (8, 8)})


def test_full_size_is_the_published_architecture() -> None:
    config = ZImageTransformerConfig()
    with torch.device("meta"):
        net = ZImageTransformer(config)
        reference = ZImageTransformer2DModel()
    assert config.axes == (32, 48, 48)
    ours = convert_z_image_transformer_checkpoint_to_diffusers(dict(net.state_dict()))
    published = {name: p.shape for name, p in reference.state_dict().items()}
    assert {name: p.shape for name, p in ours.items()} == published


@pytest.mark.parametrize("head_size", [8, 12, 16, 20, 24, 32, 64])
def test_every_pair_of_channels_turns(head_size: int) -> None:
    widths = replace(TINY, head_size=head_size).axes
    assert sum(widths) == head_size
    assert all(width > 0 and width % 2 == 0 for width in widths)


def test_the_image_stands_where_the_text_stops() -> None:
    positions = token_positions(32, 2, 3, torch.device("cpu")).tolist()
    assert positions[:6] == [[33, y, x] for y in (0, 1) for x in (0, 1, 2)]
    assert positions[6:32] == [[0, 0, 0]] * 26
    assert positions[32:] == [[place, 0, 0] for place in range(1, 33)]
