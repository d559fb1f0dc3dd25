"""Blocks of quantized weights to floats in one pass over memory.

A thread makes eight neighbouring weights, an octet: they lie in one half of one block, so that everything but
their own bits is computed once, and they are written as 16 bytes. What threads share (scales, bytes of which
each takes a few bits) comes from the first-level cache. Sums are those of quant.gguf, in float32.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from darkroom.quant import gguf
from darkroom.quant.gguf.small import IQ4_VALUES
from darkroom.quant.packed import PackedTensor

OCTET = 8

# Octets that a thread has in hand, and warps of a program.
_THREAD_OCTETS = 4
_WARPS = 8

FORMATS = frozenset(
    {
        *("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k"),
        *("iq4_nl", "iq4_xs", "mxfp4", "f8_e4m3", "f8_e5m2"),
    }
)


def _word(index: int) -> tl.constexpr:
    """Four of the values of iq4_nl as the bytes of a word."""
    values = IQ4_VALUES[4 * index : 4 * index + 4]
    return tl.constexpr(int.from_bytes((value & 0xFF for value in values), "little", signed=True))


_IQ4_0, _IQ4_1, _IQ4_2, _IQ4_3 = map(_word, range(4))


@triton.jit
def _f16(place):
    """The float16 at a byte, (rows,)  ->  (rows, 1) float32."""
    return tl.load(place.to(tl.pointer_type(tl.float16)))[:, None].to(tl.float32)


@triton.jit
def _u16(place):
    return tl.load(place.to(tl.pointer_type(tl.uint16))).to(tl.int32)


@triton.jit
def _byte(place):
    return tl.load(place).to(tl.int32)


@triton.jit
def _bytes(place, lane):
    """Eight bytes from each place, (rows,)  ->  (rows, 8)."""
    return tl.load(place[:, None] + lane[None, :]).to(tl.int32)


@triton.jit
def _nibbles(place, octet, lane):
    """Of 16 bytes the low halves, then the high halves; octet: 0 to 3."""
    return (_bytes(place + octet % 2 * 8, lane) >> (octet // 2 * 4)[:, None]) & 0x0F


@triton.jit
def _five_bits(high, low, octet, lane):
    """`_nibbles` of `low` and a fifth bit for each, in the 32 bits at `high`."""
    bits = (_u16(high + octet // 2 * 2) >> (octet % 2 * 8))[:, None] >> lane[None, :]
    return _nibbles(low, octet, lane) | ((bits & 1) << 4)


@triton.jit
def _iq4(index):
    """The table's value at each index."""
    low = tl.where(index < 4, _IQ4_0, _IQ4_1)
    high = tl.where(index < 12, _IQ4_2, _IQ4_3)
    word = tl.where(index < 8, low, high)
    return ((word << (24 - (index & 3) * 8)) >> 24).to(tl.float32)


@triton.jit
def _scale_and_min(block, octet):
    """q4_k's and q5_k's for 32 weights: six bits each, times the block's own."""
    group = octet // 4
    first = _byte(block + 4 + group % 4)
    second = _byte(block + 8 + group % 4)
    shared = _byte(block + 12 + group % 4)
    scale = tl.where(group < 4, first & 0x3F, (shared & 0x0F) | ((first >> 2) & 0x30))
    minimum = tl.where(group < 4, second & 0x3F, (shared >> 4) | ((second >> 2) & 0x30))
    d = _f16(block) * scale[:, None].to(tl.float32)
    return d, _f16(block + 2) * minimum[:, None].to(tl.float32)


