"""The spellings of Wan's autoencoder; tests/nets/vae/test_wan.py computes with the renamed tensors."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

from darkroom.nets.vae.kl import AutoencoderKL, KLConfig
from darkroom.nets.vae.wan import WanConfig, WanVAE
from darkroom.weights.index import TensorIndex, TensorInfo
from darkroom.weights.spellings import VAE
from darkroom.weights.wan_vae_names import WAN_VAE

Shapes = dict[str, tuple[int, ...]]


def renamed(shapes: Shapes) -> Shapes:
    return WAN_VAE.apply(
        TensorIndex(TensorInfo(name, shape, "f32") for name, shape in shapes.items())
    ).index.shapes()


def shapes_of(net: torch.nn.Module, prefix: str = VAE) -> Shapes:
    return {prefix + name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


@pytest.fixture(scope="module")
def native() -> Shapes:
    with torch.device("meta"):
        return shapes_of(WanVAE(WanConfig(dim=6)))


@pytest.mark.parametrize("prefix", [VAE, "vae.", "vae.first_stage_model."])
def test_native_names_stay(native: Shapes, prefix: str) -> None:
    assert renamed({name.replace(VAE, prefix): shape for name, shape in native.items()}) == native


@pytest.mark.parametrize("prefix", [VAE, "vae."])
def test_diffusers_names(native: Shapes, prefix: str) -> None:
    with torch.device("meta"):
        theirs = shapes_of(AutoencoderKLWan(base_dim=6), prefix)
    assert renamed(theirs) == native


def test_names_are_those_that_diffusers_converts(native: Shapes) -> None:
    """Its converter of Wan's files, turned round."""
    converted = convert_wan_vae_to_diffusers({name.removeprefix(VAE): name for name in native})
    there_and_back = renamed({VAE + theirs: native[ours] for theirs, ours in converted.items()})
    assert there_and_back == native
    view = WAN_VAE.apply(
        TensorIndex(TensorInfo(VAE + name, native[ours], "f32") for name, ours in converted.items())
    )
    for name, recipe in view.recipes.items():
        assert converted[recipe.source.name.removeprefix(VAE)] == name


def test_folded_axes_are_unfolded(native: Shapes) -> None:
    """GGUF's four axes; gammas of norms have four of their own."""
    folded = {
        name: (shape[0] * shape[1], *shape[2:]) if len(shape) == 5 else shape
        for name, shape in native.items()
    }
    assert renamed(folded) == native


def test_a_kl_autoencoder_is_left_alone() -> None:
    with torch.device("meta"):
        kl = shapes_of(AutoencoderKL(KLConfig(ch=32)))
    assert renamed(kl) == kl
