"""CUDA graphs: replays equal the plain calls, for each shape, and give outputs of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from darkroom.layers.linear import Linear
from darkroom.runtime import graphs
from darkroom.runtime.graphs import GraphedModule, accelerate


class Net(nn.Module):
    scale = 3.0

    def __init__(self) -> None:
        super().__init__()
        self.proj = Linear(8, 8)
        self.calls = 0

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        self.calls += 1
        out: Tensor = self.proj(x) * self.scale + shift
        return out

    def decode(self, x: Tensor) -> Tensor:
        return x + 1


@pytest.fixture
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture
def cuda(inference: None) -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device("cuda")


@pytest.mark.usefixtures("inference")
def test_other_devices_go_to_the_network() -> None:
    net = Net()
    fast = accelerate(net)
    x = torch.randn(2, 8)
    for _ in range(3):
        torch.testing.assert_close(fast(x, x), net(x, x))
    assert net.calls == 6
    assert torch.equal(fast.decode(x), x + 1)  # type: ignore[operator]
    assert fast.scale == 3.0
    with pytest.raises(AttributeError, match="encode"):
        _ = fast.encode


@pytest.mark.gpu
def test_decoding_is_replayed_apart_from_calls(cuda: torch.device) -> None:
    fast = GraphedModule(Net().to(cuda))
    for _ in range(4):
        x = torch.randn(2, 8, device=cuda)
        assert torch.equal(fast.decode(x), x + 1)  # type: ignore[arg-type]
    assert [method for method, *_ in fast._recordings] == ["decode"]


@pytest.mark.gpu
def test_a_large_recording_is_not_kept(cuda: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MEMORY_SHARE", 0.0)
    fast = GraphedModule(Net().to(cuda))
    for _ in range(4):
        x = torch.randn(2**16, 8, device=cuda)
        assert torch.equal(fast.decode(x), x + 1)  # type: ignore[arg-type]
    assert not fast._recordings


@pytest.mark.gpu
def test_replays_equal_calls(cuda: torch.device) -> None:
    net = Net().to(cuda)
    fast = GraphedModule(net)
    for _ in range(4):
        for rows in (2, 5):
            x, shift = torch.randn(rows, 8, device=cuda), torch.randn(8, device=cuda)
            assert torch.equal(fast(x, shift), net(x, shift))
    assert net.calls == 2 * (3 + 4)  # per shape: as it is, watched, recorded, and four references


@pytest.mark.gpu
def test_outputs_are_the_callers_own(cuda: torch.device) -> None:
    fast = GraphedModule(Net().to(cuda))
    shift = torch.zeros(8, device=cuda)
    inputs = [torch.randn(2, 8, device=cuda) for _ in range(4)]
    outputs = [fast(x, shift) for x in inputs]
    copies = [y.clone() for y in outputs]
    fast(torch.randn(2, 8, device=cuda), shift)
    assert all(torch.equal(y, copy) for y, copy in zip(outputs, copies, strict=True))


@pytest.mark.gpu
def test_forgets_the_shape_unused_for_longest(cuda: torch.device) -> None:
    net = Net().to(cuda)
    fast = GraphedModule(net, limit=1)
    shift = torch.zeros(8, device=cuda)
    for rows in (1, 1, 2, 2, 1):
        x = torch.randn(rows, 8, device=cuda)
        torch.testing.assert_close(fast(x, shift), net(x, shift))
    assert len(fast._recordings) == 1


class Waiting(Net):
    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        return x * float(shift.sum())


@pytest.mark.gpu
def test_a_network_that_waits_is_called_as_it_is(cuda: torch.device) -> None:
    fast = GraphedModule(Waiting().to(cuda))
    stream = torch.cuda.current_stream()
    for _ in range(4):
        x, shift = torch.randn(2, 8, device=cuda), torch.randn(8, device=cuda)
        torch.testing.assert_close(fast(x, shift), x * shift.sum())
    assert not fast._recordings
    assert torch.cuda.current_stream() == stream
    assert torch.cuda.get_sync_debug_mode() == 0
