"""Networks that share a device within a limit, planned from headers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from darkroom.api.config import EngineConfig
from darkroom.api.names import Module
from darkroom.quant.packed import PackedTensor
from darkroom.runtime.backends import BackendManager, Placement
from darkroom.runtime.component import Component
from darkroom.runtime.devices import Devices
from darkroom.runtime.limits import GIBIBYTE
from darkroom.runtime.residency import SPARE, apply_limits
from darkroom.weights.source import MemorySource

BLOCK = 4 * 64 * 64
"""Bytes of a block's weight."""


class Tower(nn.Module):
    """Blocks of one matrix each, and nothing else."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(64, 64, bias=False)) for _ in range(count))


COUNTS = {Module.TE: 8, Module.DIFFUSION: 20, Module.VAE: 4}

Plan = Callable[..., dict[Module, Component]]


@pytest.fixture
def plan(devices: Devices) -> Iterator[Plan]:
    """The components of a model of 8, 20 and 4 blocks with the limits of a configuration."""
    managers = []

    def make(activations: int = 0, **options: object) -> dict[Module, Component]:
        config = EngineConfig.model_validate({"backend": "vulkan0", "threads": 1, **options})
        manager = BackendManager(Placement.parse(config, devices), threads=1)
        managers.append(manager)
        components = {module: component(manager, module, count) for module, count in COUNTS.items()}
        apply_limits(components, manager, lambda module: activations)
        return components

    yield make
    for manager in managers:
        manager.close()


def component(manager: BackendManager, module: Module, count: int) -> Component:
    def build() -> nn.Module:
        with torch.device("meta"):
            return Tower(count)

    weights: dict[str, Tensor | PackedTensor] = dict(Tower(count).state_dict())
    runtime, params = manager.runtime(module), manager.params(module)
    return Component(
        module, build, MemorySource(weights), runtime=runtime, params=params, dtype=torch.float32
    )


def gib(blocks: float) -> str:
    """So many blocks as a number for --max-vram."""
    return repr(blocks * BLOCK / GIBIBYTE)


def staying(component: Component) -> int:
    """Blocks that do not come and go."""
    streaming = component._streaming
    total = len(component._network().blocks)
    return total - (len(streaming.blocks) if streaming else 0)


def homes(components: dict[Module, Component]) -> list[str]:
    return [part.params.name if part.params else "disk" for part in components.values()]


def test_without_limits_everything_stays(plan) -> None:
    components = plan()
    assert homes(components) == ["vulkan0"] * 3
    assert not any(part.is_streamed for part in components.values())


def test_what_fits_together_stays(plan) -> None:
    components = plan(max_vram=gib(32))
    assert homes(components) == ["vulkan0"] * 3
    assert [staying(part) for part in components.values()] == [8, 20, 4]


def test_what_fits_in_turn_comes_in_turn(plan, caplog) -> None:
    with caplog.at_level(logging.INFO, "darkroom.runtime.residency"):
        components = plan(max_vram=gib(31))
    assert homes(components) == ["cpu"] * 3
    assert [staying(part) for part in components.values()] == [8, 20, 4]
    assert [record.getMessage() for record in caplog.records] == [
        "vulkan0: te, diffusion, vae together take 524.3 kB, more than 507.9 kB: "
        "each is there only while it runs"
    ]


def test_of_what_does_not_fit_alone_as_many_blocks_stay_as_do(plan, caplog) -> None:
    with caplog.at_level(logging.INFO, "darkroom.runtime.residency"):
        components = plan(max_vram=gib(12))
    assert [staying(part) for part in components.values()] == [8, 10, 4]  # two more are the buffers
    assert components[Module.DIFFUSION]._streaming.home.name == "cpu"
    assert caplog.records[-1].getMessage() == (
        "diffusion: 10 of 20 blocks stay on vulkan0; 10 (163.8 kB of 327.7 kB) are brought from cpu "
        "when they run"
    )


def test_activations_take_their_share(plan) -> None:
    components = plan(activations=int(3 * BLOCK / SPARE), max_vram=gib(15))
    assert [staying(part) for part in components.values()] == [8, 10, 4]


def test_what_runs_elsewhere_does_not_count(plan) -> None:
    components = plan(backend="diffusion=vulkan0,te=vulkan1,vae=cpu", max_vram=gib(20))
    assert homes(components) == ["vulkan1", "vulkan0", "cpu"]
    assert not any(part.is_streamed for part in components.values())


def test_one_network_on_a_device_keeps_what_fits_there_for_good(plan) -> None:
    components = plan(backend="diffusion=vulkan0,te=cpu,vae=cpu", max_vram="vulkan0=" + gib(12))
    diffusion = components[Module.DIFFUSION]
    assert diffusion.params is diffusion.runtime
    assert staying(diffusion) == 10
    assert diffusion._streaming.home.name == "cpu"


def test_limits_are_for_the_devices_that_they_name(plan) -> None:
    components = plan(backend="diffusion=vulkan0,te=vulkan1,vae=vulkan1", max_vram="vulkan1=" + gib(4))
    assert [staying(part) for part in components.values()] == [2, 20, 4]


def test_weights_on_disk_are_streamed_from_there(plan) -> None:
    components = plan(params_backend="disk", max_vram=gib(12))
    assert homes(components) == ["disk"] * 3
    assert staying(components[Module.DIFFUSION]) == 10
    assert components[Module.DIFFUSION]._streaming.home is None


def test_main_memory_is_limited_by_leaving_weights_in_their_file(plan) -> None:
    components = plan(backend="cpu", max_vram="cpu=" + gib(12))
    assert homes(components) == ["disk"] * 3
    assert staying(components[Module.DIFFUSION]) == 10


def test_limit_without_a_name_says_that_it_is_not_for_the_processor(plan, caplog) -> None:
    components = plan(backend="cpu", max_vram="6")
    assert not any(part.is_streamed for part in components.values())
    assert [record.getMessage() for record in caplog.records] == [
        "--max-vram has no effect on a CPU; cpu=6 limits the weights that are kept in RAM"
    ]


def test_negative_limit_is_what_is_free_less_so_much(plan) -> None:
    free = 4 * 10**9 / GIBIBYTE  # of every fake device
    components = plan(max_vram=f"{12 * BLOCK / GIBIBYTE - free!r}")
    assert staying(components[Module.DIFFUSION]) in (9, 10)


def test_nothing_free_streams_everything_and_says_so(plan, caplog) -> None:
    components = plan(max_vram="-100")
    assert [staying(part) for part in components.values()] == [0, 0, 4]  # the VAE runs by tiles instead
    assert caplog.records[0].getMessage() == (
        "--max-vram < 0 requested, but free VRAM is 3.73 GiB; reserving 100.00 GiB leaves no graph budget; "
        "as little as possible is used of vulkan0"
    )


def test_too_little_for_two_blocks_is_a_warning(plan, caplog) -> None:
    components = plan(max_vram=gib(1))
    assert [staying(part) for part in components.values()] == [0, 0, 4]  # the VAE runs by tiles instead
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings[0] == (
        "te: needs about 32.8 kB on vulkan0 whatever is done, more than the 16.4 kB of --max-vram"
    )


@pytest.mark.parametrize(("layers", "stay"), [(-1, 20), (20, 20), (99, 20), (12, 12), (0, 0), (19, 20)])
def test_number_of_layers_is_for_the_diffusion_network(plan, layers: int, stay: int) -> None:
    components = plan(gpu_layers=layers)
    assert [staying(part) for part in components.values()] == [8, stay, 4]
    assert homes(components) == ["vulkan0"] * 3


def test_number_of_layers_goes_before_the_limit(plan) -> None:
    components = plan(gpu_layers=15, max_vram=gib(12))
    assert [staying(part) for part in components.values()] == [8, 15, 4]


@pytest.mark.parametrize("params_backend", ["cpu", "disk", "vulkan1"])
def test_stream_layers_brings_every_block(plan, params_backend: str) -> None:
    components = plan(stream_layers=True, params_backend=params_backend)
    assert [staying(part) for part in components.values()] == [8, 0, 4]


def test_stream_layers_leaves_the_number_to_other_options(plan) -> None:
    for options in ({"max_vram": gib(12)}, {"gpu_layers": 10}):
        components = plan(stream_layers=True, params_backend="cpu", **options)
        assert staying(components[Module.DIFFUSION]) == 10
    assert staying(plan(stream_layers=True, params_backend="cpu", max_vram=gib(99))[Module.DIFFUSION]) == 20


def test_stream_layers_wants_weights_elsewhere(plan, caplog) -> None:
    components = plan(stream_layers=True)
    assert not components[Module.DIFFUSION].is_streamed
    assert [record.getMessage() for record in caplog.records] == [
        "--stream-layers has no effect unless diffusion params backend is cpu or disk; ignoring"
    ]
