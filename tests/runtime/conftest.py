"""Components of which some blocks come one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from tests.runtime.streaming import weights_of
from torch import Tensor, nn

from darkroom.api.config import EngineConfig
from darkroom.api.names import Module
from darkroom.quant.packed import PackedTensor
from darkroom.runtime.backends import BackendManager, Placement
from darkroom.runtime.budget import evenly
from darkroom.runtime.component import Component
from darkroom.runtime.devices import Devices
from darkroom.weights.source import MemorySource, TensorSource

Stream = Callable[..., Component]


@pytest.fixture
def stream(devices: Devices, request: pytest.FixtureRequest) -> Iterator[Stream]:
    """Makes a component of which `staying` blocks stay: stream(build, backend, params_backend, staying=2).

    On fake devices, unless the test is for a card.
    """
    managers, components = [], []
    if request.node.get_closest_marker("gpu"):
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        devices = Devices.discover()

    def make(
        build: Callable[[], nn.Module],
        backend: str,
        params_backend: str,
        *,
        staying: int = 2,
        weights: dict[str, Tensor | PackedTensor] | None = None,
        source: TensorSource | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Component:
        def on_meta() -> nn.Module:
            with torch.device("meta"):
                return build()

        config = EngineConfig(backend=f"all={backend},te=cpu", params_backend=params_backend, threads=1)
        manager = BackendManager(Placement.parse(config, devices), threads=1)
        managers.append(manager)
        manager.runtime(Module.TE)  # its settings hold for all of them
        params = manager.params(Module.DIFFUSION)
        runtime = manager.runtime(Module.DIFFUSION)
        component = Component(
            "diffusion",
            on_meta,
            source or MemorySource(weights or dict(weights_of(build))),
            runtime=runtime,
            params=params,
            dtype=dtype,
            keep_packed=True,
        )
        _, blocks = component.weigh()
        home = manager.host(Module.DIFFUSION) if params is runtime else params
        component.stream([blocks[i] for i in evenly(len(blocks), staying)], home)
        components.append(component)
        return component

    yield make
    for component in components:
        component.close()
    for manager in managers:
        manager.close()
