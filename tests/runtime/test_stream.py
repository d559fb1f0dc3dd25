"""Networks whose blocks come one by one: the same output, and nothing left behind."""

from __future__ import annotations

import gc
import mmap
import sys
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import psutil
import pytest
import torch
from safetensors.torch import save_file
from tests.runtime.streaming import NETWORKS, Ladder, X, call_t5, ladder, t5, weights_of
from torch import Tensor, nn

from darkroom.api.errors import CheckpointError, OutOfMemoryError
from darkroom.quant.packed import PackedTensor
from darkroom.runtime.component import Component
from darkroom.runtime.courier import Courier, Wait
from darkroom.runtime.slots import slots
from darkroom.weights.checkpoint import open_checkpoint
from darkroom.weights.source import open_source

RESIDENCIES = [
    ("cpu", "disk"),
    ("vulkan0", "cpu"),
    ("vulkan0", "disk"),
    ("vulkan0", ""),
    ("vulkan0", "vulkan1"),
]


@pytest.fixture
def expected(stream: Callable[..., Component]) -> Callable[[str], Tensor]:
    """What a network gives with all its weights there."""

    def call(name: str) -> Tensor:
        build, run = NETWORKS[name]
        component = stream(build, "cpu", "", staying=99)
        with torch.inference_mode(), component.resident() as net:
            return run(net, "cpu")

    return call


@pytest.mark.parametrize(("backend", "params_backend"), RESIDENCIES)
@pytest.mark.parametrize("name", NETWORKS)
def test_output_is_the_same_to_the_last_bit(stream, expected, name, backend, params_backend) -> None:
    build, run = NETWORKS[name]
    component = stream(build, backend, params_backend)
    with torch.inference_mode():
        for _ in range(2):
            with component.resident() as net:
                for _ in range(3):
                    assert torch.equal(run(net, "cpu"), expected(name))
    assert component.traffic.streamed_blocks


@pytest.mark.parametrize("name", NETWORKS)
def test_no_block_at_all_stays(stream, expected, name) -> None:
    build, run = NETWORKS[name]
    with torch.inference_mode(), stream(build, "vulkan0", "cpu", staying=0).resident() as net:
        assert torch.equal(run(net, "cpu"), expected(name))


class LateCourier(Courier):
    """Brings nothing before somebody waits for it, and what was asked for first, first."""

    def __init__(self) -> None:
        self.asked: list[Callable[[], None]] = []
        self.most = 0

    def bring(self, work: Callable[[], None]) -> Wait:
        self.asked.append(work)
        self.most = max(self.most, len(self.asked))

        def wait() -> None:
            while work in self.asked:
                self.asked.pop(0)()

        return wait

    def close(self) -> None:
        self.asked.clear()


@pytest.mark.parametrize("params_backend", ["cpu", "disk", ""])
@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_are_waited_for_and_room_is_used_again_only_when_it_is_free(
    stream, expected, monkeypatch, name, params_backend
) -> None:
    build, run = NETWORKS[name]
    component = stream(build, "vulkan0", params_backend, staying=1)
    courier = LateCourier()
    monkeypatch.setattr(component.runtime, "courier", lambda reads_files: courier)
    with torch.inference_mode(), component.resident() as net:
        for _ in range(2):
            assert torch.equal(run(net, "cpu"), expected(name))
    assert courier.most == 2


class ThreadCourier(Courier):
    """Brings everything in a thread."""

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1)

    def bring(self, work: Callable[[], None]) -> Wait:
        def carry() -> None:
            with torch.no_grad():
                work()

        return cast("Wait", self.thread.submit(carry).result)

    def close(self) -> None:
        self.thread.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_may_be_read_in_the_background(stream, expected, monkeypatch, name) -> None:
    build, run = NETWORKS[name]
    component = stream(build, "vulkan0", "disk", staying=1)
    monkeypatch.setattr(component.runtime, "courier", lambda reads_files: ThreadCourier())
    with torch.inference_mode(), component.resident() as net:
        for _ in range(3):
            assert torch.equal(run(net, "cpu"), expected(name))


@pytest.mark.parametrize("background", [False, True])
def test_file_that_cannot_be_read_is_an_error_of_the_call(stream, monkeypatch, background) -> None:
    component = stream(Ladder, "vulkan0", "disk", staying=0)
    if background:
        monkeypatch.setattr(component.runtime, "courier", lambda reads_files: ThreadCourier())

    def fail() -> None:
        raise CheckpointError("model.gguf: is gone")

    with torch.inference_mode(), component.resident() as net:
        with monkeypatch.context() as gone:
            gone.setattr(component._stream._blocks[3], "_read", fail)
            with pytest.raises(CheckpointError, match="is gone"):
                net(X, *range(6))
        assert torch.equal(net(X, *range(6)), ladder(*range(6)))
    with torch.inference_mode(), component.resident() as net:
        assert torch.equal(net(X, *range(6)), ladder(*range(6)))


