"""Every network on several devices: no operation mixes them, and what comes out is the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from tests.conftest import FakeBackend, FakeProvider, Processor, fake
from tests.runtime.test_streamed_networks import NETWORKS
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from darkroom.api.config import EngineConfig
from darkroom.api.names import Module
from darkroom.quant.packed import PackedTensor
from darkroom.runtime.backends import Backend, BackendManager, Placement
from darkroom.runtime.component import Component
from darkroom.runtime.devices import Device, Devices
from darkroom.runtime.layer_split import Share, spread_blocks
from darkroom.runtime.row_split import RowSplit, split_rows
from darkroom.runtime.torch_backend import CpuBackend
from darkroom.weights.source import MemorySource

BLOCKS_IN_LISTS = [name for name in NETWORKS if name != "vae"]


class Card(FakeBackend):
    """One of two whose tensors must not be mixed: torch's meta device, and beside it the processor."""

    def __init__(self, info: Device) -> None:
        super().__init__(info, torch.device("meta" if info.name == "cuda1" else "cpu"))

    def take(self, tensor: Tensor) -> Tensor:
        """Numbers from the meta device are 0."""
        self.taken += 1
        if tensor.is_meta and self.device.type == "cpu":
            return torch.zeros(tensor.shape, dtype=tensor.dtype).as_strided(tensor.shape, tensor.stride())
        return tensor.to(self.device, copy=True)


class OneDeviceEach(TorchDispatchMode):
    """Refuses operations on tensors of several devices."""

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.dim()]
        is_copy = func._schema.name in ("aten::copy_", "aten::_to_copy")
        assert is_copy or len({leaf.device for leaf in leaves}) < 2, f"{func} mixes devices"
        return func(*args, **(kwargs or {}))


