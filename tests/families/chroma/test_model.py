"""Chroma's network against diffusers' on the same random checkpoint, converted by diffusers itself."""

from __future__ import annotations

import itertools

import torch
from diffusers import ChromaTransformer2DModel
from diffusers.loaders.single_file_utils import convert_chroma_transformer_checkpoint_to_diffusers
from diffusers.pipelines.chroma.pipeline_chroma import ChromaPipeline
from tests.comparison import relative_error
from tests.families.reference import of_width, randomise
from torch import Tensor

from darkroom.families.chroma.model import Chroma, ChromaNetConfig
from darkroom.nets.flux_blocks import StreamsConfig

STREAMS = StreamsConfig(context_dim=24, hidden_size=64, head_size=32, mlp_size=256, depth=2, depth_single=3)
CONFIG = ChromaNetConfig(STREAMS, approximator_in=64, approximator_size=48, approximator_layers=3)


def random_chroma(config: ChromaNetConfig = CONFIG) -> Chroma:
    torch.manual_seed(0)
    net = Chroma(config)
    randomise(net)
    return net


def diffusers_chroma(net: Chroma) -> ChromaTransformer2DModel:
    streams = net.config.streams
    reference = ChromaTransformer2DModel(
        in_channels=streams.in_channels,
        num_layers=streams.depth,
        num_single_layers=streams.depth_single,
        attention_head_dim=streams.head_size,
        num_attention_heads=streams.num_heads,
        joint_attention_dim=streams.context_dim,
        axes_dims_rope=streams.axes,
        approximator_num_channels=net.config.approximator_in,
        approximator_hidden_dim=net.config.approximator_size,
        approximator_layers=net.config.approximator_layers,
    )
    convert = of_width(convert_chroma_transformer_checkpoint_to_diffusers, streams.hidden_size)
    reference.load_state_dict(convert(dict(net.state_dict())), strict=True)
    return reference.eval()


def reference_output(
    reference: ChromaTransformer2DModel, x: Tensor, t: Tensor, context: Tensor, mask: Tensor | None = None
) -> Tensor:
    """As ChromaPipeline calls it, but with a mask that hides: the pipeline's is added to the scores."""
    b, c, h, w = x.shape
    if mask is not None:
        mask = torch.cat((mask, torch.ones(b, h * w // 4, dtype=torch.bool)), dim=1)
    out = reference(
        hidden_states=ChromaPipeline._pack_latents(x, b, c, h, w),
        encoder_hidden_states=context,
        timestep=t,
        txt_ids=torch.zeros(context.shape[1], 3),
        img_ids=ChromaPipeline._prepare_latent_image_ids(b, h // 2, w // 2, "cpu", torch.float32),
        attention_mask=mask,
    ).sample
    return ChromaPipeline._unpack_latents(out, h * 8, w * 8, 8)


@torch.inference_mode()
def test_output_equals_diffusers() -> None:
    net = random_chroma()
    x, t, context = torch.randn(2, 16, 8, 12), torch.tensor([0.97, 0.125]), torch.randn(2, 7, 24)

    got = net(x, t, context)

    assert relative_error(got, reference_output(diffusers_chroma(net), x, t, context)) < 1e-4


@torch.inference_mode()
def test_text_that_is_left_out_is_text_that_is_masked() -> None:
    net = random_chroma()
    x, t, context = torch.randn(1, 16, 8, 12), torch.tensor([0.5]), torch.randn(1, 9, 24)
    mask = (torch.arange(9) < 4)[None]
    expected = reference_output(diffusers_chroma(net), x, t, context, mask)

    assert relative_error(net(x, t, context[:, :4]), expected) < 1e-4
    assert relative_error(net(x, t, context), expected) > 1e-3


@torch.inference_mode()
def test_bfloat16_stays_close() -> None:
    exact, coarse = random_chroma(), random_chroma().to(torch.bfloat16)
    x, context = torch.randn(1, 16, 8, 12), torch.randn(1, 7, 24)
    y = x
    levels = torch.linspace(1, 0, 5)
    for sigma, following in itertools.pairwise(levels):
        t, step = sigma[None], following - sigma
        x = x + step * exact(x, t, context)
        y = y + step * coarse(y.to(torch.bfloat16), t, context.to(torch.bfloat16)).float()

    assert (x - y).norm() / x.norm() < 2e-2


def test_config_is_read_from_shapes() -> None:
    with torch.device("meta"):
        state = Chroma(CONFIG).state_dict()
    assert ChromaNetConfig.from_shapes({name: tuple(p.shape) for name, p in state.items()}) == CONFIG


def test_full_size_is_the_published_one() -> None:
    config = ChromaNetConfig(StreamsConfig())
    with torch.device("meta"):
        ours, theirs = Chroma(config), ChromaTransformer2DModel()
    assert config.modulation_rows == 344
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_gradients_reach_every_parameter() -> None:
    net = random_chroma()
    net(torch.randn(1, 16, 4, 4), torch.tensor([0.7]), torch.randn(1, 5, 24)).square().mean().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []
