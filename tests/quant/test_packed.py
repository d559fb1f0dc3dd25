from __future__ import annotations

import pytest
import torch

from darkroom.quant.gguf import BLOCK_TYPES
from darkroom.quant.packed import PackedTensor


def weight(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def test_q8_0_comes_back_within_half_a_step() -> None:
    original = weight(12, 64)
    decoded = PackedTensor.encode(original, "q8_0").decode(torch.float32)
    steps = original.view(-1, 32).abs().amax(1, keepdim=True) / 127
    assert decoded.shape == original.shape
    # half a step of rounding, and the step itself is a float16
    assert ((decoded - original).view(-1, 32).abs() <= steps * 0.56).all()


def test_shape_survives_where_blocks_cross_rows() -> None:
    original = weight(8, 4, 3, 3)
    decoded = PackedTensor.encode(original, "q8_0").decode(torch.float32)
    assert decoded.shape == (8, 4, 3, 3)
    assert torch.allclose(decoded, original, atol=0.03)


def test_rows_of_whole_blocks_stay_packed_and_share_the_data() -> None:
    packed = PackedTensor.encode(weight(12, 64), "q4_0")
    rows = packed.row_slice(4, 8)
    assert isinstance(rows, PackedTensor)
    assert rows.data.data_ptr() == packed.data.data_ptr() + 4 * 2 * 18
    assert torch.equal(rows.decode(torch.float32), packed.decode(torch.float32)[4:8])


def test_rows_that_split_a_block_are_decoded() -> None:
    packed = PackedTensor.encode(weight(4, 24), "q8_0")
    rows = packed.row_slice(1, 3)
    assert isinstance(rows, torch.Tensor)
    assert torch.equal(rows, packed.decode(torch.float32)[1:3])


def test_rows_of_scaled_fp8_take_their_scales() -> None:
    scale = torch.linspace(1, 2, 6)
    packed = PackedTensor(torch.arange(60, dtype=torch.uint8), "f8_e4m3", (6, 10), scale)
    rows = packed.row_slice(2, 5)
    assert isinstance(rows, PackedTensor)
    assert torch.equal(rows.decode(torch.float32), packed.decode(torch.float32)[2:5])


def test_rows_by_number() -> None:
    packed = PackedTensor.encode(weight(12, 64), "q4_0")
    numbers = torch.tensor([7, 0, 7])
    assert torch.equal(packed.rows(numbers).decode(torch.float32), packed.decode(torch.float32)[numbers])


@pytest.mark.parametrize("scale", [None, torch.tensor([3.0]), torch.linspace(1, 2, 6)])
def test_rows_of_fp8_by_number(scale: torch.Tensor | None) -> None:
    packed = PackedTensor(torch.arange(60, dtype=torch.uint8), "f8_e4m3", (6, 10), scale)
    numbers = torch.tensor([5, 1, 1])
    assert torch.equal(packed.rows(numbers).decode(torch.float32), packed.decode(torch.float32)[numbers])


def test_joined_fp8_has_a_scale_for_each_row() -> None:
    whole = PackedTensor(torch.arange(60, dtype=torch.uint8), "f8_e4m3", (6, 10), torch.tensor(0.5))
    rows = PackedTensor(torch.arange(20, dtype=torch.uint8), "f8_e4m3", (2, 10), torch.tensor([2.0, 3.0]))
    joined = PackedTensor.join([whole, rows, PackedTensor(rows.data, "f8_e4m3", (2, 10))])
    assert joined is not None
    expected = [part.decode(torch.float32) for part in (whole, rows)]
    assert torch.equal(joined.decode(torch.float32)[:8], torch.cat(expected))
    assert torch.equal(joined.decode(torch.float32)[8], expected[1][0] / 2)


def test_parts_of_different_formats_are_not_joined() -> None:
    parts = [PackedTensor.encode(weight(4, 64), format) for format in ("q4_0", "q8_0")]
    assert PackedTensor.join(parts) is None


@pytest.mark.parametrize("format", sorted(BLOCK_TYPES))
def test_scales_that_are_no_numbers_are_damage(format: str) -> None:
    block = BLOCK_TYPES[format]
    sound = torch.zeros(5, block.nbytes, dtype=torch.uint8)
    shape = (5, block.elements)
    assert not PackedTensor(sound.flatten(), format, shape).is_damaged()
    for at in block.scales:
        for value in (float("nan"), float("inf"), -float("inf")):
            damaged = sound.clone()
            damaged[3, at : at + 2] = torch.tensor([value], dtype=torch.float16).view(torch.uint8)
            packed = PackedTensor(damaged.flatten(), format, shape)
            assert packed.is_damaged()
            assert not packed.decode(torch.float32)[3].isfinite().all()


@pytest.mark.parametrize(("scale", "is_damaged"), [(None, False), (1.0, False), (float("inf"), True)])
def test_a_scale_beside_fp8_that_is_no_number_is_damage(scale: float | None, is_damaged: bool) -> None:
    packed = PackedTensor(
        torch.zeros(6, dtype=torch.uint8), "f8_e4m3", (2, 3), None if scale is None else torch.tensor([scale])
    )
    assert bool(packed.is_damaged()) is is_damaged
