"""Weights that come when a network runs and leave after it, wherever they live."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from darkroom.api.config import EngineConfig
from darkroom.api.errors import CheckpointError, OutOfMemoryError
from darkroom.api.names import Module
from darkroom.layers.linear import Linear
from darkroom.quant.packed import PackedTensor
from darkroom.runtime.backends import Backend, BackendManager, Placement
from darkroom.runtime.component import Component
from darkroom.runtime.devices import Devices
from darkroom.runtime.slots import replace, slots
from darkroom.weights.index import TensorIndex
from darkroom.weights.source import MemorySource

X = torch.linspace(-1, 1, 24).view(2, 3, 2, 2)


class Net(nn.Module):
    """A convolution and a norm: parameters of both memory formats, and buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(x))
        return out


def build() -> nn.Module:
    with torch.device("meta"):
        return Net()


class CountingSource(MemorySource):
    """Weights without a file; counts how often one is read and given back."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__(tensors)
        self.reads = 0
        self.released: set[str] = set()

    def read(self, name: str) -> Tensor | PackedTensor:
        self.reads += 1
        return super().read(name)

    def release(self, name: str) -> None:
        self.released.add(name)


@pytest.fixture
def reference() -> nn.Module:
    torch.manual_seed(0)
    net = Net().eval().requires_grad_(False)
    net.norm.running_mean.uniform_()
    return net


@pytest.fixture
def source(reference: nn.Module) -> CountingSource:
    return CountingSource(reference.state_dict())


@pytest.fixture
def place(devices: Devices, source: CountingSource, request: pytest.FixtureRequest) -> Iterator[object]:
    """Makes a component: place(backend, params_backend). On fake devices, unless the test is for a card."""
    managers = []
    if request.node.get_closest_marker("gpu"):
        devices = Devices.discover()
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")

    def make(backend: str, params_backend: str = "", dtype: torch.dtype = torch.float32) -> Component:
        config = EngineConfig(backend=backend, params_backend=params_backend, threads=1)
        manager = BackendManager(Placement.parse(config, devices), threads=1)
        managers.append(manager)
        runtime, params = manager.runtime(Module.VAE), manager.params(Module.VAE)
        return Component("vae", build, source, runtime=runtime, params=params, dtype=dtype)

    yield make
    for manager in managers:
        manager.close()


def places(net: nn.Module) -> set[str]:
    return {slot.tensor.device.type for slot in slots(net)}


RESIDENCIES = [("cpu", ""), ("cpu", "disk"), ("slow0", "cpu"), ("cpu", "slow0")]


@pytest.mark.parametrize(("backend", "params_backend"), RESIDENCIES)
def test_result_is_the_same_for_every_residency(place, reference, backend, params_backend) -> None:
    component = place(backend, params_backend)
    for _ in range(2):
        with component.resident() as net:
            assert torch.equal(net(X), reference(X))


def test_weights_at_home_are_read_once_and_stay(place, source) -> None:
    component = place("cpu")
    assert not component.is_loaded
    for _ in range(3):
        with component.resident():
            pass
    assert source.reads == len(source.index)
    assert component.is_loaded
    assert (component.traffic.loads, component.traffic.moves) == (1, 0)


def test_load_reads_before_the_first_use(place, source) -> None:
    component = place("cpu")
    component.load()
    component.load()
    assert component.is_loaded
    assert source.reads == len(source.index)
    with component.resident():
        pass
    assert source.reads == len(source.index)


def test_load_leaves_weights_on_disk(place, source) -> None:
    component = place("cpu", "disk")
    component.load()
    assert not component.is_loaded
    assert source.reads == 0


def test_offloaded_weights_are_on_the_runtime_device_while_it_runs(place) -> None:
    component = place("meta0", "cpu")
    with component.resident() as net:
        assert places(net) == {"meta"}
        assert net(X.to("meta")).device.type == "meta"
    assert places(net) == {"cpu"}


def test_offloaded_weights_are_never_copied_back(place, source) -> None:
    component = place("slow0", "cpu")
    component.load()
    with component.resident() as net:
        away = [slot.tensor.data_ptr() for slot in slots(net)]
    home = [slot.tensor.data_ptr() for slot in slots(net)]
    assert not set(home) & set(away)
    with component.resident():
        pass
    assert [slot.tensor.data_ptr() for slot in slots(net)] == home
    assert source.reads == len(source.index)


def test_copies_on_the_runtime_device_are_gone_after_use(place) -> None:
    component = place("slow0", "cpu")
    with component.resident() as net:
        copies = [weakref.ref(slot.tensor) for slot in slots(net)]
        assert all(copy() is not None for copy in copies)
    gc.collect()
    assert [copy() for copy in copies] == [None] * len(copies)


def test_every_use_of_offloaded_weights_moves_each_once(place) -> None:
    component = place("slow0", "cpu")
    for _ in range(3):
        with component.resident() as net:
            pass
    assert component.runtime.taken == 3 * len(slots(net))
    assert component.traffic.moves == 3
    assert component.traffic.moved_bytes == 3 * component.nbytes


def test_memory_of_the_runtime_device_is_given_back(place) -> None:
    component = place("slow0", "cpu")
    with component.resident():
        assert component.runtime.emptied == 0
    assert component.runtime.emptied == 1


def test_weights_from_disk_are_read_for_each_use(place, source) -> None:
    component = place("slow0", "disk")
    for _ in range(2):
        with component.resident():
            assert component.is_loaded
        assert not component.is_loaded
    assert source.reads == 2 * len(source.index)


def test_weights_from_disk_are_gone_after_use_whoever_holds_the_network(place) -> None:
    component = place("cpu", "disk", torch.bfloat16)
    with component.resident() as net:
        weights = [weakref.ref(slot.tensor) for slot in slots(net) if slot.tensor.is_floating_point()]
        assert places(net) == {"cpu"}
    gc.collect()
    assert [weight() for weight in weights] == [None] * len(weights)
    assert places(net) == {"meta"}


def test_memory_of_the_file_is_given_back_after_use(place, source) -> None:
    with place("cpu", "disk").resident():
        assert not source.released
    assert source.released == set(source.index)


@pytest.mark.parametrize(("params_backend", "home"), [("cpu", "cpu"), ("disk", "meta")])
def test_error_in_the_block_releases_the_device(place, params_backend, home) -> None:
    component = place("meta0", params_backend)
    with pytest.raises(ValueError, match="in the block"), component.resident() as net:
        raise ValueError("in the block")
    assert places(net) == {home}
    assert component.runtime.emptied == 1


def test_inner_block_leaves_the_weights_to_the_outer_one(place) -> None:
    component = place("meta0", "cpu")
    with component.resident() as outer:
        with component.resident() as inner:
            assert inner is outer
        assert places(outer) == {"meta"}
    assert places(outer) == {"cpu"}
    assert component.traffic.moves == 1


def test_error_in_an_inner_block_leaves_the_weights_to_the_outer_one(place) -> None:
    component = place("meta0", "cpu")
    with component.resident() as net:
        with pytest.raises(ValueError, match="inner"), component.resident():
            raise ValueError("inner")
        assert places(net) == {"meta"}
    assert places(net) == {"cpu"}


def test_device_too_small_for_the_weights_leaves_them_at_home(place, monkeypatch) -> None:
    component = place("slow0", "cpu")
    component.load()
    room = iter(range(2))

    def take(tensor: Tensor) -> Tensor:
        if next(room, None) is None:
            raise torch.OutOfMemoryError("out of memory")
        return tensor.to("meta")

    monkeypatch.setattr(component.runtime, "take", take)
    with (
        pytest.raises(OutOfMemoryError, match=r"^slow0: out of memory while moving vae"),
        component.resident(),
    ):
        pass
    assert places(component._network()) == {"cpu"}


def test_lack_of_memory_while_running_is_named(place) -> None:
    component = place("slow0")
    with (
        pytest.raises(
            OutOfMemoryError, match=r"^slow0: out of memory while running vae, 4.0 GB of 8.0 GB free"
        ),
        component.resident(),
    ):
        raise torch.OutOfMemoryError("out of memory")


def test_weights_that_do_not_fit_leave_nothing_behind(place, source) -> None:
    source.index = TensorIndex(info for name, info in source.index.items() if name != "conv.bias")
    component = place("cpu")
    with pytest.raises(CheckpointError), component.resident():
        pass
    assert not component.is_loaded
    assert places(component._network()) == {"meta"}


def test_closed_component_has_no_weights(place) -> None:
    component = place("cpu")
    with component.resident() as net:
        pass
    component.close()
    component.close()
    assert places(net) == {"meta"}
    with pytest.raises(RuntimeError, match=r"^vae: the component is closed"), component.resident():
        pass


def test_component_cannot_outlive_its_backends(devices, source) -> None:
    placement = Placement.parse(EngineConfig(backend="slow0"), devices)
    with BackendManager(placement) as manager:
        backend = manager.runtime(Module.VAE)
        component = Component("vae", build, source, runtime=backend, params=backend, dtype=torch.float32)
        with component.resident():
            pass
    with pytest.raises(RuntimeError, match=r"^slow0: the backend is closed"), component.resident():
        pass


def test_component_does_not_close_its_backends(place) -> None:
    component = place("slow0", "cpu")
    component.close()
    assert not component.runtime.is_closed
    assert not component.params.is_closed


def test_weights_are_of_the_compute_type(place) -> None:
    component = place("slow0", "cpu", torch.bfloat16)
    with component.resident() as net:
        assert {slot.tensor.dtype for slot in slots(net) if slot.tensor.is_floating_point()} == {
            torch.bfloat16
        }
    assert component.nbytes == (3 * 4 + 4 + 4 * 4) * 2 + 8


class Packed(nn.Module):
    """A table and a projection, as a text encoder has them."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 32)
        self.proj = Linear(32, 64)

    def forward(self, input_ids: Tensor) -> Tensor:
        out: Tensor = self.proj(self.table(input_ids))
        return out


