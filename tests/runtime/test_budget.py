"""How much memory a picture takes, and sizes that no machine could draw."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from darkroom.api.errors import RequestError
from darkroom.families.flux.model import Flux, FluxNetConfig
from darkroom.families.qwen_image.model import QwenImageTransformer, QwenImageTransformerConfig
from darkroom.nets.flux_blocks import StreamsConfig
from darkroom.nets.unet import UNetConfig, UNetModel
from darkroom.nets.vae.kl import AutoencoderKL, KLConfig
from darkroom.runtime.budget import (
    TRANSFORMER_CHANNELS,
    blocks_to_stream,
    check_size,
    estimate_activation_bytes,
    evenly,
    format_bytes,
    resident_bytes,
)


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


def flash_attention(q: Tensor, *_: object, **__: object) -> Tensor:
    """Takes no memory but its output's, whose heads lie side by side."""
    return torch.empty_like(q.transpose(1, 2).contiguous()).transpose(1, 2)


@torch.no_grad()
@pytest.mark.parametrize("name", ["flux", "qwen_image"])
def test_estimate_is_about_what_transformers_take(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", flash_attention)
    batch = 1 if name == "flux" else 2
    with torch.device("meta"):
        x, t = torch.empty(batch, 16, 128, 128), torch.empty(batch)
        if name == "flux":
            net: nn.Module = Flux(FluxNetConfig(StreamsConfig(depth=1, depth_single=1)))
            args = (x, t, torch.empty(batch, 512, 4096), torch.empty(batch, 768), t)
        else:
            net = QwenImageTransformer(QwenImageTransformerConfig(num_layers=1))
            args = (x, t, torch.empty(batch, 256, 3584))
    with PeakMemory(net) as memory:
        net(*args)
    estimate = estimate_activation_bytes(
        1024, 1024, itemsize=4, batch=batch, decoder_channels=0, unet_channels=TRANSFORMER_CHANNELS
    )
    assert 0.75 * memory.peak < estimate < 1.6 * memory.peak


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


SIZES = [680] * 19 + [283] * 38
"""Megabytes of Flux's blocks."""


def test_blocks_that_fit_all_stay() -> None:
    assert blocks_to_stream(SIZES, sum(SIZES)) == ()


@pytest.mark.parametrize("share", [0.2, 0.5, 0.65, 0.8, 0.95])
def test_blocks_that_stay_fit_with_the_buffers_and_leave_little_room(share: float) -> None:
    room = int(share * sum(SIZES))
    streamed = blocks_to_stream(SIZES, room)
    assert room - 2 * 680 < resident_bytes(SIZES, streamed) <= room


def test_what_is_brought_is_spread_over_the_calls() -> None:
    streamed = blocks_to_stream(SIZES, int(0.65 * sum(SIZES)))
    halves = [sum(SIZES[i] for i in streamed if (i < 28) is first) for first in (True, False)]
    assert 0.7 < halves[0] / halves[1] < 1.4
    alike = blocks_to_stream([100] * 40, 3000)
    assert max(b - a for a, b in pairwise(alike)) <= 4


def test_no_room_for_any_block_brings_them_all() -> None:
    assert blocks_to_stream(SIZES, 0) == tuple(range(57))
    assert resident_bytes(SIZES, range(57)) == 2 * 680


@pytest.mark.parametrize(
    ("count", "staying", "moving"),
    [(8, 8, ()), (8, 99, ()), (8, 0, tuple(range(8))), (8, 4, (1, 3, 5, 7)), (9, 6, (2, 5, 8))],
)
def test_a_number_of_blocks_stays(count: int, staying: int, moving: tuple[int, ...]) -> None:
    assert evenly(count, staying) == moving


def test_two_blocks_less_gain_nothing_over_the_buffers() -> None:
    assert evenly(8, 6) == ()
    assert blocks_to_stream([10, 10, 10], 29) == (0, 1, 2)
