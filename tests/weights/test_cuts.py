"""Rows and columns of plain and quantized tensors, as they would be of the whole ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from darkroom.quant.packed import PackedTensor
from darkroom.weights.cuts import Cut, PartsSource, Place
from darkroom.weights.source import MemorySource

WHOLE = torch.randn(12, 128, generator=torch.Generator().manual_seed(0))
ROWS, COLUMNS = ((0, 2), (6, 8)), ((0, 32), (64, 96))

FORMS: dict[str, Tensor | PackedTensor] = {
    "f32": WHOLE,
    "bf16": WHOLE.bfloat16(),
    "f8_e4m3": WHOLE.to(torch.float8_e4m3fn),
    "q8_0": PackedTensor.encode(WHOLE, "q8_0"),
    "scaled f8_e4m3": PackedTensor(
        WHOLE.to(torch.float8_e4m3fn).view(-1).view(torch.uint8),
        "f8_e4m3",
        (12, 128),
        torch.linspace(1, 2, 12),
    ),
}


def decoded(tensor: Tensor | PackedTensor) -> Tensor:
    return tensor.decode(torch.float32) if isinstance(tensor, PackedTensor) else tensor.float()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cut", [Cut(0, ROWS), Cut(1, COLUMNS), Cut(0, ROWS[1:]), Cut(1, COLUMNS[1:])])
def test_a_part_is_cut_from_the_whole(form: str, cut: Cut) -> None:
    source = PartsSource(MemorySource({"w": FORMS[form]}), {"a.w": Place("w", cut), "b.w": Place("w", None)})
    part = source.under("a.").read("w")
    pieces = [decoded(FORMS[form]).narrow(cut.axis, start, stop - start) for start, stop in cut.ranges]
    assert torch.equal(decoded(part), torch.cat(pieces, cut.axis))
    assert isinstance(part, PackedTensor) == isinstance(FORMS[form], PackedTensor)
    assert source.index["a.w"].shape == tuple(part.shape)
    assert source.index["a.w"].dtype == source.index["b.w"].dtype
    assert source.read("b.w") is FORMS[form]


def test_a_part_that_divides_blocks_is_unpacked() -> None:
    cut = Cut(1, ((16, 48),))
    source = PartsSource(MemorySource({"w": FORMS["q8_0"]}), {"w": Place("w", cut)})
    part = source.read("w")
    assert isinstance(part, Tensor)
    assert source.index["w"].dtype == "f32"
    assert torch.equal(part, decoded(FORMS["q8_0"])[:, 16:48])