@pytest.mark.parametrize(("backend", "params_backend"), RESIDENCIES)
def test_packed_weights_stay_so_in_every_residency(devices, backend, params_backend) -> None:
    weights: dict[str, Tensor | PackedTensor] = {
        "table.weight": PackedTensor.encode(torch.randn(10, 32), "q8_0"),
        "proj.weight": PackedTensor(
            torch.randn(64, 32).to(torch.float8_e4m3fn).view(-1).view(torch.uint8),
            "f8_e4m3",
            (64, 32),
            torch.tensor(0.5),
        ),
        "proj.bias": torch.randn(64),
    }
    unpacked = {
        name: weight.decode(torch.float32) if isinstance(weight, PackedTensor) else weight
        for name, weight in weights.items()
    }
    ids = torch.tensor([3, 0, 9])
    expected = unpacked["table.weight"][ids] @ unpacked["proj.weight"].T + unpacked["proj.bias"]

    def build_packed() -> nn.Module:
        with torch.device("meta"):
            return Packed()

    placement = Placement.parse(EngineConfig(backend=backend, params_backend=params_backend), devices)
    with BackendManager(placement, threads=1) as manager:
        component = Component(
            "te",
            build_packed,
            MemorySource(weights),
            runtime=manager.runtime(Module.VAE),
            params=manager.params(Module.VAE),
            dtype=torch.float32,
            keep_packed=True,
        )
        for _ in range(2):
            with component.resident() as net:
                torch.testing.assert_close(net(ids), expected)
                assert component.nbytes == 10 * 34 + 64 * 32 + 4 + 64 * 4
        component.close()
        assert places(component._network()) == {"meta"}


