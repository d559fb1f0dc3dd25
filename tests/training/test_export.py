from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from darkroom.quant.packed import PackedTensor
from darkroom.weights.checkpoint import open_checkpoint
from training import export

PARTS = {
    "te": {"text_model.embeddings.token_embedding.weight": torch.randn(64, 128)},
    "unet": {
        "middle_block.0.in_layers.2.weight": torch.randn(64, 32, 3, 3),
        "input_blocks.0.0.weight": torch.randn(32, 4, 3, 3),
        "output_blocks.0.0.in_layers.2.weight": torch.randn(64, 32, 3, 3),
        "out.0.weight": torch.randn(64),
    },
    "vae": {"post_quant_conv.weight": torch.randn(4, 4, 1, 1)},
}
TYPES = {
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": ("q4_0", 0.1),
    "model.diffusion_model.middle_block.0.in_layers.2.weight": ("q5_0", 0.06),
    "model.diffusion_model.input_blocks.0.0.weight": ("f16", 1e-3),
    "model.diffusion_model.output_blocks.0.0.in_layers.2.weight": ("q8_0", 0.01),
    "model.diffusion_model.out.0.weight": ("f32", 0.0),
    "first_stage_model.post_quant_conv.weight": ("f32", 0.0),
}


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for part, tensors in PARTS.items():
        save_file(tensors, tmp_path / f"{part}.safetensors")
    path = tmp_path / "out" / "model.gguf"
    monkeypatch.setattr(sys, "argv", ["export", str(tmp_path), str(path)])
    export.main()
    return path


def test_the_checkpoint_holds_what_was_trained(exported: Path) -> None:
    trained = {
        export.PREFIXES[part] + name: tensor
        for part, tensors in PARTS.items()
        for name, tensor in tensors.items()
    }
    with open_checkpoint(exported) as checkpoint:
        assert {name: info.dtype for name, info in checkpoint.index.items()} == {
            name: dtype for name, (dtype, _) in TYPES.items()
        }
        for name, (_, tolerance) in TYPES.items():
            stored = checkpoint.read(name)
            if isinstance(stored, PackedTensor):
                stored = stored.decode(torch.float32)
            error = (stored.float().reshape(trained[name].shape) - trained[name]).norm()
            assert error <= tolerance * trained[name].norm(), name


def test_the_checkpoint_says_what_it_is(exported: Path) -> None:
    with open_checkpoint(exported) as checkpoint:
        assert checkpoint.index.metadata["general.license"] == "Apache-2.0"
        assert checkpoint.index.metadata["modelspec.resolution"] == "256x256"


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"a": torch.tensor([float("nan")])}, tmp_path / "te.safetensors")
    monkeypatch.setattr(sys, "argv", ["export", str(tmp_path), str(tmp_path / "model.gguf")])
    with pytest.raises(SystemExit, match="not finite"):
        export.main()
