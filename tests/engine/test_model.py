from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from darkroom.api.config import EngineConfig
from darkroom.api.errors import CheckpointError
from darkroom.api.names import Module, WeightType
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


def test_a_text_encoder_is_no_model(checkpoint: Path, tmp_path: Path) -> None:
    te = "cond_stage_model.transformer."
    path = tmp_path / "clip.safetensors"
    save_file({n[len(te) :]: t for n, t in load_file(checkpoint).items() if n.startswith(te)}, path)
    with pytest.raises(CheckpointError, match=r"clip\.safetensors: this is .* a text encoder of .*--clip_l"):
        open_model(EngineConfig(model=path))


def test_an_incomplete_companion_says_what_it_lacks(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "vae.safetensors"
    tensors = vae_of(checkpoint)
    del tensors["decoder.conv_out.weight"]
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"--vae: this is .* \(it lacks decoder\.conv_out\.weight\); "):
        open_model(EngineConfig(model=checkpoint, vae=path))


def test_names_that_only_another_family_minds_do_no_harm(checkpoint: Path, tmp_path: Path) -> None:
    """Every family's rules are tried; some of them cannot read what is in order for another."""
    odd = {"text_encoders.t5xxl.shared.weight": torch.ones(1), "te3.shared.weight": torch.ones(1)}
    path = tmp_path / "odd.safetensors"
    save_file(load_file(checkpoint) | odd, path)
    model = open_model(EngineConfig(model=path))
    assert model.family.name == "sd1"
    model.close()


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


def test_a_mark_for_zero_terminal_snr_stands_for_the_table(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "ztsnr.safetensors"
    save_file(load_file(checkpoint) | {"ztsnr": torch.zeros(1)}, path)
    model = open_model(EngineConfig(model=path))
    assert model.alphas_cumprod is not None
    assert model.alphas_cumprod[-1] == 0
    model.close()


def test_the_package_brings_a_model_along() -> None:
    model = open_model(EngineConfig())
    assert (model.path, model.family.name) == (builtin_model(), "sd1")
    assert builtin_model().stat().st_size <= 16_000_000
    model.close()


def test_weights_get_the_types_that_are_asked_for(checkpoint: Path) -> None:
    """Norms and biases stay, and rules see the names that files have."""
    rules = r"^cond_stage_model\.transformer\.text_model\.encoder\.layers\.0=f32,first_stage_model=f32"
    model = open_model(EngineConfig(model=checkpoint, type=WeightType.Q4_0, tensor_type_rules=rules))
    types = {
        (module, info.dtype)
        for module, source in model.sources.items()
        for info in source.index.values()
        if len(info.shape) == 2 and info.shape[1] % 32 == 0 and "embed" not in info.name
    }
    assert types == {(Module.TE, "f32"), (Module.TE, "q4_0"), (Module.DIFFUSION, "q4_0")}
    te = model.sources[Module.TE]
    name = "text_model.encoder.layers.0.self_attn.q_proj.weight"
    read = te.read(name)
    assert isinstance(read, torch.Tensor)
    assert read.dtype == torch.float32
    assert te.index["text_model.final_layer_norm.weight"].dtype == "f16", "as in the file"
    model.close()
