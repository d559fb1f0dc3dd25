"""Our encoders against ggml's, by what stable-diffusion.cpp made of the same weights.

tests/data/ggml_quants.gguf holds `weights` in float32 and a tensor for each type, converted by
stable-diffusion.cpp 0.4.7 (`sd-cli -M convert --type f32 --tensor-type-rules "^q4_k$=q4_K,..."`): blocks of
normal values, of heavy-tailed ones, of zeros, half of zeros, of positive values only.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from darkroom.quant.gguf import BLOCK_TYPES, ENCODERS, decode, encode
from darkroom.quant.packed import PackedTensor
from darkroom.weights.checkpoint import open_checkpoint

GOLDEN = Path(__file__).parent.parent / "data" / "ggml_quants.gguf"


@pytest.fixture(scope="module")
def theirs() -> dict[str, Tensor | PackedTensor]:
    with open_checkpoint(GOLDEN) as golden:
        return {name: golden.read(name) for name in golden.index}


def error(weights: Tensor, blocks: Tensor, format: str) -> float:
    decoded = decode(blocks, format, torch.float32).view_as(weights)
    return float((decoded - weights).square().mean().sqrt())


@pytest.mark.parametrize("format", sorted(ENCODERS))
def test_loses_no_more_than_ggml(theirs: dict[str, Tensor | PackedTensor], format: str) -> None:
    """Sums run in another order, so now and then another scale of nearly the same error is found."""
    weights, golden = theirs["weights"], theirs[format]
    assert isinstance(weights, Tensor)
    assert isinstance(golden, PackedTensor)
    assert golden.format == format
    assert error(weights, encode(weights, format), format) <= 1.001 * error(weights, golden.data, format)


# Where ggml rounds with a scale that the block cannot hold, ours rounds with the one that it holds.
SAME_BLOCKS = {"q8_0": 1.0, "tq1_0": 1.0, "tq2_0": 1.0, "mxfp4": 1.0}
SAME_BLOCKS |= {"q2_k": 0.8, "q3_k": 0.8, "q4_k": 0.8, "q5_k": 0.8, "q6_k": 0.9, "iq4_nl": 0.9, "iq4_xs": 0.7}


@pytest.mark.parametrize("format", sorted(SAME_BLOCKS))
def test_finds_the_blocks_that_ggml_finds(theirs: dict[str, Tensor | PackedTensor], format: str) -> None:
    weights, golden = theirs["weights"], theirs[format]
    assert isinstance(weights, Tensor)
    assert isinstance(golden, PackedTensor)
    nbytes = BLOCK_TYPES[format].nbytes
    same = (encode(weights, format).view(-1, nbytes) == golden.data.view(-1, nbytes)).all(dim=1)
    assert same.float().mean() >= SAME_BLOCKS[format]


@pytest.mark.parametrize("format", sorted(ENCODERS))
@pytest.mark.parametrize("value", [0.0, 1e-30, 0.25, -3.0, 1000.0])
def test_equal_values_stay_equal(format: str, value: float) -> None:
    block = torch.full((2, BLOCK_TYPES[format].elements), value)
    decoded = decode(encode(block, format), format, torch.float32)
    assert torch.isfinite(decoded).all()
    assert (decoded - value).abs().max() <= 0.25 * abs(value) + 1e-9


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_float_type_is_taken(dtype: torch.dtype) -> None:
    weights = torch.randn(4, 256, generator=torch.Generator().manual_seed(2)).to(dtype)
    assert torch.equal(encode(weights, "q4_k"), encode(weights.float(), "q4_k"))


def test_what_can_be_written_can_be_read() -> None:
    assert set(ENCODERS) <= set(BLOCK_TYPES)
