from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from darkroom.api.errors import CheckpointError
from darkroom.quant.packed import PackedTensor
from darkroom.weights.checkpoint import open_checkpoint

WEIGHT = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)).to(torch.float8_e4m3fn)


@pytest.mark.parametrize("companion", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize(
    "scale", [torch.tensor(0.02), torch.tensor([0.5]), torch.linspace(0.1, 1, 6)[:, None]]
)
def test_a_scale_is_folded_into_its_weight(tmp_path: Path, companion: str, scale: torch.Tensor) -> None:
    tensors = {
        "fc.weight": WEIGHT,
        "fc.bias": torch.ones(6),
        f"fc.{companion}": scale,
        "fc.scale_input": torch.ones(()),
        "fc.comfy_quant": torch.zeros(9, dtype=torch.uint8),
        "plain.weight": WEIGHT.clone(),
        "scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    with open_checkpoint(tmp_path / "x.safetensors") as checkpoint:
        assert sorted(checkpoint.index) == ["fc.bias", "fc.weight", "plain.weight"]
        weight = checkpoint.read("fc.weight")
        assert isinstance(weight, PackedTensor)
        assert torch.equal(weight.decode(torch.float32), WEIGHT.float() * scale)
        assert checkpoint.read("plain.weight").dtype == torch.float8_e4m3fn


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_the_mark_is_left_out_of_a_file_without_scales(tmp_path: Path, prefix: str) -> None:
    """Files that were cut or cast to plain fp8 keep it."""
    tensors = {"fc.weight": WEIGHT, f"{prefix}scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    save_file(tensors, tmp_path / "x.safetensors")
    with open_checkpoint(tmp_path / "x.safetensors") as checkpoint:
        assert list(checkpoint.index) == ["fc.weight"]


@pytest.mark.parametrize("shape", [(5,), (6, 2)], ids=["another size", "MXFP8: one for each block"])
def test_a_scale_of_another_size_is_an_error(tmp_path: Path, shape: tuple[int, ...]) -> None:
    save_file({"fc.weight": WEIGHT, "fc.scale_weight": torch.ones(shape)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"fc.scale_weight \[.*\] does not fit .* \[6, 8\]"):
        open_checkpoint(tmp_path / "x.safetensors")


def test_a_scale_beside_another_type_is_an_error(tmp_path: Path) -> None:
    tensors = {"fc.weight": torch.zeros(6, 8, dtype=torch.int8), "fc.weight_scale": torch.ones(())}
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(
        CheckpointError, match=r"'fc.weight' is i8 with a scale beside it \(fc.weight_scale\)"
    ):
        open_checkpoint(tmp_path / "x.safetensors")
