"""Blocks that come to a CUDA card one by one."""

from __future__ import annotations

import pytest
import torch
from tests.runtime.streaming import NETWORKS, flux, weights_of
from torch import Tensor, nn

from darkroom.quant.packed import PackedTensor

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("params_backend", ["cpu", "disk", ""])
@pytest.mark.parametrize("name", NETWORKS)
def test_output_is_the_same_on_a_card(stream, name, params_backend) -> None:
    build, run = NETWORKS[name]
    with torch.inference_mode():
        with stream(build, "cuda0", "", staying=99).resident() as net:
            expected = run(net, "cuda").clone()
        component = stream(build, "cuda0", params_backend, staying=2)
        for _ in range(2):
            with component.resident() as net:
                for _ in range(5):
                    # Products of one input are one or several, as the places of their weights allow.
                    torch.testing.assert_close(run(net, "cuda"), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("params_backend", ["cpu", "disk", ""])
def test_packed_blocks_come_to_a_card(stream, params_backend) -> None:
    """Some of them unpacked ahead of their turn, which must not touch those that come and go."""
    weights: dict[str, Tensor | PackedTensor] = {
        name: PackedTensor.encode(tensor, "q8_0") if tensor.ndim == 2 and tensor.shape[1] == 64 else tensor
        for name, tensor in weights_of(flux).items()
    }
    dtype = torch.bfloat16
    with torch.inference_mode():
        with stream(flux, "cuda0", "", staying=99, weights=weights, dtype=dtype).resident() as net:
            expected = call_flux_in(net, dtype).clone()
        component = stream(flux, "cuda0", params_backend, staying=4, weights=weights, dtype=dtype)
        for _ in range(2):
            with component.resident() as net:
                for _ in range(5):
                    difference = (call_flux_in(net, dtype) - expected).float().norm()
                    assert difference < 3e-2 * expected.float().norm()


def call_flux_in(net: nn.Module, dtype: torch.dtype) -> Tensor:
    def cast_(*args: Tensor) -> list[Tensor]:
        return [arg.to("cuda", dtype) for arg in args]

    x, context, vector = cast_(*(torch.linspace(-1, 1, n) for n in (64, 5 * 32, 24)))
    one = torch.ones(1, device="cuda")
    out: Tensor = net(x.view(1, 4, 4, 4), one / 2, context.view(1, 5, 32), vector[None], one)
    return out


class Wide(nn.Module):
    """Blocks of 64 MB, each much faster to compute than to bring."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4096, 4096), nn.Tanh()) for _ in range(8))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.parametrize("params_backend", ["cpu", "disk", ""])
def test_memory_of_a_card_holds_what_stays_and_two_blocks(stream, params_backend) -> None:
    component = stream(Wide, "cuda0", params_backend, staying=2)
    _, blocks = component.weigh()
    x = torch.linspace(-1, 1, 4096, device="cuda")[None]
    weights = weights_of(Wide)
    resident = Wide().cuda()
    resident.load_state_dict(weights)
    with torch.inference_mode():
        expected = resident(x)
        del resident
        for use in range(2):
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            with component.resident() as net:
                if params_backend != "disk":
                    assert net.blocks[0][0].weight.is_cuda
                    assert all(block._memory.is_pinned() for block in component._stream._blocks)
                for _ in range(5):
                    torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)
            stays = 2 * blocks[0].nbytes if params_backend == "" else 0
            new = stays if use == 0 else 0
            assert abs(torch.cuda.memory_allocated() - before - new) < 2**20
            room = (4 if params_backend or use == 0 else 2) * blocks[0].nbytes
            assert torch.cuda.max_memory_allocated() - before < room + 2**25
