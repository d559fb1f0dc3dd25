"""How much of the weights may be on a device, as it is written on the command line."""

from __future__ import annotations

import pytest

from darkroom.api.config import EngineConfig
from darkroom.api.errors import PlacementError
from darkroom.runtime.backends import Placement
from darkroom.runtime.devices import Devices
from darkroom.runtime.limits import Limits


def limits(max_vram: str) -> Limits:
    return Limits.of(EngineConfig(max_vram=max_vram))


@pytest.mark.parametrize(
    ("text", "default", "devices"),
    [
        ("0", 0, {}),
        ("", 0, {}),
        ("6", 6, {}),
        (" 6.5 ", 6.5, {}),
        ("-1", -1, {}),
        ("cuda0=6,vulkan1=-0.5", 0, {"cuda0": 6, "vulkan1": -0.5}),
        ("all=4", 4, {}),
        ("4,*=3,default=2", 2, {}),
        ("8,cuda0=0", 8, {"cuda0": 0}),
        (",cuda0 = 1,,cuda0=2", 0, {"cuda0": 2}),
    ],
)
def test_numbers_of_gibibytes(text: str, default: float, devices: dict[str, float]) -> None:
    assert limits(text) == Limits(default, devices)


@pytest.mark.parametrize("value", ["six", "6GB", "nan", "inf", "cuda0"])
def test_value_that_is_no_number(value: str) -> None:
    for text in (value, f"cuda0={value}"):
        with pytest.raises(PlacementError) as error:
            limits(text)
        assert str(error.value) == (
            f"--max-vram: invalid --max-vram value '{value}'; "
            "expected GiB: 6 for at most 6, -1 for all that is free but 1, 0 for no limit"
        )


@pytest.mark.parametrize("part", ["cuda0=", "=6", "="])
def test_half_an_assignment(part: str) -> None:
    with pytest.raises(PlacementError) as error:
        limits(f"4,{part}")
    assert str(error.value) == (
        f"--max-vram: invalid --max-vram assignment '{part}'; write device=GiB, for example cuda0=6"
    )


def test_names_are_those_of_backends(devices: Devices) -> None:
    placement = Placement.parse(EngineConfig(max_vram="VULKAN0=6,cuda=2"), devices)
    assert placement.limits.devices == {"vulkan0": 6, "cuda0": 2}


@pytest.mark.parametrize(
    ("name", "reason"), [("tpu", "backend 'tpu' was not found"), ("vulk", "backend 'vulk' is ambiguous")]
)
def test_device_that_is_not_there(devices: Devices, name: str, reason: str) -> None:
    with pytest.raises(PlacementError) as error:
        Placement.parse(EngineConfig(max_vram=f"{name}=6"), devices)
    assert str(error.value).startswith(f"--max-vram: unknown --max-vram backend '{name}'; {reason}")


def test_mistakes_in_the_text_come_before_those_in_names(devices: Devices) -> None:
    with pytest.raises(PlacementError, match="invalid --max-vram value 'x'"):
        Placement.parse(EngineConfig(backend="tpu", max_vram="x"), devices)


def test_main_memory_is_limited_by_its_name_only() -> None:
    assert limits("6").gibibytes("cuda0", is_processor=False) == 6
    assert limits("6").gibibytes("cpu", is_processor=True) == 0
    assert limits("6,cpu=8").gibibytes("cpu", is_processor=True) == 8


def test_layers_may_be_all_none_or_some() -> None:
    assert EngineConfig().gpu_layers == -1
    assert Limits.of(EngineConfig(gpu_layers=3, stream_layers=True)) == Limits(0, {}, 3, True)
    with pytest.raises(ValueError, match="greater than or equal to -1"):
        EngineConfig(gpu_layers=-2)
