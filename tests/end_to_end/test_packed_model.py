"""A quantized model draws one picture, its weights unpacked at load or where they are used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from darkroom.api.config import EngineConfig
from darkroom.api.names import Module
from darkroom.api.request import GenerationRequest
from darkroom.engine.engine import Engine
from darkroom.runtime import packing


@pytest.fixture
def quantized(checkpoint: Path, tmp_path: Path) -> Path:
    """All matrices in fp8, which has no blocks that a tiny model's widths would have to fit."""
    tensors = load_file(checkpoint)
    for name, tensor in tensors.items():
        if tensor.ndim == 2 and name.endswith(".weight"):
            tensors[name] = tensor.to(torch.float8_e4m3fn)
    save_file(tensors, path := tmp_path / "fp8.safetensors")
    return path


def drawn(
    model: Path, share: float, monkeypatch: pytest.MonkeyPatch
) -> tuple[np.ndarray, dict[Module, bool]]:
    monkeypatch.setattr(packing, "SHARE_OF_MAIN_MEMORY", share)
    config = EngineConfig.model_validate(
        {"model": model, "backend": "cpu", "threads": 1, "compute_type": "f32"}
    )
    request = GenerationRequest(prompt="a cat", width=64, height=64, steps=3, seed=1)
    with Engine.load(config) as engine:
        image = engine.generate(request).images[0]
        kept = {module: component.keep_packed for module, component in engine.components.items()}
        return np.asarray(image, dtype=np.int16), kept


def test_types_that_are_asked_for_stay_in_memory(checkpoint: Path) -> None:
    config = EngineConfig.model_validate(
        {"model": checkpoint, "backend": "cpu", "threads": 1, "type": "q8_0"}
    )
    with Engine.load(config) as engine:
        assert engine.components[Module.DIFFUSION].keep_packed


def test_same_picture(quantized: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked, kept = drawn(quantized, 0.5, monkeypatch)
    assert not kept[Module.TE]
    assert not kept[Module.DIFFUSION]
    packed, kept = drawn(quantized, 0, monkeypatch)
    assert kept[Module.TE]
    assert kept[Module.DIFFUSION]
    assert np.abs(packed - unpacked).max() <= 1
    assert unpacked.std() > 1
