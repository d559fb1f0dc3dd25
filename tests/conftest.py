"""What several rooms need: a tiny model, and devices that this machine need not have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from safetensors.torch import save_file
from torch import Tensor, nn

from darkroom.api.names import ComputeType
from darkroom.nets.te.clip import CLIPTextConfig, CLIPTextModel
from darkroom.nets.unet import UNetConfig, UNetModel
from darkroom.nets.vae.kl import AutoencoderKL, KLConfig
from darkroom.runtime.backends import Backend, Memory
from darkroom.runtime.devices import Device, Devices, DeviceType
from darkroom.runtime.graphs import GraphedModule
from darkroom.runtime.torch_backend import TorchProvider

GIGABYTE = 10**9

# Machines that run tests are shared: how long an example takes says nothing.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


class FakeBackend(Backend):
    """Counts what it is asked to take; on torch's `meta` device, or beside the processor."""

    def __init__(self, info: Device, device: torch.device) -> None:
        super().__init__(info, device)
        self.taken = 0
        self.prepared = 0
        self.emptied = 0

    def memory(self) -> Memory:
        return Memory(self.info.memory // 2, self.info.memory)

    def compute_dtype(self, asked: ComputeType) -> torch.dtype:
        return torch.float32

    def prepare(self) -> None:
        self.prepared += 1

    def take(self, tensor: Tensor) -> Tensor:
        self.taken += 1
        return tensor.to(self.device, copy=True)

    def accelerate(self, net: nn.Module) -> nn.Module:
        """As on a real card, what runs is not the network itself."""
        return GraphedModule(net) if self.info.kind == "cuda" else net

    def empty_cache(self) -> None:
        self.emptied += 1


class FakeProvider:
    """Offers the devices it is given. Kind `meta` is torch's meta device, all others the processor."""

    def __init__(self, *devices: Device) -> None:
        self._devices = devices
        self.opened: list[tuple[str, int]] = []

    def devices(self) -> Sequence[Device]:
        return self._devices

    def open(self, device: Device, *, threads: int) -> Backend:
        if device.kind == "broken":
            raise RuntimeError("no driver answers")
        self.opened.append((device.name, threads))
        return FakeBackend(device, torch.device("meta" if device.kind == "meta" else "cpu"))


def fake(name: str, type: DeviceType = DeviceType.GPU) -> Device:
    """A device of 8 GB whose kind is its name without the number."""
    return Device(name, name.rstrip("0123456789"), type, f"Fake {name}", 8 * GIGABYTE)


CARDS = ("vulkan0", "vulkan1", "cuda0", "meta0", "broken0")


@pytest.fixture
def provider() -> FakeProvider:
    """Five cards and an integrated GPU, listed first to show that its turn comes last."""
    return FakeProvider(
        fake("vulkan2", DeviceType.INTEGRATED_GPU), *map(fake, CARDS), fake("slow0", DeviceType.CPU)
    )


class Processor(TorchProvider):
    """Of this machine only the processor."""

    def devices(self) -> Sequence[Device]:
        return super().devices()[:1]


@pytest.fixture
def devices(provider: FakeProvider) -> Devices:
    """This machine's processor and the fake devices."""
    return Devices([Processor(), provider])


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion 1 file of random weights, narrow enough to draw in no time."""
    torch.manual_seed(0)
    te = CLIPTextConfig(49408, 77, hidden_size=64, intermediate_size=128, num_layers=2, num_heads=1)
    nets = {
        "cond_stage_model.transformer.": CLIPTextModel(te),
        "model.diffusion_model.": UNetModel(UNetConfig(model_channels=32, context_dim=64)),
        "first_stage_model.": AutoencoderKL(KLConfig(ch=32)),
    }
    tensors = {
        prefix + name: tensor.half().contiguous()
        for prefix, net in nets.items()
        for name, tensor in net.state_dict().items()
    }
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_file(tensors, path)
    return path
