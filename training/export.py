"""Packs the trained parts into one Stable Diffusion 1 checkpoint in GGUF.

    PYTHONPATH=src python -m training.export DIR src/darkroom/data/builtin.gguf

DIR is what training/train.py wrote. Matrices and convolutions become q8_0; the token embedding q4_0, to which
training has already rounded it; the parts where it makes no difference q5_0 (README.md has the measurements);
norms, biases and the thin first and last layers stay as they are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from darkroom.quant.packed import PackedTensor
from darkroom.weights.save import write_gguf

PREFIXES = {
    "te": "cond_stage_model.transformer.",
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
}
SMALL = 8192  # weights; below it packing saves nothing
COARSE = ("model.diffusion_model.middle_block.", "first_stage_model.encoder.")


def packed(name: str, tensor: Tensor) -> Tensor | PackedTensor:
    """One tensor as the file stores it; name: with the part's prefix."""
    if "token_embedding" in name:
        return PackedTensor.encode(tensor.float(), "q4_0")
    if tensor.ndim == 1 or "quant_conv" in name:
        return tensor.float()
    if tensor.numel() < SMALL or tensor.numel() % 32 or "position_embedding" in name:
        return tensor.half()
    return PackedTensor.encode(tensor.float(), "q5_0" if name.startswith(COARSE) else "q8_0")


def main() -> None:
    """Reads the parts, writes the checkpoint, says how large it is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", type=Path, help="folder with te, unet and vae.safetensors")
    parser.add_argument("checkpoint", type=Path)
    args = parser.parse_args()
    tensors: dict[str, Tensor | PackedTensor] = {}
    for part, prefix in PREFIXES.items():
        for name, tensor in load_file(args.parts / f"{part}.safetensors").items():
            if not bool(tensor.isfinite().all()):
                raise SystemExit(f"{part}.safetensors: {name} is not finite; train again")
            tensors[prefix + name] = packed(prefix + name, tensor)
    metadata: dict[str, str | bool | int | float] = {
        "general.architecture": "sd1",
        "general.name": "Darkroom built-in model",
        "general.license": "Apache-2.0",
        "general.quantization_version": 2,
        "general.file_type": 7,
        "general.description": (
            "Simple shapes in plain colours, trained from nothing on drawings made by a program (training/)"
        ),
        "modelspec.resolution": "256x256",
    }
    args.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        write_gguf(args.checkpoint, tensors, metadata)
    print(f"{args.checkpoint}: {args.checkpoint.stat().st_size / 1e6:.2f} MB, {len(tensors)} tensors")


if __name__ == "__main__":
    main()
