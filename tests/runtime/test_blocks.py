"""Blocks that are found in networks of every kind without knowing them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from darkroom.families.chroma.model import Chroma, ChromaNetConfig
from darkroom.families.flux.model import Flux, FluxNetConfig
from darkroom.families.sd3.model import MMDiT, MMDiTConfig
from darkroom.families.z_image.model import ZImageTransformer, ZImageTransformerConfig
from darkroom.nets.flux_blocks import StreamsConfig
from darkroom.nets.te.clip import CLIPTextConfig, CLIPTextModel
from darkroom.nets.te.stack import TextEncoders
from darkroom.nets.te.t5 import T5Config, T5EncoderModel
from darkroom.nets.unet import UNetConfig, UNetModel
from darkroom.nets.vae.kl import AutoencoderKL, KLConfig
from darkroom.runtime.blocks import Block, find_blocks


def blocks_of(build: Callable[[], nn.Module]) -> tuple[nn.Module, list[Block], dict[str, int]]:
    """At full size: nothing is allocated."""
    with torch.device("meta"):
        net = build()
    sizes = {name: tensor.numel() * 2 for name, tensor in net.state_dict().items()}
    return net, find_blocks(net, sizes), sizes


def text_encoders() -> nn.Module:
    return TextEncoders(
        clip_l=CLIPTextModel(CLIPTextConfig(49408, 77, 768, 3072, 12, 12)),
        t5xxl=T5EncoderModel(T5Config(32128, 4096, 10240, 4096, 24, 64, 32)),
    )


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (lambda: Flux(FluxNetConfig(StreamsConfig())), {"double_blocks": 19, "single_blocks": 38}),
        (lambda: MMDiT(MMDiTConfig(2432, 38, 38, 9728, qk_norm=True)), {"joint_blocks": 38}),
        (
            lambda: ZImageTransformer(ZImageTransformerConfig()),
            {"noise_refiner": 2, "context_refiner": 2, "layers": 30},
        ),
        (
            lambda: Chroma(ChromaNetConfig(StreamsConfig())),
            {"double_blocks": 19, "single_blocks": 38, "distilled_guidance_layer.layers": 5},
        ),
        (text_encoders, {"t5xxl.encoder.block": 24}),
    ],
)
def test_transformers_are_lists_of_blocks_in_the_order_of_their_calls(
    build: Callable[[], nn.Module], names: dict[str, int]
) -> None:
    _, blocks, sizes = blocks_of(build)
    assert [block.name for block in blocks] == [f"{name}.{i}" for name, n in names.items() for i in range(n)]
    assert sum(block.nbytes for block in blocks) > 0.94 * sum(sizes.values())


def test_unet_is_a_list_of_levels() -> None:
    _, blocks, sizes = blocks_of(lambda: UNetModel(UNetConfig()))
    names = [block.name for block in blocks]
    assert names == sorted(names, key=lambda name: ["input", "middle", "output"].index(name.split("_")[0]))
    assert "middle_block" in names
    assert "output_blocks.11" not in names  # too small to be worth a journey
    assert sum(block.nbytes for block in blocks) > 0.9 * sum(sizes.values())


def test_what_the_network_reads_of_a_block_from_outside_stays() -> None:
    net, blocks, sizes = blocks_of(lambda: UNetModel(UNetConfig()))
    block = next(block for block in blocks if block.name == "middle_block")
    assert {"0.emb_layers.1", "1.transformer_blocks.0.attn2.to_k"} <= set(block.shared)
    assert "0.emb_layers.1.weight" not in block.tensors
    assert "0.in_layers.0.weight" in block.tensors
    assert isinstance(net, UNetModel)
    outside = {id(linear) for group in net.joint_projections() for linear in group}
    assert {id(net.middle_block.get_submodule(name)) for name in block.shared} <= outside
    assert block.nbytes == sum(sizes[f"middle_block.{name}"] for name in block.tensors)


def test_autoencoder_is_a_list_of_levels() -> None:
    _, blocks, _ = blocks_of(lambda: AutoencoderKL(KLConfig()))
    assert {block.name.rpartition(".")[0] for block in blocks} == {"encoder.down", "decoder.up"}


def test_layers_that_stand_in_a_list_are_no_blocks() -> None:
    net = nn.Module()
    net.mlp = nn.ModuleList((nn.Linear(2, 2), nn.Identity(), nn.Linear(2, 2)))
    assert find_blocks(net, dict.fromkeys(net.state_dict(), 1)) == []
