"""Quantized weights as matrices."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from darkroom.layers.linear import Linear
from darkroom.layers.packed_linear import PackedLinear, packed_form
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


@pytest.mark.gpu
def test_as_a_graph(cuda: torch.device) -> None:
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
