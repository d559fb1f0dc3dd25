from __future__ import annotations

import pytest
import torch

from darkroom.quant import fp8

EVERY_BYTE = torch.arange(256, dtype=torch.int16).to(torch.uint8)


def e4m3(byte: int) -> float:
    """Its definition: 4 exponent bits of bias 7, 3 mantissa bits, no infinities (arXiv:2209.05433)."""
    sign, exponent, mantissa = byte >> 7, byte >> 3 & 15, byte & 7
    if byte & 0x7F == 0x7F:
        return float("nan")
    value = mantissa / 8 * 2**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    return -value if sign else value


def e5m2(byte: int) -> float:
    """Its definition: the upper half of a float16."""
    return (
        torch.tensor([byte << 8 if byte < 128 else (byte << 8) - 65536], dtype=torch.int16)
        .view(torch.float16)
        .item()
    )


@pytest.mark.parametrize(("format", "definition"), [("f8_e4m3", e4m3), ("f8_e5m2", e5m2)])
def test_every_byte_means_what_the_format_says(format: str, definition: object) -> None:
    expected = torch.tensor([definition(byte) for byte in range(256)])
    ours = fp8.decode(EVERY_BYTE, format, (256,), torch.float32)
    torch.testing.assert_close(ours, expected, rtol=0, atol=0, equal_nan=True)
    numbers = expected.isfinite()
    ours = fp8.decode(EVERY_BYTE[numbers], format, (int(numbers.sum()),), torch.float32)
    assert torch.equal(ours, expected[numbers])


def test_one_scale_multiplies_everything() -> None:
    data = EVERY_BYTE[:96]
    plain = fp8.decode(data, "f8_e4m3", (8, 12), torch.float32)
    scaled = fp8.decode(data, "f8_e4m3", (8, 12), torch.float32, torch.tensor(0.3))
    assert torch.equal(scaled, plain * 0.3)


def test_a_scale_for_each_row_multiplies_its_row() -> None:
    data, scale = EVERY_BYTE[:96], torch.linspace(0.1, 2, 8)
    plain = fp8.decode(data, "f8_e4m3", (8, 3, 4), torch.float32)
    scaled = fp8.decode(data, "f8_e4m3", (8, 3, 4), torch.float32, scale[:, None])
    assert torch.equal(scaled, plain * scale[:, None, None])


def test_the_product_is_rounded_once() -> None:
    data, scale = EVERY_BYTE[:126], torch.tensor(1 / 3)
    exact = fp8.decode(data, "f8_e4m3", (126,), torch.float32, scale)
    assert torch.equal(fp8.decode(data, "f8_e4m3", (126,), torch.bfloat16, scale), exact.to(torch.bfloat16))


def test_chunks_meet_without_a_seam() -> None:
    data = torch.randint(0, 127, ((1 << 20) + 77,), dtype=torch.uint8)
    ours = fp8.decode(data, "f8_e4m3", tuple(data.shape), torch.float32, torch.tensor(2.0))
    assert torch.equal(ours, data.view(torch.float8_e4m3fn).float() * 2)
