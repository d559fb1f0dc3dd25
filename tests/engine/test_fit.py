"""--auto-fit on real files: the plan, and that its picture is the picture."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from tests.conftest import FakeProvider, Processor, fake

from darkroom import Engine, EngineConfig, GenerationRequest
from darkroom.api.errors import PlacementError
from darkroom.api.names import ComputeType, Module
from darkroom.engine.fit import fitted
from darkroom.runtime.devices import Devices, DeviceType
from darkroom.runtime.fit import Manner

REQUEST = GenerationRequest(prompt="a cat", width=64, height=64, steps=2)


@pytest.fixture
def devices() -> Devices:
    return Devices([Processor(), FakeProvider(fake("vulkan0"), fake("vulkan1"))])


def config(checkpoint: Path, **options: object) -> EngineConfig:
    given = {"model": checkpoint, "auto_fit": True, "threads": 1, "compute_type": ComputeType.F32}
    return EngineConfig(**(given | options))  # type: ignore[arg-type]


def picture(config: EngineConfig, devices: Devices) -> bytes:
    with Engine.load(config, devices=devices) as engine:
        return engine.generate(REQUEST).images[0].tobytes()


def test_a_model_that_fits_stays_on_one_card(checkpoint: Path, devices: Devices) -> None:
    with Engine.load(config(checkpoint), devices=devices) as engine:
        assert engine.fit is not None
        assert {place.manner for place in engine.fit.places} == {Manner.RESIDENT}
        assert {part.runtime.name for part in engine.components.values()} == {"vulkan0"}


@pytest.mark.parametrize(
    "gigabytes", ["vulkan0=0.5,vulkan1=0.4", "vulkan0=0.27,vulkan1=0.0001", "0.2", "0.001"]
)
def test_the_picture_is_the_same_however_little_there_is(
    checkpoint: Path, devices: Devices, gigabytes: str
) -> None:
    expected = picture(config(checkpoint, auto_fit=False, backend="cpu"), devices)
    assert picture(config(checkpoint, max_vram=gigabytes), devices) == expected


def test_other_placement_options_are_ignored_with_a_warning(
    checkpoint: Path, devices: Devices, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        made, _ = fitted(config(checkpoint, backend="te=cpu", gpu_layers=3), devices)
    assert caplog.messages == ["--auto-fit: --backend and --n-gpu-layers are ignored"]
    assert made.gpu_layers == -1
    assert "te=vulkan0" in made.backend


def test_only_headers_are_read(checkpoint: Path, devices: Devices) -> None:
    made, plan = fitted(config(checkpoint), devices)
    with Engine.load(made, devices=devices) as engine:
        weighed = {place.need.module: place.need.weights for place in plan.places}
        assert weighed == {module: part.weigh()[0] for module, part in engine.components.items()}
        assert not any(part.is_loaded for part in engine.components.values())


def test_a_device_that_is_not_there_is_named(checkpoint: Path, devices: Devices) -> None:
    with pytest.raises(PlacementError, match="unknown --max-vram backend 'cuda7'"):
        fitted(config(checkpoint, max_vram="cuda7=3"), devices)


def test_a_card_that_does_not_start_is_left_out(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    devices = Devices([Processor(), FakeProvider(fake("broken0"), fake("vulkan0"))])
    with caplog.at_level(logging.WARNING):
        made, plan = fitted(config(checkpoint), devices)
    assert [room.device for room in plan.rooms] == ["vulkan0"]
    assert made.backend == "te=vulkan0,diffusion=vulkan0,vae=vulkan0"
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("--auto-fit: broken0 is not used; ")


def test_without_a_card_that_starts_the_processor_draws(checkpoint: Path) -> None:
    made, _ = fitted(config(checkpoint), Devices([Processor(), FakeProvider(fake("broken0"))]))
    assert made.backend == "te=cpu,diffusion=cpu,vae=cpu"


def test_an_integrated_card_is_for_want_of_a_better_one(checkpoint: Path) -> None:
    integrated = replace(fake("metal0", DeviceType.INTEGRATED_GPU), memory=128 * 10**9)
    _, plan = fitted(config(checkpoint), Devices([Processor(), FakeProvider(integrated, fake("vulkan0"))]))
    assert [room.device for room in plan.rooms] == ["vulkan0"]
    _, plan = fitted(config(checkpoint), Devices([Processor(), FakeProvider(integrated)]))
    assert [room.device for room in plan.rooms] == ["metal0"]


@pytest.mark.parametrize("max_vram", ["0", "-7.5", "0.3", "vulkan0=0.26,vulkan1=-99", "0.02,cpu=0.05"])
@pytest.mark.parametrize("type", [None, "q8_0"])
def test_what_is_planned_is_what_happens(
    checkpoint: Path, devices: Devices, max_vram: str, type: str | None
) -> None:
    made, plan = fitted(config(checkpoint, max_vram=max_vram, type=type), devices)
    with Engine.load(made, devices=devices) as engine:
        for place in plan.places:
            part = engine.components[place.need.module]
            assert part.runtime.name == place.devices[0]
            assert ("disk" if part.params is None else part.params.name) == (place.home or place.devices[0])
            assert part.is_streamed == (place.manner is Manner.STREAMED)
            if part.is_streamed:
                assert len(place.need.blocks) - part.streamed_blocks == place.staying
            if type:  # no unpacking, which is decided later
                assert part.weigh()[0] == place.need.weights


def test_main_memory_counts_with_its_limit(checkpoint: Path) -> None:
    made, plan = fitted(config(checkpoint, max_vram="cpu=0.01"), Devices([Processor()]))
    assert {place.need.module for place in plan.places if place.home == "disk"} == {*Module} & {
        Module.TE,
        Module.DIFFUSION,
        Module.VAE,
    }
    assert "disk" in made.params_backend
