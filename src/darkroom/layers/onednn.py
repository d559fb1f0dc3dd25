"""oneDNN's matrix products with what follows them fused in, for inference on processors.

They are the operations that torch.compile itself puts in place of linear layers. In bf16 the bias costs
torch's own `linear` a pass over the output; in float32 it goes through MKL, which on AMD reaches half of
oneDNN's speed (Zen 5: 92 against 205 GFLOP/s on a core) with the same error.

Overloads are named: where torch has to look for one, it prints every tensor into a message first.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

_DTYPES = (torch.bfloat16, torch.float32)


@functools.cache
def _is_built_in() -> bool:
    return bool(torch._C._has_mkldnn) and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def usable(x: Tensor) -> bool:
    """Whether these functions take x: bf16 or float32 in main memory, outside of autograd."""
    return (
        x.device.type == "cpu"
        and x.dtype in _DTYPES
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and _is_built_in()
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None = None) -> Tensor:
    """x W^T + bias + residual, rounded once.

    x: (..., D_in), weight: (D_out, D_in), bias: (D_out,), residual: (..., D_out)  ->  (..., D_out)
    """
    out: Tensor
    if residual is None:
        out = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
    else:
        out = torch.ops.mkldnn._linear_pointwise.binary(x, residual, weight, bias, "add")
    return out


def geglu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """value * gelu(gate) of one projection's two halves; neither half is written out before it is final.

    x: (..., D_in), weight: (2 D_out, D_in), bias: (2 D_out,)  ->  (..., D_out)
    """
    value_weight, gate_weight = weight.chunk(2)
    value_bias, gate_bias = bias.chunk(2)
    gate = torch.ops.mkldnn._linear_pointwise.default(x, gate_weight, gate_bias, "gelu", [], "none")
    out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, gate, value_weight, value_bias, "mul")
    return out