@triton.jit
def _two_bits(place, octet, lane):
    """Fields of two bits, 128 to 32 bytes, the lowest bits of all first; octet: 0 to 31."""
    return (_bytes(place + octet // 16 * 32 + octet % 4 * 8, lane) >> (octet // 4 % 4 * 2)[:, None]) & 3


@triton.jit
def _fours(block, octet, lane, FORMAT: tl.constexpr):
    """The formats of 32 weights."""
    if FORMAT == "q4_0":
        weights = _f16(block) * (_nibbles(block + 2, octet, lane).to(tl.float32) - 8.0)
    elif FORMAT == "q4_1":
        weights = _f16(block) * _nibbles(block + 4, octet, lane).to(tl.float32) + _f16(block + 2)
    elif FORMAT == "q5_0":
        weights = _f16(block) * (_five_bits(block + 2, block + 6, octet, lane).to(tl.float32) - 16.0)
    elif FORMAT == "q5_1":
        weights = _f16(block) * _five_bits(block + 4, block + 8, octet, lane).to(tl.float32) + _f16(block + 2)
    elif FORMAT == "q8_0":
        q = _bytes(block + 2 + octet * 8, lane)
        weights = _f16(block) * ((q << 24) >> 24).to(tl.float32)
    elif FORMAT == "iq4_nl":
        weights = _f16(block) * _iq4(_nibbles(block + 2, octet, lane))
    else:
        tl.static_assert(FORMAT == "mxfp4")
        exponent = _byte(block)[:, None]
        # Half of 2^(e - 127); below 2 that is subnormal.
        bits = tl.where(exponent < 2, 0x00200000 << tl.minimum(exponent, 1), (exponent - 1) << 23)
        q = _nibbles(block + 1, octet, lane)
        # The four bits are the top of a float16's mantissa, the bottom of its exponent, and its sign.
        half = ((q & 7) << 9 | (q & 8) << 12).to(tl.uint16).to(tl.float16, bitcast=True)
        weights = bits.to(tl.float32, bitcast=True) * (half.to(tl.float32) * 32768.0)
    return weights


@triton.jit
def _super(block, octet, lane, FORMAT: tl.constexpr):
    """The formats of 256 weights."""
    if FORMAT == "q2_k":
        scales = _byte(block + octet // 2)[:, None]
        d = _f16(block + 80) * (scales & 0x0F).to(tl.float32)
        minimum = _f16(block + 82) * (scales >> 4).to(tl.float32)
        weights = d * _two_bits(block + 16, octet, lane).to(tl.float32) - minimum
    elif FORMAT == "q3_k":
        group = octet // 2
        low = (_byte(block + 96 + group % 8) >> (group // 8 * 4)) & 0x0F
        high = (_byte(block + 104 + group % 4) >> (group // 4 * 2)) & 3
        d = _f16(block + 108) * ((low | (high << 4)) - 32)[:, None].to(tl.float32)
        keep = _bytes(block + octet % 4 * 8, lane) >> (octet // 4)[:, None]
        weights = d * (_two_bits(block + 32, octet, lane) - (((keep & 1) ^ 1) << 2)).to(tl.float32)
    elif FORMAT == "q4_k":
        d, minimum = _scale_and_min(block, octet)
        q = _bytes(block + 16 + octet // 8 * 32 + octet % 4 * 8, lane) >> (octet // 4 % 2 * 4)[:, None]
        weights = d * (q & 0x0F).to(tl.float32) - minimum
    elif FORMAT == "q5_k":
        d, minimum = _scale_and_min(block, octet)
        q = _bytes(block + 48 + octet // 8 * 32 + octet % 4 * 8, lane) >> (octet // 4 % 2 * 4)[:, None]
        high = _bytes(block + 16 + octet % 4 * 8, lane) >> (octet // 4)[:, None]
        weights = d * ((q & 0x0F) | (high & 1) << 4).to(tl.float32) - minimum
    elif FORMAT == "q6_k":
        scale = (_byte(block + 192 + octet // 2) << 24) >> 24
        low = _bytes(block + octet // 16 * 64 + octet % 8 * 8, lane) >> (octet // 8 % 2 * 4)[:, None]
        q = (low & 0x0F) | _two_bits(block + 128, octet, lane) << 4
        weights = _f16(block + 208) * scale[:, None].to(tl.float32) * (q - 32).to(tl.float32)
    else:
        tl.static_assert(FORMAT == "iq4_xs")
        group = octet // 4
        low = (_byte(block + 4 + group // 2) >> (group % 2 * 4)) & 0x0F
        high = (_u16(block + 2) >> (group * 2)) & 3
        d = _f16(block) * ((low | (high << 4)) - 32)[:, None].to(tl.float32)
        weights = d * _iq4(_nibbles(block + 8 + group * 16, octet % 4, lane))
    return weights


@triton.jit
def _float8(block, lane, FORMAT: tl.constexpr):
    """Eight-bit floats by way of float16, which has the bits of e5m2 on top and takes those of e4m3."""
    q = _bytes(block, lane)
    if FORMAT == "f8_e5m2":
        weights = (q << 8).to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)
    else:
        half = ((q & 0x7F) << 7 | (q & 0x80) << 8).to(tl.uint16).to(tl.float16, bitcast=True)
        weights = tl.where((q & 0x7F) == 0x7F, float("nan"), half.to(tl.float32) * 256.0)
    return weights


@triton.jit
def values(block, octet, lane, FORMAT: tl.constexpr, OCTETS: tl.constexpr):
    """The weights of octets, float32, without the scale beside fp8.

    block: the first byte of each one's block, (rows,). octet: its number there. OCTETS: those of a block.
    """
    if OCTETS == 1:
        weights = _float8(block, lane, FORMAT)
    elif OCTETS == 4:
        weights = _fours(block, octet, lane, FORMAT)
    else:
        weights = _super(block, octet, lane, FORMAT)
    return weights


@triton.jit(do_not_specialize=["octets", "scale_octets"])
def _dequantize_kernel(
    data, scale, out, octets, scale_octets,
    FORMAT: tl.constexpr, OCTETS: tl.constexpr, NBYTES: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """OCTETS, NBYTES: of a block. scale_octets: how many share a number of `scale`, where there is one."""
    lane = tl.arange(0, 8)
    first = tl.program_id(0) * TILE
    # Beyond the end the last octet is made again, and written where it is already.
    row = tl.minimum(tl.arange(0, TILE), octets - first - 1)
    block = data + (first // OCTETS).to(tl.int64) * NBYTES + row // OCTETS * NBYTES
    weights = values(block, row % OCTETS, lane, FORMAT, OCTETS)
    if scale is not None:
        weights *= tl.load(scale + (first + row) // scale_octets)[:, None].to(tl.float32)
    place = out + first.to(tl.int64) * 8 + row[:, None] * 8 + lane[None, :]
    tl.store(place, weights.to(out.dtype.element_ty))


class Layout(NamedTuple):
    """A format as the kernels are told of it. OCTETS, NBYTES: of a block; one octet where there are none."""

    FORMAT: str
    OCTETS: int
    NBYTES: int


def layout(format: str) -> Layout:
    """The layout of one of FORMATS."""
    block = gguf.BLOCK_TYPES.get(format)
    return Layout(format, block.elements // OCTET, block.nbytes) if block else Layout(format, 1, OCTET)


def supports(packed: PackedTensor) -> bool:
    """Whether `dequantize` takes it: a known format, whole octets, in fp8 none with two scales."""
    scales = 1 if packed.scale is None else packed.scale.numel()
    width = math.prod(packed.shape[1:]) if scales > 1 else math.prod(packed.shape)
    return packed.format in FORMATS and width % OCTET == 0 and packed.nbytes > 0


def dequantize(packed: PackedTensor, out: Tensor) -> Tensor:
    """`out`, contiguous, filled with the weights of `packed`, which is beside it on the current device."""
    tile = _WARPS * 32 * _THREAD_OCTETS
    octets = out.numel() // OCTET
    scales = 1 if packed.scale is None else packed.scale.numel()
    _dequantize_kernel[(triton.cdiv(octets, tile),)](
        packed.data, packed.scale, out, octets, octets // scales,
        **layout(packed.format)._asdict(), TILE=tile, num_warps=_WARPS,
    )  # fmt: skip
    return out