@pytest.mark.parametrize("params_backend", ["cpu", "disk"])
def test_blocks_may_be_called_in_any_order_and_often(stream, params_backend) -> None:
    component = stream(Ladder, "vulkan0", params_backend, staying=1)
    with torch.inference_mode(), component.resident() as net:
        for order in [(0, 1, 2, 3, 4, 5), (5, 5, 4, 0), (2,), (), (3, 1, 3, 1), (0, 1, 2, 3, 4, 5)]:
            assert torch.equal(net(X, *order), ladder(*order))


def test_each_block_is_brought_once_a_call_when_the_order_is_known(stream) -> None:
    component = stream(Ladder, "vulkan0", "cpu", staying=0)
    counts = []
    with torch.inference_mode(), component.resident() as net:
        for _ in range(4):
            before = component.traffic.streamed_blocks
            net(X, *range(6))
            counts.append(component.traffic.streamed_blocks - before)
    # The first two are there before the first call; from the second on, the call before brings two.
    assert counts == [4, 6 + 2, 6, 6]
    nbytes = component.weigh()[1][0].nbytes
    assert component.traffic.streamed_bytes >= component.traffic.streamed_blocks * nbytes


def test_a_network_that_runs_once_brings_each_block_once(stream) -> None:
    component = stream(Ladder, "vulkan0", "cpu", staying=0)
    with torch.inference_mode(), component.resident() as net:
        net(X, *range(6))
    assert component.traffic.streamed_blocks == 6


def test_packed_weights_travel_packed(stream) -> None:
    weights: dict[str, Tensor | PackedTensor] = {}
    for name, tensor in weights_of(t5).items():
        is_matrix = tensor.ndim == 2 and "relative" not in name
        weights[name] = PackedTensor.encode(tensor, "q8_0") if is_matrix else tensor
    unpacked = {n: w.decode(torch.float32) if isinstance(w, PackedTensor) else w for n, w in weights.items()}
    net = t5()
    net.load_state_dict(unpacked)
    for params_backend in ("cpu", "disk", ""):
        component = stream(t5, "vulkan0", params_backend, staying=0, weights=weights)
        total, blocks = component.weigh()
        with torch.inference_mode():
            for _ in range(2):
                with component.resident() as streamed:
                    torch.testing.assert_close(call_t5(streamed), call_t5(net))
        assert total == sum(
            w.nbytes if isinstance(w, PackedTensor) else w.numel() * w.itemsize for w in weights.values()
        )
        traffic = component.traffic
        assert traffic.streamed_bytes < 2 * traffic.streamed_blocks * max(block.nbytes for block in blocks)


def device_of(net: nn.Module) -> set[str]:
    return {slot.tensor.device.type for slot in slots(net)}


@pytest.mark.parametrize(("params_backend", "home"), [("cpu", {"cpu"}), ("disk", {"meta"})])
def test_nothing_stays_after_use(stream, params_backend, home) -> None:
    component = stream(Ladder, "cpu" if params_backend == "disk" else "meta0", params_backend)
    with torch.inference_mode(), component.resident() as net:
        net(X.to("meta") if params_backend == "cpu" else X, *range(6))
    assert device_of(net) == home
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_room_on_the_device_is_given_back(stream) -> None:
    component = stream(Ladder, "vulkan0", "", staying=3)
    seen: list[weakref.ref[Tensor]] = []
    with torch.inference_mode(), component.resident() as net:
        for block in net.blocks:
            block.register_forward_pre_hook(lambda block, *_: seen.append(weakref.ref(block[0].weight)))
        net(X, *range(6))
        assert component.runtime.emptied == 0
    gc.collect()
    assert [weight() is None for weight in seen] == [False, True] * 3
    assert component.runtime.emptied == 1


def test_blocks_that_stay_are_read_once_and_the_others_wait_in_main_memory(stream) -> None:
    component = stream(Ladder, "meta0", "", staying=3)
    for _ in range(2):
        with torch.inference_mode(), component.resident() as net:
            net(X.to("meta"), *range(6))
        there = [slot.tensor.device.type for slot in slots(net)]
        assert (there.count("meta"), there.count("cpu")) == (6, 6)
    assert (component.traffic.loads, component.traffic.moves) == (1, 0)


def interrupted(component: Component, order: range) -> None:
    with component.resident() as net:
        net(X, *order)
        raise KeyboardInterrupt


@pytest.mark.parametrize("params_backend", ["cpu", "disk", ""])
def test_work_that_is_cancelled_leaves_everything_clean(stream, params_backend) -> None:
    component = stream(Ladder, "vulkan0", params_backend, staying=1)
    with torch.inference_mode():
        for order in (range(3), range(6)):
            with pytest.raises(KeyboardInterrupt):
                interrupted(component, order)
            net = component._network()
            assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
        with component.resident() as net:
            assert torch.equal(net(X, *range(6)), ladder(*range(6)))


