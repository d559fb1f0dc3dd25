"""Flux's network against diffusers' on the same random checkpoint, converted by diffusers itself."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from diffusers.pipelines.flux.pipeline_flux_kontext import FluxKontextPipeline
from tests.comparison import relative_error
from tests.families.reference import of_width, randomise
from torch import Tensor, nn

from darkroom.families.flux.model import Flux, FluxNetConfig, reference_positions
from darkroom.layers.linear import Linear
from darkroom.nets.flux_blocks import StreamsConfig, image_positions
from darkroom.nets.patches import patchify, unpatchify

STREAMS = StreamsConfig(context_dim=24, hidden_size=64, head_size=32, mlp_size=256, depth=2, depth_single=3)
DEV = FluxNetConfig(STREAMS, vector_dim=16)
SCHNELL = replace(DEV, has_guidance=False)
FILL = replace(DEV, streams=replace(STREAMS, in_channels=384))
CONFIGS = pytest.mark.parametrize("config", [DEV, SCHNELL, FILL], ids=("dev", "schnell", "fill"))


def random_flux(config: FluxNetConfig) -> Flux:
    torch.manual_seed(0)
    net = Flux(config)
    randomise(net)
    return net


def diffusers_flux(net: Flux, config: FluxNetConfig) -> FluxTransformer2DModel:
    streams = config.streams
    reference = FluxTransformer2DModel(
        in_channels=streams.in_channels,
        out_channels=streams.out_channels,
        num_layers=streams.depth,
        num_single_layers=streams.depth_single,
        attention_head_dim=streams.head_size,
        num_attention_heads=streams.num_heads,
        joint_attention_dim=streams.context_dim,
        pooled_projection_dim=config.vector_dim,
        guidance_embeds=config.has_guidance,
        axes_dims_rope=streams.axes,
    )
    convert = of_width(convert_flux_transformer_checkpoint_to_diffusers, streams.hidden_size)
    reference.load_state_dict(convert(dict(net.state_dict())), strict=True)
    return reference.eval()


def inputs(config: FluxNetConfig, batch: int = 2) -> dict[str, Tensor | None]:
    torch.manual_seed(1)
    extra = (config.streams.in_channels - config.streams.out_channels) // 4
    return {
        "x": torch.randn(batch, 16, 8, 12),
        "t": torch.tensor([0.97, 0.125])[:batch],
        "context": torch.randn(batch, 7, config.streams.context_dim),
        "vector": torch.randn(batch, config.vector_dim),
        "guidance": torch.tensor([3.5, 30.0])[:batch] if config.has_guidance else None,
        "concat": torch.randn(batch, extra, 8, 12) if extra else None,
    }


def reference_output(
    reference: FluxTransformer2DModel, given: dict[str, Any], references: tuple[Tensor, ...] = ()
) -> Tensor:
    """As FluxPipeline, FluxFillPipeline and FluxKontextPipeline call it."""
    pack = FluxPipeline._pack_latents
    b, c, h, w = given["x"].shape
    hidden = pack(given["x"], b, c, h, w)
    if given["concat"] is not None:
        hidden = torch.cat((hidden, pack(given["concat"], *given["concat"].shape)), dim=2)
    ids = FluxKontextPipeline._prepare_latent_image_ids(b, h // 2, w // 2, "cpu", torch.float32)
    for latent in references:
        hidden = torch.cat((hidden, pack(latent, *latent.shape)), dim=1)
        rows, columns = latent.shape[2] // 2, latent.shape[3] // 2
        more = FluxKontextPipeline._prepare_latent_image_ids(b, rows, columns, "cpu", torch.float32)
        more[..., 0] = 1
        ids = torch.cat((ids, more))
    out = reference(
        hidden_states=hidden,
        encoder_hidden_states=given["context"],
        pooled_projections=given["vector"],
        timestep=given["t"],
        guidance=given["guidance"],
        txt_ids=torch.zeros(given["context"].shape[1], 3),
        img_ids=ids,
    ).sample
    return FluxPipeline._unpack_latents(out[:, : h * w // 4], h * 8, w * 8, 8)


@CONFIGS
@torch.inference_mode()
def test_output_equals_diffusers(config: FluxNetConfig) -> None:
    net = random_flux(config)
    given = inputs(config)
    expected = reference_output(diffusers_flux(net, config), given)

    got = net(**given)

    assert relative_error(got, expected) < 1e-4


@torch.inference_mode()
def test_a_reference_is_the_first_other_picture() -> None:
    net = random_flux(DEV)
    given = inputs(DEV)
    references = (torch.randn(2, 16, 6, 4),)
    expected = reference_output(diffusers_flux(net, DEV), given, references)

    assert relative_error(net(**given, references=references), expected) < 1e-4
    assert relative_error(net(**given), expected) > 1e-2


def test_references_lie_beside_each_other_or_are_numbered() -> None:
    wide, tall, small = (torch.empty(1, 16, *size) for size in ((4, 8), (8, 4), (4, 4)))

    def firsts(increase_index: bool) -> list[list[float]]:
        return [place[0].tolist() for place in reference_positions((wide, tall, small), increase_index)]

    # By ComfyUI's rule (ldm/flux/model.py): tall lies under wide, small right of both.
    assert firsts(False) == [[1, 0, 0], [1, 2, 0], [1, 0, 4]]
    assert firsts(True) == [[1, 0, 0], [2, 0, 0], [3, 0, 0]]


def run(net: Flux, given: dict[str, Tensor | None], dtype: torch.dtype) -> Tensor:
    """Four steps of Euler's method, the network in `dtype`."""
    x = given["x"]
    assert x is not None
    floats = {name: given[name] for name in ("context", "vector")}
    halved = {name: None if value is None else value.to(dtype) for name, value in floats.items()}
    levels = torch.linspace(1, 0, 5)
    for sigma, following in itertools.pairwise(levels):
        velocity = net(x.to(dtype), sigma[None], **halved, guidance=given["guidance"])
        x = x + (following - sigma) * velocity.float()
    return x


