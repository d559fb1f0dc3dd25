"""Our block codecs against the gguf package's, block by block and bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import _type_traits, dequantize, quantize

from darkroom.quant.gguf import BLOCK_TYPES, decode, encode, grids, small

BLOCKS = 300
FLOATS = {"bf16"}  # an ordinary torch type, not a block format
THEIR_DECODERS = sorted(qtype.name.lower() for qtype in _type_traits if qtype.name.lower() not in FLOATS)


def qtype(format: str) -> GGMLQuantizationType:
    return GGMLQuantizationType[format.upper()]


def random_blocks(format: str) -> np.ndarray:
    rng = np.random.default_rng(sum(format.encode()))
    return rng.integers(0, 256, (BLOCKS, BLOCK_TYPES[format].nbytes), dtype=np.uint8)


def smooth_weights(elements: int) -> np.ndarray:
    rng = np.random.default_rng(7)
    weights = rng.normal(0, 0.05, (BLOCKS, elements)).astype(np.float32)
    weights[3] = 0  # a block of nothing has no scale
    weights[5] = 0.25  # and one of equal values no range
    return weights


def test_every_type_the_gguf_package_decodes_is_here() -> None:
    assert set(THEIR_DECODERS) <= set(BLOCK_TYPES)


@pytest.mark.parametrize("format", sorted(BLOCK_TYPES))
def test_block_sizes(format: str) -> None:
    block = BLOCK_TYPES[format]
    assert (block.elements, block.nbytes) == GGML_QUANT_SIZES[qtype(format)]


@pytest.mark.parametrize("format", THEIR_DECODERS)
def test_decodes_random_bytes_bit_by_bit(format: str) -> None:
    """Random bytes reach every code, scale and sign, and non-finite float16 scales too."""
    blocks = random_blocks(format)
    with np.errstate(all="ignore"):
        expected = torch.from_numpy(dequantize(blocks, qtype(format)))
    ours = decode(torch.from_numpy(blocks).flatten(), format, torch.float32)
    torch.testing.assert_close(ours.view_as(expected), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("format", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "tq1_0", "tq2_0", "mxfp4"])
def test_decodes_what_gguf_quantizes(format: str) -> None:
    packed = quantize(smooth_weights(BLOCK_TYPES[format].elements), qtype(format))
    expected = torch.from_numpy(dequantize(packed, qtype(format)))
    ours = decode(torch.from_numpy(packed).flatten(), format, torch.float32)
    assert torch.equal(ours.view_as(expected), expected)


@pytest.mark.parametrize("format", ["q8_0", "tq1_0", "tq2_0", "mxfp4"])
def test_encodes_the_same_bytes_as_gguf(format: str) -> None:
    weights = smooth_weights(BLOCK_TYPES[format].elements)
    weights[7] *= 1e-30
    weights[8] = np.exp2(np.arange(BLOCK_TYPES[format].elements) % 9)
    with np.errstate(all="ignore"):
        expected = quantize(weights, qtype(format)).flatten()
    assert np.array_equal(encode(torch.from_numpy(weights), format).numpy(), expected)


def test_q1_0_is_one_sign_bit_for_each_weight() -> None:
    """gguf knows its size but cannot decode it; ggml's definition: d where the bit is set, else -d."""
    blocks = random_blocks("q1_0")
    bits = np.unpackbits(blocks[:, 2:], axis=1, bitorder="little").astype(bool)
    d = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    ours = decode(torch.from_numpy(blocks).flatten(), "q1_0", torch.float32)
    np.testing.assert_array_equal(ours.view(BLOCKS, 128).numpy(), np.where(bits, d, -d))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_rounded_once_from_float32(dtype: torch.dtype) -> None:
    packed = encode(torch.from_numpy(smooth_weights(256)), "q8_0")
    assert torch.equal(decode(packed, "q8_0", dtype), decode(packed, "q8_0", torch.float32).to(dtype))


@pytest.mark.parametrize("format", ["nvfp4", "iq2_s"])
def test_tables_are_made_where_the_blocks_are(format: str) -> None:
    """Not on whatever device happens to be torch's default when they are first needed."""
    small._ue4m3_halves.cache_clear()
    grids.entries.cache_clear()
    blocks = torch.from_numpy(random_blocks(format)).flatten()
    with torch.device("meta"):
        decoded = decode(blocks, format, torch.float32)
    assert decoded.device.type == "cpu"


def test_chunks_meet_without_a_seam() -> None:
    """More than one chunk, and a last one that is not full."""
    weights = torch.randn(3 * (1 << 18) + 32 * 5, generator=torch.Generator().manual_seed(1))
    packed = encode(weights, "q8_0")
    expected = dequantize(packed.numpy().reshape(-1, 34), GGMLQuantizationType.Q8_0)
    assert torch.equal(decode(packed, "q8_0", torch.float32), torch.from_numpy(expected).flatten())


def test_encoding_a_part_of_a_block_is_refused() -> None:
    with pytest.raises(ValueError, match="not a whole number of q8_0 blocks of 32"):
        encode(torch.zeros(33), "q8_0")