@pytest.mark.parametrize("params_backend", ["cpu", "disk"])
def test_block_that_fails_can_be_called_again(stream, params_backend) -> None:
    component = stream(Ladder, "vulkan0", params_backend, staying=0)
    with torch.inference_mode(), component.resident() as net:
        for number in range(6):
            with pytest.raises(RuntimeError, match=r"size|shape"):
                net(X[:, :3], number)
        assert torch.equal(net(X, *range(6)), ladder(*range(6)))


def test_device_too_small_for_the_buffers_is_named(stream, monkeypatch) -> None:
    component = stream(Ladder, "vulkan0", "cpu")

    def fail(reads_files: bool) -> Courier:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(component.runtime, "courier", fail)
    with pytest.raises(OutOfMemoryError, match=r"^vulkan0: out of memory"), component.resident():
        pass
    monkeypatch.undo()
    with torch.inference_mode(), component.resident() as net:
        assert torch.equal(net(X, *range(6)), ladder(*range(6)))


def test_inner_use_leaves_the_blocks_to_the_outer_one(stream) -> None:
    component = stream(Ladder, "vulkan0", "cpu", staying=0)
    with torch.inference_mode(), component.resident() as net:
        with component.resident() as inner:
            assert inner is net
        assert torch.equal(net(X, *range(6)), ladder(*range(6)))


def test_progress_counts_what_is_read_before_the_network_runs(stream) -> None:
    for params_backend in ("cpu", "disk", ""):
        counted: list[int] = []
        component = stream(Ladder, "vulkan0", params_backend, staying=2)
        total = component.file_bytes
        with component.resident(counted.append):
            assert sum(counted) == total == (2 if params_backend == "disk" else 6) * 20 * 4


def test_reading_that_is_cancelled_gives_the_blocks_back(stream, monkeypatch) -> None:
    component = stream(Ladder, "vulkan0", "cpu", staying=0)
    locked: list[int] = []

    def page_lock(memory: Tensor) -> Callable[[], None]:
        locked.append(memory.data_ptr())
        return lambda: locked.remove(memory.data_ptr())

    monkeypatch.setattr(component.runtime, "page_lock", page_lock)
    read: list[int] = []

    def on_bytes(nbytes: int) -> None:
        read.append(nbytes)
        if len(read) == 7:
            assert len(locked) == 3
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        component.load(on_bytes)
    assert not locked
    assert device_of(component._network()) == {"meta"}
    component.load()
    assert len(locked) == 6
    component.close()
    assert not locked


def test_memory_that_is_locked_is_whole_pages(stream, monkeypatch) -> None:
    component = stream(Ladder, "vulkan0", "cpu", staying=0)
    starts: list[int] = []
    monkeypatch.setattr(
        component.runtime, "page_lock", lambda m: starts.append(m.data_ptr()) or (lambda: None)
    )
    component.load()
    assert len(set(starts)) == 6
    assert not any(start % mmap.PAGESIZE for start in starts)


@pytest.mark.skipif(sys.platform != "linux", reason="the pages of a file that are in memory are told there")
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_main_memory_holds_two_blocks_of_a_file(stream, tmp_path, dtype) -> None:
    """Blocks of 8 MB, 320 in all, as they lie in the file or converted.

    What is held is counted, not what the process takes: an allocator keeps some of what is freed, how much
    depends on what ran before.
    """

    def tower() -> nn.Module:
        net = Ladder()
        net.blocks = nn.ModuleList(nn.Sequential(nn.Linear(1448, 1448, bias=False)) for _ in range(40))
        return net

    path = tmp_path / "x"
    save_file({f"blocks.{i}.0.weight": torch.ones(1448, 1448, dtype=dtype) for i in range(40)}, path)
    seen: list[weakref.ref[Tensor]] = []
    here, left, pages = [], [], []

    def watch(block: nn.Module, *_: object) -> None:
        here.append(sum(not block[0].weight.is_meta for block in net.blocks))
        left.append(sum(weight() is not None for weight in seen))
        seen.append(weakref.ref(block[0].weight))
        pages.append(sum(part.rss for part in psutil.Process().memory_maps() if part.path == str(path)))

    with open_checkpoint(path) as checkpoint, torch.inference_mode():
        component = stream(tower, "cpu", "disk", staying=0, source=open_source(checkpoint))
        with component.resident() as net:
            for block in net.blocks:
                block.register_forward_hook(watch, prepend=True)  # before its weights leave
            net(torch.zeros(1, 1448), *range(40))
    assert len(here) == 40
    assert max(here) == 2  # the one that runs and the next
    assert max(left) <= 1  # the one before them
    assert max(pages) < 2 * 9e6


def test_closed_component_has_no_weights(stream) -> None:
    component = stream(Ladder, "vulkan0", "")
    component.load()
    component.close()
    assert device_of(component._network()) == {"meta"}
