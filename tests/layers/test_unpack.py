"""Weights unpacked before their turn: the same numbers in whatever order layers are called."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from darkroom.layers.linear import Linear
from darkroom.layers.packed_linear import PackedLinear, packed_form, unpack_ahead, unpack_in_time
from darkroom.layers.unpack import is_fast, unpack
from darkroom.quant.packed import PackedTensor
from darkroom.runtime.graphs import GraphedModule, accelerate

LAYERS = 6


class Net(nn.Module):
    """Layers of different widths and formats, one of them shared by two places; x: (l, 256)  ->  (l, 256)."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for number in range(LAYERS):
            rows = 512 if number % 2 else 256
            packed = PackedTensor.encode(torch.randn(rows, 256) * 0.06, ("q8_0", "q4_0")[number % 3 == 0])
            form = packed_form(Linear(256, rows, bias=False), packed)
            assert isinstance(form, PackedLinear)
            form.hold(packed.to(device), torch.bfloat16)
            self.layers.append(form)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.layers, self.layers[1]):
            x = x + layer(x)[..., :256]
        return x


@pytest.fixture
def cuda() -> Iterator[torch.device]:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    torch.manual_seed(0)
    with torch.inference_mode():
        yield torch.device("cuda", torch.cuda.current_device())


def test_without_a_kernel_the_decoder_unpacks() -> None:
    packed = PackedTensor.encode(torch.randn(4, 64), "q8_0")
    assert not is_fast(packed)
    assert torch.equal(unpack(packed, torch.float16), packed.decode(torch.float16))


def test_nothing_is_unpacked_ahead_on_the_processor() -> None:
    net = Net(torch.device("cpu"))
    assert unpack_ahead(net) == []
    unpack_in_time(net)


@pytest.mark.gpu
def test_calls_in_order(cuda: torch.device) -> None:
    net = Net(cuda)
    x = torch.randn(100, 256, device=cuda, dtype=torch.bfloat16)
    expected = net(x)
    ahead = next(iter(unpack_ahead(net)), None)
    assert ahead is not None
    for _ in range(3):
        assert torch.equal(net(x), expected)
        ahead.end()
    unpack_in_time(net)
    assert torch.equal(net(x), expected)


@pytest.mark.gpu
def test_calls_in_any_order(cuda: torch.device) -> None:
    net = Net(cuda)
    matrices = [layer.packed.decode(torch.float16) for layer in net.layers]  # type: ignore[operator, union-attr]
    ahead = next(iter(unpack_ahead(net)), None)
    assert ahead is not None
    rng = random.Random(0)
    for _ in range(50):
        for number in rng.choices(range(LAYERS), k=rng.randrange(2 * LAYERS)):
            layer = net.layers[number]
            assert isinstance(layer, PackedLinear)
            assert torch.equal(ahead.matrix(layer, torch.float16), matrices[number])
        if rng.random() < 0.5:
            ahead.end()


@pytest.mark.gpu
def test_a_weight_that_was_replaced_is_unpacked_anew(cuda: torch.device) -> None:
    net = Net(cuda)
    x = torch.randn(100, 256, device=cuda, dtype=torch.bfloat16)
    ahead = next(iter(unpack_ahead(net)), None)
    assert ahead is not None
    net(x)
    first, second = net.layers[0], net.layers[1]
    assert isinstance(first, PackedLinear)
    assert isinstance(second, PackedLinear)
    first(x)  # the second's is on its way
    other = PackedTensor.encode(torch.randn(512, 256), "q8_0").to(cuda)
    second.hold(other, torch.bfloat16)
    assert torch.equal(ahead.matrix(second, torch.bfloat16), other.decode(torch.bfloat16))


@pytest.mark.gpu
def test_as_a_graph(cuda: torch.device) -> None:
    """The second call is recorded, what is left unpacked at its end included."""
    net = Net(cuda)
    x = torch.randn(100, 256, device=cuda, dtype=torch.bfloat16)
    expected = net(x)
    fast = accelerate(net)
    assert isinstance(fast, GraphedModule)
    for _ in range(4):
        torch.testing.assert_close(fast(x), expected)
    assert fast._recordings
    fast.forget()
    torch.testing.assert_close(fast(x), expected)
