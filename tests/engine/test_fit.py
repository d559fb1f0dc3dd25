"""--auto-fit on real files: the plan, and that its picture is the picture."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from tests.conftest import FakeProvider, Processor, fake

from darkroom import Engine, EngineConfig, GenerationRequest
from darkroom.api.errors import PlacementError
from darkroom.api.names import ComputeType, Module
from darkroom.engine.fit import fitted
from darkroom.runtime.devices import Devices
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


def test_main_memory_counts_with_its_limit(checkpoint: Path) -> None:
    made, plan = fitted(config(checkpoint, max_vram="cpu=0.01"), Devices([Processor()]))
    assert {place.need.module for place in plan.places if place.home == "disk"} == {*Module} & {
        Module.TE,
        Module.DIFFUSION,
        Module.VAE,
    }
    assert "disk" in made.params_backend
