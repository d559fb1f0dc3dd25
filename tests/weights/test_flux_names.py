"""Flux's and Chroma's spellings: what diffusers' own conversion makes of a file is led back to the file."""

from __future__ import annotations

import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_chroma_transformer_checkpoint_to_diffusers,
    convert_flux_transformer_checkpoint_to_diffusers,
)
from tests.families.reference import by_rules, of_width, randomise
from torch import Tensor

from darkroom.families.chroma.model import Chroma, ChromaNetConfig
from darkroom.families.flux.model import Flux, FluxNetConfig
from darkroom.nets.flux_blocks import StreamsConfig
from darkroom.weights.flux_names import FLUX_NAMES, NET

STREAMS = StreamsConfig(context_dim=24, hidden_size=32, head_size=16, mlp_size=128, depth=2, depth_single=11)
FLUX = FluxNetConfig(STREAMS, vector_dim=16, time_dim=32)
CHROMA = ChromaNetConfig(STREAMS, approximator_size=48, approximator_layers=2)
BOTH = pytest.mark.parametrize("kind", ["flux", "chroma"])


def state(kind: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    net = Flux(FLUX) if kind == "flux" else Chroma(CHROMA)
    randomise(net)
    return dict(net.state_dict())


def assert_native(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    made = by_rules(tensors, FLUX_NAMES)
    assert made.keys() == {NET + name for name in expected}
    assert all(torch.equal(made[NET + name], tensor) for name, tensor in expected.items())


@BOTH
@pytest.mark.parametrize("prefix", ["", "transformer.", "diffusion_model.", NET])
def test_diffusers_names_lead_to_the_authors(kind: str, prefix: str) -> None:
    convert = {
        "flux": convert_flux_transformer_checkpoint_to_diffusers,
        "chroma": convert_chroma_transformer_checkpoint_to_diffusers,
    }[kind]
    theirs = of_width(convert, STREAMS.hidden_size)(state(kind))

    assert_native({prefix + name: tensor for name, tensor in theirs.items()}, state(kind))


@BOTH
@pytest.mark.parametrize("prefix", ["", "diffusion_model.", NET])
def test_the_authors_names_stay(kind: str, prefix: str) -> None:
    assert_native({prefix + name: tensor for name, tensor in state(kind).items()}, state(kind))


@BOTH
def test_norms_may_have_weights_instead_of_scales(kind: str) -> None:
    renamed = {
        name.removesuffix("scale") + "weight" * name.endswith("scale"): t for name, t in state(kind).items()
    }
    assert not any(name.endswith("scale") for name in renamed)
    assert_native(renamed, state(kind))
