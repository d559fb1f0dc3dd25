from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from darkroom.layers import packed_linear
from darkroom.layers.linear import Linear, matrix_of
from darkroom.layers.packed_linear import PackedEmbedding, PackedLinear, PackedModule, packed_form
from darkroom.quant.packed import PackedTensor

FORMATS = ["q8_0", "q4_0", "f8_e4m3"]


def pack(weight: Tensor, format: str) -> PackedTensor:
    if format.startswith("f8"):
        data = weight.to(torch.float8_e4m3fn).view(-1).view(torch.uint8)
        return PackedTensor(data, format, tuple(weight.shape), torch.linspace(1, 2, len(weight)))
    return PackedTensor.encode(weight, format)


def stand_in(module: nn.Module, packed: PackedTensor, dtype: torch.dtype = torch.float32) -> PackedModule:
    form = packed_form(module, packed)
    assert form is not None
    form.hold(packed, dtype)
    return form


@pytest.fixture
def weight() -> Tensor:
    return torch.randn(12, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_linear_equals_the_unpacked_one(format: str, bias: bool, weight: Tensor) -> None:
    linear, packed = Linear(64, 12, bias=bias), pack(weight, format)
    linear.weight.copy_(packed.decode(torch.float32))
    x, residual = torch.randn(2, 3, 64), torch.randn(2, 3, 12)
    form = stand_in(linear, packed)
    assert isinstance(form, PackedLinear)
    assert torch.equal(form(x), linear(x))
    assert torch.equal(form(x, residual), linear(x, residual))


@torch.no_grad()
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("residual", [None, torch.ones(2, 3, 12)])
def test_a_processor_unpacks_a_few_rows_at_a_time(
    format: str, residual: Tensor | None, weight: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    linear, packed = Linear(64, 12), pack(weight, format)
    linear.weight.copy_(packed.decode(torch.float32))
    form, shapes = stand_in(linear, packed), []
    decode = PackedTensor.decode
    monkeypatch.setattr(packed_linear, "CHUNK", 5 * 64)
    monkeypatch.setattr(
        PackedTensor, "decode", lambda self, dtype: (shapes.append(self.shape), decode(self, dtype))[1]
    )
    x = torch.randn(2, 3, 64)
    torch.testing.assert_close(form(x, residual), linear(x, residual))
    assert shapes == [(5, 64), (5, 64), (2, 64)]


@torch.no_grad()
def test_who_multiplies_by_itself_gets_the_matrix(weight: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    linear, packed = Linear(64, 12), pack(weight, "q8_0")
    x = torch.randn(3, 64)
    assert matrix_of(linear, x) is linear.weight
    assert matrix_of(nn.LayerNorm(64), x) is None
    form = stand_in(linear, packed)
    assert torch.equal(matrix_of(form, x), packed.decode(torch.float32))
    monkeypatch.setattr(packed_linear, "CHUNK", 64)
    assert matrix_of(form, x) is None  # a few rows at a time


@torch.no_grad()
def test_linear_computes_in_the_type_of_its_input(weight: Tensor) -> None:
    form = stand_in(Linear(64, 12, bias=False), pack(weight, "q8_0"))
    assert form(torch.randn(2, 64, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("format", FORMATS)
@torch.no_grad()
def test_embedding_equals_the_unpacked_one(format: str, weight: Tensor) -> None:
    table, packed = nn.Embedding(12, 64), pack(weight, format)
    table.weight.copy_(packed.decode(torch.float32))
    ids = torch.tensor([[3, 11, 3], [0, 7, 1]])
    form = stand_in(table, packed)
    assert isinstance(form, PackedEmbedding)
    assert torch.equal(form(ids), table(ids))
    assert form.num_embeddings == 12
    assert stand_in(table, packed, torch.bfloat16)(ids).dtype == torch.bfloat16


def test_embedding_unpacks_the_rows_it_looks_up(weight: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    form = stand_in(nn.Embedding(12, 64), pack(weight, "q8_0"))
    shapes = []
    decode = PackedTensor.decode
    monkeypatch.setattr(
        PackedTensor, "decode", lambda self, dtype: (shapes.append(self.shape), decode(self, dtype))[1]
    )
    form(torch.tensor([5, 6]))
    assert shapes == [(2, 64)]


def test_modules_that_compute_something_else_have_no_packed_form(weight: Tensor) -> None:
    packed = pack(weight, "q8_0")
    assert packed_form(nn.LayerNorm(64), packed) is None
    assert packed_form(nn.Bilinear(1, 64, 12), packed) is None


def test_tables_whose_rows_share_a_block_have_no_packed_form() -> None:
    assert packed_form(nn.Embedding(4, 24), pack(torch.randn(4, 24), "q8_0")) is None


def test_its_own_packed_form_is_the_module_itself(weight: Tensor) -> None:
    form = stand_in(Linear(64, 12), pack(weight, "q8_0"))
    assert packed_form(form, form.packed) is form


def test_the_bytes_and_the_scale_are_found_by_who_moves_weights(weight: Tensor) -> None:
    form = stand_in(Linear(64, 12, bias=False), pack(weight, "f8_e4m3"))
    assert {name: t.dtype for name, t in form.named_buffers()} == {
        "weight": torch.uint8,
        "weight_scale": torch.float32,
    }
    assert list(form.state_dict()) == ["weight"]


@torch.no_grad()
def test_no_unpacked_weight_outlives_its_call(weight: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not while the next one is unpacked, either: a network needs room for one at a time."""
    packed = pack(torch.randn(64, 64), "q8_0")
    net = nn.Sequential(*[stand_in(Linear(64, 64), packed) for _ in range(4)])
    unpacked: list[weakref.ref[Tensor]] = []
    decode = PackedTensor.decode

    def watched(self: PackedTensor, dtype: torch.dtype) -> Tensor:
        assert all(ref() is None for ref in unpacked)
        out = decode(self, dtype)
        unpacked.append(weakref.ref(out))
        return out

    monkeypatch.setattr(PackedTensor, "decode", watched)
    net(torch.randn(2, 64))
    gc.collect()
    assert len(unpacked) == 4
    assert all(ref() is None for ref in unpacked)
