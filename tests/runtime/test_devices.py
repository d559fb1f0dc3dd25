"""Names of devices: whole, by kind, by their beginning, and the words that leave the choice to us."""

from __future__ import annotations

import logging

import pytest

from darkroom.api.errors import PlacementError
from darkroom.runtime.devices import Device, Devices, DeviceType


class Offer:
    """A provider that only lists."""

    def __init__(self, *devices: Device) -> None:
        self._devices = devices

    def devices(self) -> tuple[Device, ...]:
        return self._devices

    def open(self, device: Device, *, threads: int) -> None:  # type: ignore[override]
        raise AssertionError("nothing is opened here")


def device(name: str, type: DeviceType = DeviceType.GPU) -> Device:
    return Device(name, name.rstrip("0123456789"), type, f"Fake {name}")


CPU = device("cpu", DeviceType.CPU)
SHARED = device("xpu0", DeviceType.INTEGRATED_GPU)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("cuda0", "cuda0"),
        ("CUDA0", "cuda0"),
        ("  Vulkan1 ", "vulkan1"),
        ("metal", "metal"),
        ("vulkan1", "vulkan1"),
        ("vulkan", "vulkan0"),
        ("CUDA", "cuda0"),
        ("cpu", "cpu"),
        ("me", "metal"),
        ("cud", "cuda0"),
        ("c", None),
        ("vulk", None),
        ("gpu", "vulkan0"),
        ("", "vulkan0"),
        ("auto", "vulkan0"),
        ("Default", "vulkan0"),
    ],
)
def test_name_means_a_device(name: str, meant: str | None) -> None:
    devices = Devices([Offer(CPU, SHARED), Offer(*map(device, ("vulkan0", "vulkan1", "cuda0", "metal")))])
    if meant is None:
        with pytest.raises(PlacementError, match="is ambiguous"):
            devices.resolve(name)
    else:
        assert devices.resolve(name).name == meant


def test_kind_means_its_first_device_though_others_begin_alike() -> None:
    devices = Devices([Offer(*map(device, ("cuda10", "cuda1", "cuda0")))])
    assert devices.resolve("cuda").name == "cuda10"
    assert devices.resolve("cuda1").name == "cuda1"


def test_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(PlacementError) as error:
        Devices([Offer(CPU, device("cuda0"))]).resolve(" Cuda3 ", "--params-backend")
    assert str(error.value) == "--params-backend: backend 'Cuda3' was not found; available: cpu, cuda0"


def test_ambiguous_beginning_lists_what_it_fits() -> None:
    with pytest.raises(PlacementError) as error:
        Devices([Offer(CPU, device("vulkan0"), device("vulkan1"))]).resolve("vu")
    assert str(error.value) == (
        "--backend: backend 'vu' is ambiguous, it fits vulkan0, vulkan1; write one of them in full"
    )


@pytest.mark.parametrize("name", ["", "auto", "gpu"])
def test_integrated_gpu_serves_where_there_is_no_other(name: str) -> None:
    assert Devices([Offer(CPU, SHARED)]).resolve(name) is SHARED


@pytest.mark.parametrize("name", ["", "auto", "default"])
def test_default_is_the_processor_where_there_is_no_gpu(name: str) -> None:
    assert Devices([Offer(CPU)]).resolve(name) is CPU


def test_gpu_never_means_the_processor() -> None:
    with pytest.raises(PlacementError, match="backend 'gpu' was not found; available: cpu"):
        Devices([Offer(CPU)]).resolve("gpu")


def test_environment_chooses_the_default_vulkan_device(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = Devices([Offer(CPU, device("cuda0"), device("vulkan0"), device("vulkan1"))])
    monkeypatch.setenv("SD_VK_DEVICE", "1")
    assert devices.resolve("auto").name == "vulkan1"
    assert devices.resolve("gpu").name == "cuda0"


def test_environment_that_names_no_device_is_warned_about(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SD_VK_DEVICE", "x")
    with caplog.at_level(logging.WARNING):
        assert Devices([Offer(CPU)]).resolve("") is CPU
    assert "SD_VK_DEVICE: device 'vulkanx' was not found" in caplog.text


def test_two_devices_of_one_name() -> None:
    with pytest.raises(ValueError, match="names must be unique, these are not: cpu, cuda0, cuda0"):
        Devices([Offer(CPU), Offer(device("cuda0"), device("cuda0", DeviceType.INTEGRATED_GPU))])


def test_lines_are_name_tab_description() -> None:
    assert Devices([Offer(CPU, device("cuda0"))]).lines() == ["cpu\tFake cpu", "cuda0\tFake cuda0"]


def test_this_machine_has_a_processor() -> None:
    devices = Devices.discover()
    assert devices[0].name == "cpu"
    assert devices[0].description
    assert devices[0].memory > 0
