"""Networks whose weights stay packed, with the kernels, against the same unpacked without them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from darkroom.families.base import on_meta
from darkroom.families.flux.model import Flux, FluxNetConfig
from darkroom.layers import kernels
from darkroom.nets.flux_blocks import StreamsConfig
from darkroom.nets.unet import UNetConfig, UNetModel
from darkroom.quant.packed import PackedTensor
from darkroom.weights.bind import bind_weights
from darkroom.weights.source import MemorySource

from .conftest import Place
from .test_networks import as_cublas

STREAMS = StreamsConfig(context_dim=64, hidden_size=64, head_size=32, mlp_size=256, depth=1, depth_single=1)
UNET = UNetConfig(
    model_channels=64, channel_mult=(1,), num_res_blocks=(1,), transformer_depth=(1,), context_dim=64
)


def flux(place: Place) -> tuple[Callable[[], nn.Module], tuple[Tensor, ...]]:
    t = torch.tensor([0.3], device=place.device)
    x, context, vector = place.randn(1, 16, 8, 8), place.randn(1, 7, 64), place.randn(1, 32)
    return lambda: Flux(FluxNetConfig(STREAMS, vector_dim=32)), (x.contiguous(), t, context, vector, t)


def unet(place: Place) -> tuple[Callable[[], nn.Module], tuple[Tensor, ...]]:
    t = torch.tensor([300.0], device=place.device)
    return lambda: UNetModel(UNET), (place.randn(1, 4, 8, 8), t, place.randn(1, 7, 64))


def random_weights(net: nn.Module) -> dict[str, Tensor | PackedTensor]:
    weights: dict[str, Tensor | PackedTensor] = {}
    for name, tensor in net.state_dict().items():
        values = torch.randn(tensor.shape) * 0.05 + float(tensor.ndim == 1)
        is_quantized = tensor.ndim == 2 and name.endswith(".weight")
        weights[name] = PackedTensor.encode(values, "q8_0") if is_quantized else values
    return weights


@pytest.mark.parametrize("network", [flux, unet])
def test_packed(
    place: Place,
    network: Callable[[Place], tuple[Callable[[], nn.Module], tuple[Tensor, ...]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    build, inputs = network(place)
    weights = random_weights(build())
    device = torch.device(place.device)
    if place.device == "cpu":  # where torch's GELU of a product is the exact one
        monkeypatch.setattr(torch, "_addmm_activation", as_cublas)

    def output(dtype: torch.dtype, use_kernels: bool) -> Tensor:
        monkeypatch.setattr(kernels, "usable", lambda x: use_kernels)
        monkeypatch.setattr(kernels, "usable_on", lambda device: use_kernels)
        net = on_meta(build)().eval().requires_grad_(False)
        source = MemorySource(weights)
        bind_weights(net, source, device=device, dtype=dtype, subject="net", keep_packed=use_kernels)
        given = (x if x.ndim == 1 else x.to(dtype) for x in inputs)
        return net(*given).float()  # type: ignore[no-any-return]

    reference = output(torch.float32, use_kernels=False)
    result = output(place.dtype, use_kernels=True)
    assert result.isfinite().all()
    assert (result - reference).norm() / reference.norm() < 3 * place.tolerance
