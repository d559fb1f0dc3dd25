"""Weights that are no numbers are an error that names the network, not a black picture."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from darkroom import Engine, EngineConfig, GenerationRequest
from darkroom.api.errors import DarkroomError


@pytest.mark.parametrize(
    ("tensor", "subject", "has_image"),
    [
        ("cond_stage_model.transformer.text_model.final_layer_norm.bias", "te: the encoded prompt", False),
        ("model.diffusion_model.out.2.bias", "diffusion: the latent", False),
        ("first_stage_model.decoder.conv_out.bias", "vae: the picture", False),
        ("first_stage_model.encoder.conv_out.bias", "vae: the encoded picture", True),
    ],
)
def test_the_network_is_named(
    checkpoint: Path, tmp_path: Path, tensor: str, subject: str, has_image: bool
) -> None:
    tensors = load_file(checkpoint)
    tensors[tensor].fill_(float("nan"))
    path = tmp_path / "damaged.safetensors"
    save_file(tensors, path)
    image = Image.new("RGB", (64, 64)) if has_image else None
    request = GenerationRequest(prompt="a cat", width=64, height=64, steps=1, init_image=image)
    error = pytest.raises(DarkroomError, match=f"^{subject} holds values that are no numbers; the weights")
    with Engine.load(EngineConfig(model=path, backend="cpu", threads=1)) as engine, error:
        engine.generate(request)
