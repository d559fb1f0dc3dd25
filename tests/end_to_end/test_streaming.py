"""Whole pictures with networks that are larger than what they may use of their device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL.Image import Image

from darkroom.api.config import EngineConfig
from darkroom.api.errors import Cancelled, PlacementError
from darkroom.api.names import ComputeType, Module
from darkroom.api.request import GenerationRequest
from darkroom.api.result import Phase, Progress
from darkroom.engine.engine import Engine
from darkroom.runtime.devices import Devices
from darkroom.runtime.slots import slots

REQUEST = GenerationRequest(prompt="a cat", width=64, height=64, steps=2)

Load = Callable[..., Engine]


@pytest.fixture
def load(checkpoint: Path, devices: Devices) -> Load:
    """The processor is always among the devices: its settings hold for all of them."""

    def load_with(**options: object) -> Engine:
        given = {"model": checkpoint, "threads": 1, "compute_type": ComputeType.F32, **options}
        return Engine.load(EngineConfig.model_validate(given), devices=devices)

    return load_with


def draw(engine: Engine) -> list[bytes]:
    return [picture.tobytes() for picture in engine.generate(REQUEST).images]


@pytest.mark.parametrize(
    "options",
    [
        {"backend": "cpu", "params_backend": "disk", "stream_layers": True},
        {"backend": "vulkan0", "params_backend": "cpu", "stream_layers": True},
        {"backend": "all=vulkan0,te=cpu", "gpu_layers": 0},
        {"backend": "all=vulkan0,te=cpu", "gpu_layers": 7, "params_backend": "diffusion=disk"},
        {"backend": "vulkan0", "max_vram": "0.01"},
        {"backend": "all=vulkan0,te=cpu", "max_vram": "all=1,vulkan0=0.31"},
        {"backend": "cpu", "max_vram": "cpu=0.01"},
        {"backend": "cuda0", "params_backend": "cpu", "max_vram": "-3.5"},
    ],
)
def test_limits_do_not_change_the_picture(load: Load, options: dict[str, object]) -> None:
    with load(backend="cpu") as engine:
        expected = draw(engine)
    with load(**options) as engine:
        got = draw(engine)
        assert (
            largest_difference(got, expected) <= 1
        )  # where the VAE runs by tiles, sums are rounded otherwise
        assert draw(engine) == got
        assert engine.components[Module.DIFFUSION].traffic.streamed_blocks


def largest_difference(pictures: list[bytes], others: list[bytes]) -> int:
    """In grey levels."""
    one, other = (
        torch.frombuffer(bytearray(b"".join(part)), dtype=torch.uint8) for part in (pictures, others)
    )
    return int((one.int() - other.int()).abs().max())


def test_cancelled_work_leaves_the_engine_ready(load: Load) -> None:
    with load(backend="cpu") as engine:
        expected = draw(engine)
    with load(backend="vulkan0", params_backend="cpu", gpu_layers=3) as engine:
        steps = 0

        def on_progress(progress: Progress) -> None:
            nonlocal steps
            steps += progress.phase is Phase.SAMPLE

        with pytest.raises(Cancelled):
            engine.generate(REQUEST, on_progress, lambda: steps > 1)
        net = engine.components[Module.DIFFUSION]._network()
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
        assert draw(engine) == expected


def test_many_pictures_leave_no_tensor_behind(load: Load) -> None:
    with load(backend="vulkan0", params_backend="cpu", gpu_layers=3) as engine:
        net = engine.components[Module.DIFFUSION]._network()
        counts = []
        for _ in range(3):
            draw(engine)
            memories = {slot.tensor.untyped_storage().data_ptr() for slot in slots(net)}
            counts.append((len(memories), engine.components[Module.DIFFUSION].traffic.moves))
        assert counts == [(counts[0][0], 1), (counts[0][0], 2), (counts[0][0], 3)]


def test_eager_load_reads_the_blocks_that_wait(load: Load) -> None:
    with load(backend="vulkan0", gpu_layers=3, eager_load=True) as engine:
        diffusion = engine.components[Module.DIFFUSION]
        assert diffusion.is_loaded
        assert diffusion.traffic.loaded_bytes == diffusion.nbytes


def test_limit_is_checked_before_the_model_is_opened(devices: Devices, tmp_path: Path) -> None:
    config = EngineConfig(model=tmp_path / "absent.safetensors", max_vram="cuda7=4")
    with pytest.raises(PlacementError, match="unknown --max-vram backend 'cuda7'"):
        Engine.load(config, devices=devices)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "options",
    [
        {"params_backend": "cpu", "stream_layers": True},
        {"params_backend": "disk", "stream_layers": True},
        {"gpu_layers": 5},
        {"max_vram": "0.31"},
    ],
)
def test_card_draws_the_same_picture_and_gives_its_memory_back(
    checkpoint: Path, options: dict[str, object]
) -> None:
    def engine(**more: object) -> Engine:
        given = {"model": checkpoint, "backend": "cuda0", "compute_type": ComputeType.F32, **more}
        return Engine.load(EngineConfig.model_validate(given))

    if "cuda0" not in [device.name for device in Devices.discover()]:
        pytest.skip("no CUDA device")

    def picture(engine: Engine) -> Image:
        return engine.generate(REQUEST).images[0]

    with engine() as resident:
        expected = picture(resident).tobytes()
    with engine(**options) as streamed:
        first = picture(streamed).tobytes()
        for _ in range(2):  # until the decoder, which is not streamed, has its graph
            picture(streamed)
        after = torch.cuda.memory_allocated()
        for _ in range(3):
            assert picture(streamed).tobytes() == first
            assert torch.cuda.memory_allocated() - after < 2**20
        assert streamed.components[Module.DIFFUSION].traffic.streamed_blocks
    differences = [abs(a - b) for a, b in zip(expected, first, strict=True)]
    assert sum(differences) / len(differences) < 1
