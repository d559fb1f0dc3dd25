"""Fills a network that was built on the meta device with the tensors of a source, one at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn

from darkroom.api.errors import CheckpointError
from darkroom.quant.packed import PackedTensor
from darkroom.weights.index import TensorIndex
from darkroom.weights.source import TensorSource

CHUNK = 1 << 18
"""Elements converted at a time."""

NOT_OF_A_NETWORK = re.compile(
    r"(^|\.)("
    r"position_ids|logit_scale|logit_bias"  # CLIP
    r"|betas|logvar|alphas_cumprod\w*|sqrt_\w+|log_one_minus_\w+|posterior_\w+"  # the training's schedule
    r"|num_updates|decay"  # of the moving average
    r")$"
    r"|^(model_ema|loss|visual|vision_model|visual_projection|text_projection)(\.|$)"
)
"""Tensors that published checkpoints carry for training, or for the other half of CLIP."""


def bind_weights(
    net: nn.Module,
    source: TensorSource,
    *,
    device: torch.device,
    dtype: torch.dtype,
    subject: str,
    on_bytes: Callable[[int], None] | None = None,
) -> None:
    """Sets every parameter and buffer of `net` from the tensor of the same name.

    Floats become `dtype` on `device`; convolutions are stored channels last, and weights of a module that
    has a `memory_order` with their axes in that order, outermost first. One that is so already
    is used as it lies in the file; of any other, the file's memory is given back once it is converted.
    on_bytes hears the size in the file of each tensor done.

    Raises CheckpointError, with `subject` in front, unless both sides agree on names and shapes.
    """
    _check(net, source.index, subject)
    expected = _expected(net)
    for name in [name for name in source.index if name in expected]:  # in the file's order
        raw = source.read(name)
        owner, _, attribute = name.rpartition(".")
        module = net.get_submodule(owner)
        tensor = _converted(raw, device, dtype, _memory_order(module, len(raw.shape)))
        is_parameter = isinstance(expected[name], nn.Parameter)
        setattr(module, attribute, nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor)
        if tensor is not raw:
            del raw
            source.release(name)
        if on_bytes:
            on_bytes(source.index[name].nbytes)
    unfilled = [n for n, t in (*net.named_parameters(), *net.named_buffers()) if t.is_meta]
    assert device.type == "meta" or not unfilled, f"{subject}: no checkpoint fills {unfilled[:3]}"


def _memory_order(module: nn.Module, dims: int) -> tuple[int, ...]:
    """The axes of a weight of `module` that has `dims` of them, outermost in memory first."""
    channels_last = (0, 2, 3, 1) if isinstance(module, nn.Conv2d) else ()
    order: tuple[int, ...] = getattr(module, "memory_order", channels_last)
    return order if len(order) == dims else tuple(range(dims))


def _converted(
    raw: Tensor | PackedTensor, device: torch.device, dtype: torch.dtype, order: tuple[int, ...]
) -> Tensor:
    """`raw` itself if nothing about it has to change. order: its axes, outermost in memory first."""
    if isinstance(raw, PackedTensor):
        scale = None if raw.scale is None else raw.scale.to(device)
        tensor = PackedTensor(raw.data.to(device), raw.format, raw.shape, scale).decode(dtype)
    else:
        tensor = raw.to(device)
    kind = dtype if tensor.is_floating_point() else tensor.dtype
    if tensor.dtype == kind and tensor.permute(order).is_contiguous():
        return tensor
    in_memory = torch.empty([tensor.shape[axis] for axis in order], dtype=kind, device=device)
    target = in_memory.permute([order.index(axis) for axis in range(tensor.dim())])
    if (
        tensor.dtype == torch.float16
        and kind == torch.bfloat16
        and tensor.device.type == "cpu"
        and tensor.dim()
    ):
        return _half_to_bfloat16(target, tensor)
    return target.copy_(tensor)


def _half_to_bfloat16(target: Tensor, tensor: Tensor) -> Tensor:
    """Copies through float32: exact, and four times as fast, since torch has vector code for both steps."""
    step = max(1, CHUNK * len(tensor) // max(tensor.numel(), 1))
    for start in range(0, len(tensor), step):
        target[start : start + step] = tensor[start : start + step].float().to(torch.bfloat16)
    return target


def _expected(net: nn.Module) -> dict[str, Tensor]:
    return net.state_dict(keep_vars=True)


def _check(net: nn.Module, index: TensorIndex, subject: str) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in _expected(net).items()}
    missing = [name for name in expected if name not in index]
    unexpected = [name for name in index if name not in expected and not NOT_OF_A_NETWORK.search(name)]
    wrong = [
        f"{name} is {list(index[name].shape)}, not {list(shape)}"
        for name, shape in expected.items()
        if name in index and index[name].shape != shape
    ]
    problems = [
        _listed("missing", missing),
        _listed("unexpected", unexpected),
        _listed("of another shape", wrong, separator="; "),
    ]
    if missing or unexpected or wrong:
        raise CheckpointError(
            f"{subject}: the file does not fit the network: {', '.join(filter(None, problems))}; "
            f"expected exactly the network's {len(expected)} tensors"
        )


def _listed(what: str, names: Collection[str], separator: str = ", ") -> str:
    if not names:
        return ""
    examples = separator.join(list(names)[:3])
    more = separator + "..." if len(names) > 3 else ""
    return f"{len(names)} {what} ({examples}{more})"
