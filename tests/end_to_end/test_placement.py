"""Whole pictures with the parts of the model on several devices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL.Image import Image

from darkroom.api.config import EngineConfig
from darkroom.api.errors import PlacementError
from darkroom.api.names import ComputeType, Module
from darkroom.api.request import GenerationRequest
from darkroom.engine.engine import Engine
from darkroom.runtime.devices import Devices

REQUEST = GenerationRequest(prompt="a cat", width=64, height=64, steps=2)

Load = Callable[..., Engine]


@pytest.fixture
def load(checkpoint: Path, devices: Devices) -> Load:
    def load_with(backend: str, params_backend: str = "", **more: object) -> Engine:
        options = {"backend": backend, "params_backend": params_backend, "compute_type": ComputeType.F32}
        config = EngineConfig.model_validate({"model": checkpoint, "threads": 1, **options, **more})
        return Engine.load(config, devices=devices)

    return load_with


def draw(engine: Engine) -> list[bytes]:
    return [picture.tobytes() for picture in engine.generate(REQUEST).images]


@pytest.mark.parametrize(
    ("backend", "params_backend"),
    [
        ("cpu", "disk"),
        ("all=slow0,te=cpu", ""),
        ("slow0", "cpu"),
        ("te=cpu,vae=cuda0,diffusion=vulkan0", ""),
        ("all=cuda0,vae=cpu", "cpu"),
        ("te=cpu,vae=cuda0,diffusion=vulkan0", "te=disk,vae=cpu,diffusion=cuda0"),
    ],
)
def test_placement_does_not_change_the_picture(load: Load, backend: str, params_backend: str) -> None:
    # Equal to the last bit as long as the processor is among the devices: its settings hold for all of them.
    with load("cpu") as engine:
        expected = draw(engine)
    with load(backend, params_backend) as engine:
        assert draw(engine) == expected
        assert draw(engine) == expected


def test_weights_move_when_their_module_runs_and_leave_after(load: Load) -> None:
    with load("diffusion=cuda0,te=cpu,vae=cpu", "diffusion=cpu,vae=disk") as engine:
        draw(engine)
        draw(engine)
        traffic = {module: component.traffic for module, component in engine.components.items()}
        assert (traffic[Module.DIFFUSION].loads, traffic[Module.DIFFUSION].moves) == (1, 2)
        assert (traffic[Module.VAE].loads, traffic[Module.VAE].moves) == (2, 0)
        assert (traffic[Module.TE].loads, traffic[Module.TE].moves) == (1, 0)
        assert not engine.components[Module.VAE].is_loaded


def test_one_backend_serves_every_module_on_a_device_until_the_engine_closes(load: Load) -> None:
    with load("te=cpu,vae=cpu,diffusion=cuda0", "vae=cuda0") as engine:
        te, vae, diffusion = (engine.components[m] for m in (Module.TE, Module.VAE, Module.DIFFUSION))
        assert te.runtime is vae.runtime
        assert vae.params is diffusion.runtime
        backends = engine.manager.backends
        assert [backend.name for backend in backends] == ["cpu", "cuda0"]
    assert all(backend.is_closed for backend in backends)


def test_closed_engine_draws_nothing(load: Load) -> None:
    engine = load("cpu")
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        draw(engine)


def test_placement_is_checked_before_the_model_is_opened(devices: Devices, tmp_path: Path) -> None:
    config = EngineConfig(model=tmp_path / "absent.safetensors", backend="cuda7")
    with pytest.raises(PlacementError, match="backend 'cuda7' was not found"):
        Engine.load(config, devices=devices)


def test_eager_load_reads_at_start_what_stays(load: Load) -> None:
    with load("cpu", "vae=disk", eager_load=True) as engine:
        loaded = {module for module, component in engine.components.items() if component.is_loaded}
        assert loaded == {Module.TE, Module.DIFFUSION}


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("backend", "params_backend"),
    [
        ("cuda0", ""),
        ("cuda0", "cpu"),
        ("cuda0", "disk"),
        ("te=cpu,vae=cuda0,diffusion=cuda0", ""),
        ("diffusion=cuda0,te=cpu,vae=cpu", "diffusion=cpu"),
    ],
)
def test_card_draws_the_same_picture(checkpoint: Path, backend: str, params_backend: str) -> None:
    def picture(backend: str, params_backend: str) -> Image:
        config = EngineConfig(
            model=checkpoint, backend=backend, params_backend=params_backend, compute_type=ComputeType.F32
        )
        with Engine.load(config) as engine:
            return engine.generate(REQUEST).images[0]

    if "cuda0" not in [device.name for device in Devices.discover()]:
        pytest.skip("no CUDA device")
    expected, got = picture("cpu", "").tobytes(), picture(backend, params_backend).tobytes()
    differences = [abs(a - b) for a, b in zip(expected, got, strict=True)]
    assert sum(differences) / len(differences) < 1