def weights_of(name: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {key: 0.1 * torch.randn_like(t) for key, t in NETWORKS[name][0]().state_dict().items()}


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return NETWORKS[name][0]().eval().requires_grad_(False)


@pytest.fixture
def manager() -> Iterator[BackendManager]:
    devices = Devices([FakeProvider(*map(fake, ("cuda0", "cuda1", "cuda2", "vulkan0")))])
    with BackendManager(Placement.parse(EngineConfig(backend="diffusion=cuda0&cuda1"), devices)) as opened:
        yield opened


def component(name: str, backends: Sequence[Backend], params: Backend | None) -> Component:
    main, *others = backends
    source = MemorySource(weights_of(name))
    return Component(
        name, lambda: on_meta(name), source, runtime=main, params=params, dtype=torch.float32, others=others
    )


def layers(made: Component, first: int = 1) -> None:
    """Every block from the `first` on is the second device's."""
    main, other = made.backends
    shares = [Share.of(other, made.weigh()[1][first:])]
    made.split(spread_blocks(made.build(), shares, main), made.source, shares)


@pytest.mark.parametrize("name", BLOCKS_IN_LISTS)
def test_a_layer_split_never_mixes_devices(name: str) -> None:
    main, other = Card(fake("cuda0")), Card(fake("cuda1"))
    made = component(name, (main, other), main)
    layers(made)
    with torch.inference_mode(), made.resident() as net, OneDeviceEach():
        out = NETWORKS[name][1](net)
    assert out.device.type == "cpu"
    assert {tensor.device.type for tensor in net.state_dict().values()} == {"cpu", "meta"}
    assert other.taken


def relative_error(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("params", ["here", "elsewhere", "disk"])
@pytest.mark.parametrize("name", BLOCKS_IN_LISTS)
def test_a_layer_split_gives_the_same(manager: BackendManager, name: str, params: str) -> None:
    cards = manager.spread(Module.DIFFUSION)
    home = {"here": cards[0], "elsewhere": cards[1], "disk": None}[params]
    whole, split = component(name, cards, cards[0]), component(name, cards, home)
    layers(split)
    assert split.is_split
    with torch.inference_mode(), whole.resident() as net:
        expected = NETWORKS[name][1](net)
        for _ in range(2):
            with split.resident() as parts:
                assert torch.equal(NETWORKS[name][1](parts), expected)


ROW_SPLITTABLE = [name for name in BLOCKS_IN_LISTS if name not in ("clip", "qwen")]


@pytest.mark.parametrize("name", ROW_SPLITTABLE)
def test_a_row_split_gives_the_same_to_rounding(manager: BackendManager, name: str) -> None:
    cards = manager.spread(Module.DIFFUSION)
    whole, split = component(name, cards, cards[0]), component(name, cards, cards[0])
    before = split.weigh()[0]
    split.split(*split_rows(split.build, split.source, split.backends))
    split.load()
    with torch.inference_mode(), whole.resident() as net, split.resident() as parts:
        assert isinstance(parts, RowSplit)
        for _ in range(2):
            out, expected = NETWORKS[name][1](parts), NETWORKS[name][1](net)
            assert relative_error(out, expected) < 1e-5
    assert before < split.weigh()[0] < 2 * before


@pytest.fixture
def two_gpus() -> Iterator[Sequence[Backend]]:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    placement = Placement.parse(EngineConfig(backend="diffusion=cuda0&cuda1"), Devices.discover())
    with BackendManager(placement) as opened:
        yield opened.spread(Module.DIFFUSION)


def in_bf16(module: nn.Module, args: tuple[object, ...]) -> tuple[object, ...]:
    """Arguments as an engine would give them."""

    def cast(value: object) -> object:
        if isinstance(value, tuple):
            return tuple(map(cast, value))
        is_float = isinstance(value, Tensor) and value.is_floating_point()
        return value.bfloat16() if is_float else value  # type: ignore[attr-defined]

    return tuple(map(cast, args))


def on_cards(name: str, cards: Sequence[Backend], mode: str, home: str, format: str | None) -> Component:
    """One network in bf16; mode: how it is split, `none` for the main card alone."""
    main = cards[0]
    params = {"here": main, "cpu": CpuBackend(Processor().devices()[0], 1), "disk": None}[home]
    tensors: dict[str, Tensor | PackedTensor] = {
        key: PackedTensor.encode(tensor, format) if format and is_packable(tensor) else tensor
        for key, tensor in weights_of(name).items()
    }
    made = Component(
        name,
        lambda: on_meta(name),
        MemorySource(tensors),
        runtime=main,
        params=params,
        dtype=torch.bfloat16,
        keep_packed=format is not None,
        others=cards[1:],
    )
    if mode == "row":
        made.split(*split_rows(made.build, made.source, cards), is_recordable=True)
    else:
        count = len(made.weigh()[1])
        layers(made, first=1 if mode == "layer" else count)
    return made


def is_packable(tensor: Tensor) -> bool:
    return tensor.dim() == 2 and tensor.shape[1] % 32 == 0


LAYER_CASES = [("here", None), ("here", "q8_0"), ("cpu", None), ("disk", None)]
ROW_CASES = [("here", None), ("here", "q8_0"), ("cpu", None)]


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("name", "mode", "home", "format"),
    [
        *((name, "layer", *case) for name in BLOCKS_IN_LISTS for case in LAYER_CASES),
        *((name, "row", *case) for name in ROW_SPLITTABLE for case in ROW_CASES),
    ],
)
def test_two_cards_give_the_same(
    two_gpus: Sequence[Backend], name: str, mode: str, home: str, format: str | None
) -> None:
    one, two = on_cards(name, two_gpus, "none", "here", format), on_cards(name, two_gpus, mode, home, format)
    with torch.inference_mode(), one.resident() as net, two.resident() as parts:
        for module in (net, parts):
            module.register_forward_pre_hook(in_bf16)
        for _ in range(3):
            out, expected = NETWORKS[name][1](parts), NETWORKS[name][1](net)
            assert out.device == expected.device == two_gpus[0].device
            assert relative_error(out.float(), expected.float()) < 2e-2
        assert (mode == "row") == bool(getattr(parts, "_recordings", None)), "only rows are one graph"
    one.close()
    two.close()