def test_nothing_wants_gradients(place) -> None:
    with place("slow0", "cpu").resident() as net:
        assert not any(parameter.requires_grad for parameter in net.parameters())
        assert not net.training


class Replay(nn.Module):
    """A faster form of a network."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net


@pytest.mark.parametrize(("params_backend", "times"), [("", 1), ("cpu", 2), ("disk", 2)])
def test_network_is_accelerated_when_its_weights_arrive(place, monkeypatch, params_backend, times) -> None:
    component = place("slow0", params_backend)
    made = []

    def accelerate(net: nn.Module) -> nn.Module:
        made.append(weakref.ref(replay := Replay(net)))
        return replay

    monkeypatch.setattr(component.runtime, "accelerate", accelerate)
    for _ in range(2):
        with component.resident() as net:
            assert isinstance(net, Replay)
    del net
    gc.collect()
    assert len(made) == times
    assert [replay() is None for replay in made] == [params_backend != ""] * times


def test_acceleration_ends_before_the_weights_leave(place, monkeypatch) -> None:
    component = place("meta0", "cpu")
    retired = []
    monkeypatch.setattr(component.runtime, "retire", lambda net: retired.append((net, places(net))))
    with component.resident() as net:
        assert not retired
    assert retired == [(net, {"meta"})]


def test_acceleration_of_weights_that_stay_ends_with_the_component(place, monkeypatch) -> None:
    component = place("slow0")
    retired = []
    monkeypatch.setattr(component.runtime, "retire", retired.append)
    with component.resident() as net:
        pass
    assert not retired
    component.close()
    component.close()
    assert retired == [net]


def test_one_log_line_for_each_way_that_weights_go(place, caplog) -> None:
    component = place("slow0", "cpu")
    with caplog.at_level(logging.INFO, "darkroom.runtime.component"), component.resident():
        pass
    assert [record.getMessage() for record in caplog.records] == [
        "vae: loaded 136 B in 0.0 s to cpu",
        "vae: moved 136 B in 0.0 s from cpu to slow0",
    ]


def test_progress_counts_bytes_read(place) -> None:
    counted: list[int] = []
    component = place("cpu", dtype=torch.bfloat16)
    component.load(counted.append)
    assert sum(counted) == component.file_bytes == (3 * 4 + 4 + 4 * 4) * 4 + 8


def test_tensor_in_two_places_stays_one() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    net[1].weight = net[0].weight
    taken: list[Tensor] = []

    def take(tensor: Tensor) -> Tensor:
        taken.append(tensor)
        return tensor.clone()

    replace(slots(net), take)
    assert net[0].weight is net[1].weight
    assert len(taken) == 1


def test_backend_by_default_takes_tensors_in_their_memory_format(devices) -> None:
    backend: Backend = devices.open(devices.resolve("cpu"), threads=1)
    tensor = torch.zeros(1, 4, 3, 3).to(memory_format=torch.channels_last)
    assert backend.take(tensor).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.gpu
@pytest.mark.parametrize("params_backend", ["", "cpu", "disk"])
def test_result_is_the_same_on_a_card(place, reference, params_backend) -> None:
    component = place("cuda0", params_backend)
    for _ in range(2):
        with component.resident() as net:
            assert places(net) == {"cuda"}
            torch.testing.assert_close(net(X.cuda()).cpu(), reference(X))


@pytest.mark.gpu
@pytest.mark.parametrize("params_backend", ["cpu", "disk"])
def test_card_is_empty_after_use(place, params_backend) -> None:
    component = place("cuda0", params_backend)
    before = torch.cuda.memory_allocated()
    with component.resident():
        assert torch.cuda.memory_allocated() >= before + component.nbytes
    assert torch.cuda.memory_allocated() == before


@pytest.mark.gpu
def test_recorded_graphs_are_gone_after_use_whoever_holds_the_network(place) -> None:
    component = place("cuda0", "cpu")
    x = X.cuda()
    for _ in range(2):  # what libraries keep for themselves is there from the second round on
        before = torch.cuda.memory_allocated()
        with torch.inference_mode(), component.resident() as net:
            for _ in range(3):
                net(x)
    assert torch.cuda.memory_allocated() == before


@pytest.mark.gpu
def test_weights_kept_on_a_card_run_on_the_processor(place, reference) -> None:
    with place("cpu", "cuda0").resident() as net:
        assert torch.equal(net(X), reference(X))
