from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from darkroom.api.errors import CheckpointError
from darkroom.weights.checkpoint import open_checkpoint

PACKED = torch.zeros(8, 4, dtype=torch.uint8)
ONE = torch.ones(1)

# What the programs write in the place of `fc.weight`, or beside it.
FILES = {
    "bitsandbytes' 4 bits": {
        "fc.weight": PACKED,
        "fc.weight.absmax": ONE,
        "fc.weight.quant_map": ONE,
        "fc.weight.quant_state.bitsandbytes__nf4": PACKED,
    },
    "bitsandbytes' 8 bits": {"fc.weight": PACKED.to(torch.int8), "fc.SCB": ONE},
    "SVDQuant": {"fc.qweight": PACKED, "fc.wscales": ONE, "fc.smooth": ONE, "fc.lora_down": ONE},
    "NVFP4": {"fc.weight": PACKED, "fc.weight_scale": ONE, "fc.weight_scale_2": ONE},
    "fp8 with scales for blocks": {"fc.weight": PACKED, "fc.weight_scale_inv": ONE},
    "GPTQ or AWQ": {"fc.qweight": PACKED, "fc.qzeros": PACKED, "fc.scales": ONE},
    "optimum-quanto": {"fc.weight._data": PACKED, "fc.weight._scale": ONE},
}


@pytest.mark.parametrize("title", FILES)
def test_a_file_says_whose_quantization_it_has(tmp_path: Path, title: str) -> None:
    tensors = FILES[title] | {"norm.weight": ONE}
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=rf"as {title}.* is not read .*; the same model in .* GGUF"):
        open_checkpoint(tmp_path / "x.safetensors")
