"""The kernels that read quantized weights, against quant's decoders."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from darkroom.quant.gguf import BLOCK_TYPES, encode
from darkroom.quant.packed import PackedTensor

from .conftest import Place, real_size

GGUF = [
    "q4_0",
    "q4_1",
    "q5_0",
    "q5_1",
    "q8_0",
    "q2_k",
    "q3_k",
    "q4_k",
    "q5_k",
    "q6_k",
    "iq4_nl",
    "iq4_xs",
    "mxfp4",
]
FLOAT8 = {"f8_e4m3": torch.float8_e4m3fn, "f8_e5m2": torch.float8_e5m2}


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5)) * 0.05


def packed(format: str, rows: int, width: int, scales: int = 0) -> PackedTensor:
    """Random weights, drawn from a few blocks: some types take long to write. scales: those beside fp8."""
    if format in FLOAT8:
        data = randn(rows, width).to(FLOAT8[format]).view(torch.uint8).flatten()
        return PackedTensor(data, format, (rows, width), torch.linspace(1, 2, scales) if scales else None)
    block = BLOCK_TYPES[format]
    pool = encode(randn(64, block.elements), format).view(64, -1)
    numbers = torch.randint(64, (rows * width // block.elements,), generator=torch.Generator().manual_seed(6))
    return PackedTensor(pool[numbers].flatten(), format, (rows, width))


def random_bytes(format: str) -> PackedTensor:
    """Every code, scale and sign, and scales that are no numbers; a last tile that is not full."""
    generator = torch.Generator().manual_seed(sum(format.encode()))
    block = BLOCK_TYPES.get(format)
    elements, nbytes = (block.elements, block.nbytes) if block else (8, 8)
    blocks = 37 * 256 // elements
    data = torch.randint(0, 256, (blocks * nbytes,), dtype=torch.uint8, generator=generator)
    return PackedTensor(data, format, (blocks, elements))


def assert_decoded(place: Place, weights: PackedTensor, dtype: torch.dtype) -> None:
    from darkroom.layers.kernels import dequantize

    assert dequantize.supports(weights)
    expected = weights.decode(torch.float32).to(dtype)
    out = torch.empty(weights.shape, dtype=dtype, device=place.device)
    dequantize.dequantize(weights.to(torch.device(place.device)), out)
    if place.device == "cpu":  # one operation after the other, as in the decoder
        torch.testing.assert_close(out, expected, rtol=0, atol=0, equal_nan=True)
        return
    # A compiler makes d q - m one operation, so that a difference of equals has the error of what it is of.
    largest = expected[expected.isfinite()].abs().max().float().item()
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(out.cpu(), expected, rtol=step, atol=largest * 2**-20, equal_nan=True)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("format", [*GGUF, *FLOAT8])
def test_random_bytes(place: Place, format: str, dtype: torch.dtype) -> None:
    assert_decoded(place, random_bytes(format), dtype)


@pytest.mark.parametrize("shape", [real_size((9216, 3072)), real_size((77, 15360)), real_size((1, 256))])
@pytest.mark.parametrize("format", [*GGUF, *FLOAT8])
def test_weights_of_real_size(place: Place, format: str, shape: tuple[int, int]) -> None:
    assert_decoded(place, packed(format, *shape), torch.bfloat16)


@pytest.mark.parametrize("scales", [0, 1, 7])
@pytest.mark.parametrize("format", FLOAT8)
def test_scales_beside_fp8(place: Place, format: str, scales: int) -> None:
    assert_decoded(place, packed(format, 7, 24, scales), torch.float32)


def test_what_the_kernel_does_not_take(place: Place) -> None:
    from darkroom.layers.kernels import dequantize

    def float8(scale: Tensor | None) -> PackedTensor:
        return PackedTensor(torch.zeros(24, dtype=torch.uint8), "f8_e4m3", (2, 12), scale)

    assert dequantize.supports(float8(None))
    assert not dequantize.supports(float8(torch.ones(2)))  # eight neighbours with two scales
    assert not dequantize.supports(PackedTensor(torch.zeros(50, dtype=torch.uint8), "iq1_s", (1, 256)))


def assert_product(place: Place, weights: PackedTensor, tokens: tuple[int, ...], *, bias: bool) -> None:
    from darkroom.layers.kernels import packed_product

    x = place.randn(*tokens, weights.shape[1])
    added = place.randn(weights.shape[0]) if bias else None
    assert packed_product.supports(x, weights)
    out = packed_product.product(x, weights.to(torch.device(place.device)), added)
    assert out.shape == (*tokens, weights.shape[0])
    assert out.dtype == x.dtype
    reference = x.float() @ weights.decode(torch.float32).to(x.device).T
    place.assert_close(out, reference if added is None else reference + added.float())


@pytest.mark.parametrize("tokens", [(), (1,), (2, 1), (1, 3)])
@pytest.mark.parametrize("format", ["q4_0", "q4_k", "f8_e4m3"])
def test_product_of_few_tokens(place: Place, format: str, tokens: tuple[int, ...]) -> None:
    assert_product(place, packed(format, 5, 256), tokens, bias=True)


@pytest.mark.parametrize("format", [*GGUF, *FLOAT8])
def test_product_in_every_format(place: Place, format: str) -> None:
    """Wider than what a program reads at a time, and not a multiple of it."""
    assert_product(place, packed(format, 3, 1280), (1,), bias=False)


@pytest.mark.parametrize("scales", [1, 5])
def test_product_with_scales_beside_fp8(place: Place, scales: int) -> None:
    assert_product(place, packed("f8_e4m3", 5, 40, scales), (2,), bias=True)


@pytest.mark.parametrize("shape", [real_size((18432, 3072)), real_size((9216, 3072))])
@pytest.mark.parametrize("format", ["q8_0", "q4_k", "q6_k"])
def test_product_of_real_size(place: Place, format: str, shape: tuple[int, int]) -> None:
    assert_product(place, packed(format, *shape), (2,), bias=True)


def test_product_leaves_many_tokens_to_libraries(place: Place) -> None:
    from darkroom.layers.kernels import packed_product

    weights = packed("q8_0", 3, 64)
    assert packed_product.supports(place.randn(4, 64), weights)
    assert not packed_product.supports(place.randn(5, 64), weights)
    assert not packed_product.supports(place.randn(1, 48), packed("q8_0", 2, 48))  # rows share a block
