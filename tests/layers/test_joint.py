"""Joined projections: the same numbers from one product, and back to many when a weight is replaced."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from darkroom.layers.joint import join_weights, project
from darkroom.layers.linear import Linear


class Pair(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.a = Linear(8, 4, bias=bias)
        self.b = Linear(8, 6, bias=bias)

    def joint_projections(self) -> Sequence[Sequence[nn.Module]]:
        return ((self.a, self.b),)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return project(x, (self.a, self.b))


def shares_memory(outputs: tuple[Tensor, ...]) -> bool:
    return len({y.untyped_storage().data_ptr() for y in outputs}) == 1


@torch.no_grad()
def test_joined_is_one_product_with_the_same_numbers() -> None:
    for bias in (False, True):
        net, x = Pair(bias), torch.randn(3, 8)
        before, names = net(x), {name: tensor.clone() for name, tensor in net.state_dict().items()}
        assert not shares_memory(before)
        join_weights(net)
        after = net(x)
        assert shares_memory(after)
        assert [y.shape for y in after] == [(3, 4), (3, 6)]
        for y, reference in zip(after, before, strict=True):
            torch.testing.assert_close(y, reference)
        for name, tensor in net.state_dict().items():
            assert torch.equal(tensor, names[name])


@torch.no_grad()
def test_a_replaced_weight_parts_them() -> None:
    net, x = Pair(True), torch.randn(3, 8)
    join_weights(net)
    net.b.weight = nn.Parameter(torch.randn(6, 8))
    outputs = net(x)
    assert not shares_memory(outputs)
    torch.testing.assert_close(outputs[1], nn.functional.linear(x, net.b.weight, net.b.bias))


def test_gradients_reach_every_weight() -> None:
    net = Pair(True)
    join_weights(net)
    sum(y.sum() for y in net(torch.randn(3, 8))).backward()
    assert net.a.weight.grad is not None
    assert net.b.weight.grad is not None


@torch.no_grad()
def test_modules_that_are_left_out_stay_as_they_are() -> None:
    nets, x = nn.ModuleList((Pair(True), Pair(True))), torch.randn(3, 8)
    join_weights(nets, without=[nets[1]])
    assert shares_memory(nets[0](x))
    assert not shares_memory(nets[1](x))