@torch.inference_mode()
def test_a_short_run_in_bfloat16_stays_close() -> None:
    given = inputs(DEV, 1)
    exact = run(random_flux(DEV), given, torch.float32)
    coarse = run(random_flux(DEV).to(torch.bfloat16), given, torch.bfloat16)

    assert (exact - coarse).norm() / exact.norm() < 2e-2


class Standin(nn.Module):
    """What a quantized layer looks like to a network: it can be called, and no more."""

    def __init__(self, layer: Linear) -> None:
        super().__init__()
        self.hidden_layer = [layer]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.hidden_layer[0](x)
        return out


@torch.inference_mode()
def test_single_blocks_work_with_layers_of_another_kind() -> None:
    net = random_flux(DEV)
    expected = net(**inputs(DEV))
    for block in net.single_blocks:
        block.linear1, block.linear2 = Standin(block.linear1), Standin(block.linear2)

    assert relative_error(net(**inputs(DEV)), expected) < 1e-5


def test_config_is_read_from_shapes() -> None:
    for config in (DEV, SCHNELL, FILL):
        with torch.device("meta"):
            state = Flux(config).state_dict()
        assert FluxNetConfig.from_shapes({name: tuple(p.shape) for name, p in state.items()}) == config


def test_full_size_has_the_published_parameter_counts() -> None:
    with torch.device("meta"):
        dev, schnell = (
            Flux(FluxNetConfig(StreamsConfig())),
            Flux(FluxNetConfig(StreamsConfig(), has_guidance=False)),
        )
        expected = FluxTransformer2DModel(guidance_embeds=True)
    assert StreamsConfig().axes == (16, 56, 56)
    assert sum(p.numel() for p in dev.parameters()) == sum(p.numel() for p in expected.parameters())
    assert sum(p.numel() for p in schnell.parameters()) == 11_891_178_560


def test_gradients_reach_every_parameter() -> None:
    net = random_flux(DEV)
    net(**inputs(DEV)).square().mean().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_patches_are_the_authors() -> None:
    latent = torch.randn(2, 16, 6, 10)
    tokens = patchify(latent)
    assert torch.equal(tokens, FluxPipeline._pack_latents(latent, 2, 16, 6, 10))
    assert torch.equal(unpatchify(tokens, 6, 10), latent)
    ids = FluxPipeline._prepare_latent_image_ids(1, 3, 5, "cpu", torch.float32)
    assert torch.equal(image_positions(latent), ids)
