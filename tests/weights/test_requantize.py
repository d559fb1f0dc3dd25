from __future__ import annotations

import pytest
import torch

from darkroom.api.errors import CheckpointError
from darkroom.api.names import WeightType
from darkroom.quant.packed import PackedTensor
from darkroom.weights.requantize import convert, convert_piece, pieces, requantized
from darkroom.weights.source import MemorySource
from darkroom.weights.tensor_types import TypeRules


def weight(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


SCALED = PackedTensor(
    weight(12, 64).to(torch.float8_e4m3fn).view(torch.uint8).flatten(),
    "f8_e4m3",
    (12, 64),
    torch.linspace(0.5, 2, 12),
)


@pytest.mark.parametrize(
    "tensor",
    [
        weight(12, 64),
        weight(64, 12).T,
        weight(12, 64).half(),
        PackedTensor.encode(weight(12, 64), "q8_0"),
        PackedTensor(SCALED.data, "f8_e4m3", (12, 64), torch.tensor(3.0)),
        SCALED,
    ],
)
@pytest.mark.parametrize("size", [128, 1 << 20])
def test_pieces_are_the_whole(tensor: torch.Tensor | PackedTensor, size: int) -> None:
    parts = list(pieces(tensor, size))
    assert len(parts) == (768 // size or 1)
    flat = torch.cat([convert_piece(part, "f32", "x").flatten() for part in parts])
    whole = tensor.decode(torch.float32) if isinstance(tensor, PackedTensor) else tensor.float()
    assert torch.equal(flat.view(12, 64), whole)


def test_nothing_has_no_pieces() -> None:
    assert list(pieces(torch.empty(0, 4))) == []


def test_what_has_the_type_is_itself() -> None:
    plain, packed = weight(2, 32), PackedTensor.encode(weight(2, 32), "q4_0")
    assert convert(plain, "f32", "x") is plain
    assert convert(packed, "q4_0", "x") is packed


def test_from_one_block_type_to_another() -> None:
    packed = PackedTensor.encode(weight(3, 256), "q8_0")
    made = convert(packed, "q4_k", "x")
    assert isinstance(made, PackedTensor)
    assert torch.equal(made.data, PackedTensor.encode(packed.decode(torch.float32), "q4_k").data)
    assert (made.format, made.shape) == ("q4_k", (3, 256))
    plain = convert(packed, "bf16", "x")
    assert torch.equal(plain, packed.decode(torch.bfloat16))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_blocks_hold_finite_numbers_only(value: float) -> None:
    broken = weight(2, 32)
    broken[1, 3] = value
    with pytest.raises(CheckpointError, match="x: holds values that are no finite numbers"):
        convert(broken, "q8_0", "x")
    assert not torch.isfinite(convert(broken, "f16", "x")).all()  # type: ignore[arg-type]


def test_large_values_are_no_broken_ones() -> None:
    large = torch.full((2, 32), 6e4, dtype=torch.float16)
    assert isinstance(convert(large, "q8_0", "x"), PackedTensor)


def test_a_source_that_converts_what_is_read() -> None:
    source = MemorySource(
        {"net.a.weight": weight(4, 64), "net.norm.weight": weight(64), "te.b.weight": weight(4, 64)}
    )
    rules = TypeRules.parse(WeightType.Q8_0, r"^TE\.=f16")
    view = requantized(source, rules, lambda name: name.replace("te.", "TE."))
    assert {name: info.dtype for name, info in view.index.items()} == {
        "net.a.weight": "q8_0",
        "net.norm.weight": "f32",
        "te.b.weight": "f16",
    }
    part = view.under("net.")
    read = part.read("a.weight")
    assert isinstance(read, PackedTensor)
    assert torch.equal(read.data, PackedTensor.encode(weight(4, 64), "q8_0").data)
    assert part.read("norm.weight") is source.read("net.norm.weight")


def test_without_rules_it_is_the_source_itself() -> None:
    source = MemorySource({"a.weight": weight(4, 64)})
    assert requantized(source, TypeRules(), str) is source
