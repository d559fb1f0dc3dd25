"""Tiny networks of diffusers and transformers, and their weights under native names, for several families."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel

from darkroom.api.names import Module
from darkroom.families.base import Family
from darkroom.tokenizers import t5
from darkroom.weights.bind import bind_weights
from darkroom.weights.index import TensorIndex, TensorInfo
from darkroom.weights.keys import KeyRules
from darkroom.weights.source import MemorySource

T5_WIDTH = 48

FULL_WIDTH = 3072


def of_width(convert: Callable[..., Any], width: int) -> Callable[..., Any]:
    """diffusers' conversion for another width than that of the published networks, a constant in it."""
    code = convert.__code__
    constants = tuple(width if constant == FULL_WIDTH else constant for constant in code.co_consts)
    return type(convert)(code.replace(co_consts=constants), convert.__globals__)  # type: ignore[attr-defined]


def randomise(net: nn.Module) -> None:
    """Moves every weight: norms and biases too, for ones and zeros would hide swapped weights."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)


def autoencoder() -> AutoencoderKL:
    """Flux's in small. It is sure of what it sees, so that nothing is drawn where it encodes.

    A norm's groups have two channels: with one, a picture of one colour would be all rounding errors.
    """
    vae = AutoencoderKL(
        block_out_channels=(64, 64, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=16,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=0.3611,
        shift_factor=0.1159,
    )
    with torch.no_grad():
        vae.encoder.conv_out.weight[16:] = 0.0
        vae.encoder.conv_out.bias[16:] = -30.0
    return vae


def t5_encoder() -> T5EncoderModel:
    """T5-XXL's in small."""
    config = T5Config(
        vocab_size=t5.VOCAB_SIZE,
        d_model=T5_WIDTH,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    net = T5EncoderModel(config).eval()
    with torch.no_grad():
        net.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.normal_()
    return net


def folders(pipe: DiffusionPipeline, names: Mapping[str, str]) -> dict[str, Tensor]:
    """All weights as a folder in the diffusers layout spells them; names: prefix to part."""
    return {
        prefix + name: tensor
        for prefix, part in names.items()
        for name, tensor in getattr(pipe, part).state_dict().items()
    }


def by_rules(tensors: Mapping[str, Tensor], rules: KeyRules) -> dict[str, Tensor]:
    """All weights under native names."""
    index = TensorIndex(TensorInfo(name, tuple(t.shape), "f32") for name, t in tensors.items())
    made = {
        name: recipe.make(*(tensors[source.name] for source in recipe.sources))
        for name, recipe in rules.apply(index).recipes.items()
    }
    return {name: tensor for name, tensor in made.items() if isinstance(tensor, Tensor)}


def bound(family: Family[Any], module: Module, tensors: dict[str, Tensor]) -> nn.Module:
    """A network of the family with the tensors of a model, native names."""
    source = MemorySource(tensors)
    config = family.detect(source.index)
    assert config is not None
    spec = family.modules(config)[module]
    net = spec.build()
    bind_weights(
        net, source.under(spec.prefix), device=torch.device("cpu"), dtype=torch.float32, subject="test"
    )
    return net.eval()
