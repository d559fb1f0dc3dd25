"""How much memory a picture takes, and sizes that no machine could draw."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from darkroom.api.errors import RequestError
from darkroom.nets.unet import UNetConfig, UNetModel
from darkroom.nets.vae.kl import AutoencoderKL, KLConfig
from darkroom.runtime.budget import check_size, estimate_activation_bytes, format_bytes


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of all tensors made in the block that live together, views of weights aside."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.peak = 0
        self._live = {weight.untyped_storage()._cdata: 0 for weight in net.parameters()}

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._live:
                    self._live[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self._live.pop, storage._cdata)
        self.peak = max(self.peak, sum(self._live.values()))
        return out


@torch.inference_mode()
def test_estimate_is_not_above_what_the_decoder_takes() -> None:
    vae = AutoencoderKL(KLConfig(ch=32)).eval()
    with PeakMemory(vae) as memory:
        vae.decode(torch.zeros(1, 4, 16, 16))
    estimate = estimate_activation_bytes(128, 128, itemsize=4, decoder_channels=64, unet_channels=32)
    assert 0.75 * memory.peak < estimate <= memory.peak


@torch.inference_mode()
def test_estimate_is_not_above_what_the_unet_takes() -> None:
    net = UNetModel(UNetConfig(model_channels=64, context_dim=64)).eval()
    with PeakMemory(net) as memory:
        net(torch.zeros(2, 4, 32, 32), torch.zeros(2), torch.zeros(2, 77, 64))
    estimate = estimate_activation_bytes(256, 256, itemsize=4, batch=2, decoder_channels=1, unet_channels=64)
    assert 0.75 * memory.peak < estimate <= memory.peak


def test_estimate_grows_with_the_area() -> None:
    small = estimate_activation_bytes(512, 512, itemsize=2)
    assert estimate_activation_bytes(1024, 512, itemsize=2) == 2 * small
    assert estimate_activation_bytes(512, 512, itemsize=4) == 2 * small


def test_ordinary_sizes_pass() -> None:
    check_size(1024, 1024, estimate_activation_bytes(1024, 1024, itemsize=4), 8 * 10**9, "cpu")


def test_absurd_size_is_refused_with_the_memory_it_needs() -> None:
    needed = estimate_activation_bytes(100_000, 100_000, itemsize=2)
    with pytest.raises(RequestError) as error:
        check_size(100_000, 100_000, needed, 24 * 10**9, "cuda0")
    assert str(error.value) == (
        "size: 100000x100000 needs about 12.8 TB of memory, cuda0 has 24.0 GB; "
        "a smaller --width or --height fits"
    )


def test_unknown_memory_refuses_nothing() -> None:
    check_size(100_000, 100_000, 10**15, 0, "metal")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1_700_000_000, "1.7 GB"), (2_345, "2.3 kB"), (5 * 10**15, "5000.0 TB")],
)
def test_bytes_for_people(count: int, text: str) -> None:
    assert format_bytes(count) == text
