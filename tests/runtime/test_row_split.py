"""Networks of which every device has a part: the weights, packed ones too, and parts that fail."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import FakeBackend, fake
from torch import Tensor, nn

from darkroom.api.errors import CheckpointError
from darkroom.layers.linear import Linear
from darkroom.layers.packed_linear import PackedLinear
from darkroom.layers.parts import Parts
from darkroom.nets.te.qwen import QwenConfig, QwenTextModel
from darkroom.nets.te.stack import TextEncoders
from darkroom.quant.packed import PackedTensor
from darkroom.runtime.backends import Backend
from darkroom.runtime.component import Component
from darkroom.runtime.row_split import CannotSplit, Exchange, RowSplit, split_rows
from darkroom.weights.source import MemorySource

WIDTH, HIDDEN = 64, 96


class MLP(nn.Module):
    """Gate and value side by side in one projection, as GEGLU has them."""

    def __init__(self) -> None:
        super().__init__()
        self.up = Linear(WIDTH, 2 * HIDDEN)
        self.down = Linear(HIDDEN, WIDTH)

    def parts(self) -> Parts:
        return Parts({self.up: (HIDDEN, HIDDEN)}, {self.down: (HIDDEN,)})

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, dim=-1)
        out: Tensor = self.down(gate.sigmoid() * value, residual)
        return out


def build() -> nn.Module:
    with torch.device("meta"):
        return MLP().eval().requires_grad_(False)


def cards(count: int) -> list[Backend]:
    return [FakeBackend(fake(f"cuda{i}"), torch.device("cpu")) for i in range(count)]


@pytest.fixture
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn_like(tensor) for name, tensor in MLP().state_dict().items()}


def component(tensors: dict[str, Tensor | PackedTensor], backends: list[Backend]) -> Component:
    made = Component(
        "mlp",
        build,
        MemorySource(tensors),
        runtime=backends[0],
        params=backends[0],
        dtype=torch.float32,
        keep_packed=True,
        others=backends[1:],
    )
    if len(backends) > 1:
        made.split(*split_rows(made.build, made.source, backends))
    return made


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("format", [None, "q8_0", "f8_e4m3"])
@torch.inference_mode()
def test_any_number_of_devices_gives_the_same(
    weights: dict[str, Tensor], count: int, format: str | None
) -> None:
    tensors: dict[str, Tensor | PackedTensor] = {**weights}
    for name in ("up.weight", "down.weight"):
        if format == "q8_0":
            tensors[name] = PackedTensor.encode(weights[name], format)
        elif format:
            data = weights[name].to(torch.float8_e4m3fn).view(-1).view(torch.uint8)
            scale = torch.linspace(1, 2, len(weights[name]))
            tensors[name] = PackedTensor(data, format, tuple(weights[name].shape), scale)
    x, residual = torch.randn(2, 5, WIDTH), torch.randn(2, 5, WIDTH)
    with (
        component(tensors, cards(1)).resident() as whole,
        component(tensors, cards(count)).resident() as parts,
    ):
        assert isinstance(parts, RowSplit)
        torch.testing.assert_close(parts(x, residual=residual), whole(x, residual), atol=1e-4, rtol=1e-4)
        if format:
            up, down = (parts[1].get_submodule(name) for name in ("up", "down.part"))
            assert isinstance(up, PackedLinear)
            # A third of 96 columns is a block of q8_0, a half and a quarter are not.
            assert isinstance(down, PackedLinear) == (format != "q8_0" or count == 3)


@torch.inference_mode()
def test_an_error_in_one_copy_ends_the_call_and_not_the_network(weights: dict[str, Tensor]) -> None:
    made = component({**weights}, cards(2))
    x = torch.randn(1, 2, WIDTH)
    with made.resident() as parts:
        assert isinstance(parts, RowSplit)
        expected = parts(x, x)
        for copy in parts:
            hook = copy.get_submodule("up").register_forward_pre_hook(fails)
            with pytest.raises(ValueError, match="this one"):
                parts(x, x)
            hook.remove()
            assert torch.equal(parts(x, x), expected)


def fails(module: nn.Module, args: object) -> None:
    raise ValueError("this one")


@torch.inference_mode()
def test_text_encoders_are_split_one_by_one(weights: dict[str, Tensor]) -> None:
    backends = cards(2)

    def stack() -> nn.Module:
        with torch.device("meta"):
            return TextEncoders(clip_l=Linear(WIDTH, WIDTH), t5xxl=MLP()).eval().requires_grad_(False)

    tensors = {f"t5xxl.{name}": tensor for name, tensor in weights.items()}
    tensors |= {"clip_l.weight": torch.eye(WIDTH), "clip_l.bias": torch.zeros(WIDTH)}
    net, source, shares = split_rows(stack, MemorySource(tensors), backends)
    assert isinstance(net.t5xxl, RowSplit)
    assert isinstance(net.clip_l, Linear)
    assert [(share.backend, share.modules) for share in shares] == [(backends[1], ("t5xxl.1",))]
    assert source.under("t5xxl.1.").index.shapes() == {
        "up.weight": (HIDDEN, WIDTH),
        "up.bias": (HIDDEN,),
        "down.part.weight": (WIDTH, HIDDEN // 2),
    }


def test_a_tensor_that_no_copy_has_is_told_by_its_name(weights: dict[str, Tensor]) -> None:
    made = component({**weights, "sideways.weight": torch.ones(1)}, cards(2))
    with pytest.raises(CheckpointError, match=r"1 unexpected \(sideways\.weight\)"):
        made.load()


def test_heads_of_keys_are_shared_out_as_those_of_queries_are() -> None:
    def model() -> nn.Module:
        with torch.device("meta"):
            return QwenTextModel(QwenConfig(50, 32, 64, 4, 4, 2, 16, True, False))

    torch.manual_seed(0)
    source = MemorySource({name: 0.1 * torch.randn(t.shape) for name, t in model().state_dict().items()})
    outputs = []
    for backends in (cards(1), cards(2)):
        options = {"runtime": backends[0], "params": backends[0], "dtype": torch.float32}
        made = Component("te", model, source, **options, others=backends[1:])
        if len(backends) > 1:
            made.split(*split_rows(model, source, backends))
        with torch.inference_mode(), made.resident() as net:
            outputs.append(net(torch.arange(8)[None], layer=-2))
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)


def test_attributes_are_the_first_copy_s() -> None:
    backends, copies = cards(2), [build(), build()]
    split = RowSplit(copies, backends, Exchange(backends))
    assert split.up is copies[0].up
    with pytest.raises(AttributeError):
        _ = split.sideways


@pytest.mark.parametrize(
    ("network", "backends", "reason"),
    [
        (build, cards(5), "a width of 96 cannot be shared by 5 devices"),
        (lambda: Linear(2, 2), cards(2), "no row-splittable transformer block weights found"),
        (
            build,
            [*cards(1), FakeBackend(fake("vulkan0"), torch.device("cpu"))],
            "devices span different backend registries",
        ),
    ],
)
def test_what_cannot_be_split(network, backends: list[Backend], reason: str) -> None:
    with pytest.raises(CannotSplit) as error:
        split_rows(network, MemorySource({}), backends)
    assert str(error.value) == reason
