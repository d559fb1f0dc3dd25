from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from darkroom.api.config import EngineConfig
from darkroom.api.errors import CheckpointError
from darkroom.api.names import Module
from darkroom.engine.model import builtin_model, open_model

VAE = "first_stage_model."


def vae_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(VAE): tensor + 1
        for name, tensor in load_file(checkpoint).items()
        if name.startswith(VAE)
    }


@pytest.mark.parametrize("prefix", ["", "vae.", VAE])
def test_a_vae_of_its_own_takes_the_place_of_the_models(
    checkpoint: Path, tmp_path: Path, prefix: str
) -> None:
    tensors = vae_of(checkpoint)
    path = tmp_path / "vae.safetensors"
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, path)
    model = open_model(EngineConfig(model=checkpoint, vae=path))
    read = model.sources[Module.VAE].read("decoder.conv_in.weight")
    assert isinstance(read, torch.Tensor)
    assert torch.equal(read, tensors["decoder.conv_in.weight"])
    model.close()


def test_a_model_without_vae_needs_one(checkpoint: Path, tmp_path: Path) -> None:
    bare, vae = tmp_path / "bare.safetensors", tmp_path / "vae.safetensors"
    save_file({n: t for n, t in load_file(checkpoint).items() if not n.startswith(VAE)}, bare)
    save_file(vae_of(checkpoint), vae)
    with pytest.raises(CheckpointError, match=r"a KL autoencoder .* is missing; give its file with --vae"):
        open_model(EngineConfig(model=bare))
    open_model(EngineConfig(model=bare, vae=vae)).close()


def test_a_file_without_autoencoder_is_no_vae(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"x": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="--vae: this is no autoencoder that is known"):
        open_model(EngineConfig(model=checkpoint, vae=path))


def test_an_unknown_model_is_described(checkpoint: Path, tmp_path: Path) -> None:
    tensors = load_file(checkpoint)
    path = tmp_path / "odd.safetensors"
    save_file({n: t for n, t in tensors.items() if not n.startswith("model.diffusion_model.input")}, path)
    with pytest.raises(CheckpointError, match=r"closest is Stable Diffusion 1\.x") as error:
        open_model(EngineConfig(model=path))
    assert "model.diffusion_model.input_blocks.0.0.weight" in str(error.value)
    assert path.name in str(error.value)


def test_the_files_own_noise_schedule_is_read(checkpoint: Path, tmp_path: Path) -> None:
    alphas = torch.linspace(0.99, 0.01, 1000)
    path = tmp_path / "own.safetensors"
    save_file(load_file(checkpoint) | {"alphas_cumprod": alphas}, path)
    model = open_model(EngineConfig(model=path))
    assert model.alphas_cumprod is not None
    assert torch.equal(model.alphas_cumprod, alphas)
    model.close()
    model = open_model(EngineConfig(model=checkpoint))
    assert model.alphas_cumprod is None
    model.close()


def test_the_package_brings_a_model_along() -> None:
    model = open_model(EngineConfig())
    assert (model.path, model.family.name) == (builtin_model(), "sd1")
    assert builtin_model().stat().st_size <= 16_000_000
    model.close()
