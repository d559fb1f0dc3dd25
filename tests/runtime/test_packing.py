"""Quantized weights, unpacked at load where there is room for them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from darkroom.api.config import EngineConfig
from darkroom.api.names import Module
from darkroom.layers.linear import Linear
from darkroom.layers.packed_linear import PackedLinear
from darkroom.quant.packed import PackedTensor
from darkroom.runtime.backends import BackendManager, Placement
from darkroom.runtime.component import Component
from darkroom.runtime.devices import Devices
from darkroom.runtime.limits import GIBIBYTE
from darkroom.runtime.packing import unpack_what_fits
from darkroom.runtime.residency import SPARE
from darkroom.weights.source import MemorySource

PACKED, UNPACKED = 64 * 64 // 32 * 34, 64 * 64 * 4
"""Bytes of a network's one matrix."""

Plan = Callable[..., dict[Module, Component]]


def component(manager: BackendManager, module: Module, *, quantized: bool = True) -> Component:
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))

    def build() -> nn.Module:
        with torch.device("meta"):
            return nn.Sequential(Linear(64, 64, bias=False))

    return Component(
        module,
        build,
        MemorySource({"0.weight": PackedTensor.encode(weight, "q8_0") if quantized else weight}),
        runtime=manager.runtime(module),
        params=manager.params(module),
        dtype=torch.float32,
        keep_packed=True,
    )


@pytest.fixture
def plan(devices: Devices) -> Iterator[Plan]:
    """Text encoder and diffusion network of one matrix each, decided upon; room: bytes of the device."""
    managers = []

    def make(room: int | None = None, activations: int = 0, **options: object) -> dict[Module, Component]:
        if room is not None:
            options["max_vram"] = str(room / GIBIBYTE)
        config = EngineConfig.model_validate({"backend": "vulkan0", "threads": 1, **options})
        manager = BackendManager(Placement.parse(config, devices), threads=1)
        managers.append(manager)
        components = {module: component(manager, module) for module in (Module.TE, Module.DIFFUSION)}
        unpack_what_fits(components, list(components), manager.placement.limits, lambda module: activations)
        return components

    yield make
    for manager in managers:
        manager.close()


def kept(components: dict[Module, Component]) -> set[Module]:
    return {module for module, component in components.items() if component.keep_packed}


def test_what_fits_is_unpacked_at_load(plan: Plan, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        components = plan()
    assert not kept(components)
    assert (
        "diffusion: quantized weights are unpacked as they are loaded, 4.4 kB become 16.4 kB" in caplog.text
    )
    with components[Module.DIFFUSION].resident() as net:
        assert type(net[0]) is Linear  # type: ignore[index]


def test_what_does_not_fit_stays_packed(plan: Plan, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        components = plan(room=UNPACKED)
    assert kept(components) == {Module.TE, Module.DIFFUSION}
    assert "diffusion: quantized weights stay packed, 4.4 kB instead of 16.4 kB" in caplog.text
    with components[Module.DIFFUSION].resident() as net:
        assert isinstance(net[0], PackedLinear)  # type: ignore[index]


def test_the_diffusion_network_has_the_first_claim(plan: Plan) -> None:
    assert kept(plan(room=UNPACKED + PACKED + 1)) == {Module.TE}
    assert not kept(plan(room=2 * UNPACKED + 1))


def test_activations_need_room_too(plan: Plan) -> None:
    room = 2 * UNPACKED + int(SPARE * 1000)
    assert not kept(plan(room=room + 1, activations=1000))
    assert kept(plan(room=room - 1, activations=1000)) == {Module.TE}


def test_weights_read_for_each_use_are_unpacked_one_network_at_a_time(plan: Plan) -> None:
    assert not kept(plan(room=UNPACKED + 1, params_backend="disk"))


@pytest.mark.parametrize(
    ("options", "packed"),
    [
        ({"params_backend": "cpu"}, {Module.TE, Module.DIFFUSION}),
        ({"params_backend": "diffusion=cpu"}, {Module.DIFFUSION}),
        ({"params_backend": "disk", "stream_layers": True}, {Module.DIFFUSION}),
        ({"gpu_layers": 0}, {Module.DIFFUSION}),
    ],
)
def test_what_is_brought_again_and_again_stays_packed(
    plan: Plan, options: dict[str, object], packed: set[Module]
) -> None:
    assert kept(plan(**options)) == packed


def test_half_of_the_main_memory_is_left(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    from darkroom.runtime import torch_backend

    monkeypatch.setattr(torch_backend, "free_and_total_memory", lambda: (4 * UNPACKED, 8 * UNPACKED))
    assert not kept(plan(backend="cpu"))
    monkeypatch.setattr(torch_backend, "free_and_total_memory", lambda: (4 * UNPACKED - 1, 8 * UNPACKED))
    assert kept(plan(backend="cpu")) == {Module.TE}


def test_nothing_is_said_of_weights_that_are_not_quantized(
    devices: Devices, caplog: pytest.LogCaptureFixture
) -> None:
    placement = Placement.parse(EngineConfig(backend="cpu", threads=1), devices)
    with BackendManager(placement, threads=1) as manager, caplog.at_level(logging.INFO):
        plain = {Module.DIFFUSION: component(manager, Module.DIFFUSION, quantized=False)}
        unpack_what_fits(plain, list(plain), placement.limits, lambda module: 0)
    assert not caplog.text
