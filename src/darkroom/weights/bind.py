"""Fills a network that was built on the meta device with the tensors of a source, one at a time."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

from darkroom.api.errors import CheckpointError
from darkroom.layers.packed_linear import PackedModule, packed_form
from darkroom.layers.unpack import unpack
from darkroom.quant import fp8
from darkroom.quant.gguf import BLOCK_TYPES
from darkroom.quant.packed import PackedTensor
from darkroom.weights.index import TensorIndex, TensorInfo
from darkroom.weights.source import TensorSource

CHUNK = 1 << 18
"""Elements converted at a time."""

NOT_OF_A_NETWORK = re.compile(
    r"(^|\.)("
    r"position_ids|logit_scale|logit_bias"  # CLIP
    r"|betas|logvar|alphas_cumprod\w*|sqrt_\w+|log_one_minus_\w+|posterior_\w+"  # the training's schedule
    r"|num_updates|decay"  # of the moving average
    r"|__index_timestep_zero__"  # ComfyUI's mark of Qwen-Image-Edit-2511
    r")$"
    r"|^(model_ema|loss|visual|vision_model|visual_projection|text_projection)(\.|$)"
)
"""Tensors that published checkpoints carry for training, for the other half of CLIP, or as marks."""


def bind_weights(
    net: nn.Module,
    source: TensorSource,
    *,
    device: torch.device,
    dtype: torch.dtype,
    subject: str,
    keep_packed: bool = False,
    only: Collection[str] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> None:
    """Sets every parameter and buffer of `net` from the tensor of the same name.

    Floats become `dtype` on `device`; convolutions are stored channels last, and weights of a module that
    has a `memory_order` with their axes in that order, outermost first. One that is so already
    is used as it lies in the file; of any other, the file's memory is given back once it is converted.
    keep_packed: leave quantized weights as they are where a module of layers.packed_linear can take the place
    of theirs. only: fill no other tensors than these; both sides are compared whole. on_bytes hears the size
    in the file of each tensor done.

    Raises CheckpointError, with `subject` in front, unless both sides agree on names and shapes, and for
    quantized weights whose scales are no numbers.
    """
    _check(net, source.index, subject)
    expected = {name for name in _expected(net) if only is None or name in only}
    damaged: dict[str, Tensor] = {}
    for name in [name for name in source.index if name in expected]:  # in the file's order
        raw = source.read(name)
        here = raw.to(device)
        if isinstance(here, PackedTensor):
            damaged[name] = here.is_damaged()
        if not _put(net, name, here, device, dtype, keep_packed) or here is not raw:
            del raw, here
            source.release(name)
        if on_bytes:
            on_bytes(source.index[name].nbytes)
    if device.type != "meta":
        _check_scales(damaged, subject)
    tensors = (*net.named_parameters(), *net.named_buffers())
    unfilled = [name for name, tensor in tensors if tensor.is_meta and (only is None or name in only)]
    assert device.type == "meta" or not unfilled, f"{subject}: no checkpoint fills {unfilled[:3]}"


def bound_bytes(
    net: nn.Module, index: TensorIndex, *, dtype: torch.dtype, keep_packed: bool = False
) -> dict[str, int]:
    """What each tensor of `net` takes once `bind_weights` has filled it, by name; nothing is read for it."""
    return {
        name: index[name].nbytes
        if keep_packed and name in index and _stays_packed(net, index[name])
        else math.prod(shape) * dtype.itemsize
        for name, shape in _expected(net).items()
    }


def _stays_packed(net: nn.Module, info: TensorInfo) -> bool:
    owner, _, attribute = info.name.rpartition(".")
    if attribute != "weight" or not owner or not (info.dtype in fp8.DTYPES or info.dtype in BLOCK_TYPES):
        return False
    packed = PackedTensor(torch.empty(0, dtype=torch.uint8, device="meta"), info.dtype, info.shape)
    return packed_form(net.get_submodule(owner), packed) is not None


def _put(
    net: nn.Module,
    name: str,
    raw: Tensor | PackedTensor,
    device: torch.device,
    dtype: torch.dtype,
    keep_packed: bool,
) -> bool:
    """Whether what is now in its place is `raw` as it lies in the file."""
    owner, _, attribute = name.rpartition(".")
    module = net.get_submodule(owner)
    packed = _as_packed(raw) if keep_packed and owner and attribute == "weight" else None
    if packed and (form := packed_form(module, packed)):
        net.set_submodule(owner, form)
        moved = packed.to(device)
        form.hold(moved, dtype)
        return moved.data is packed.data
    tensor = _converted(raw, device, dtype, _memory_order(module, len(raw.shape)))
    is_parameter = isinstance(getattr(module, attribute), nn.Parameter)
    setattr(module, attribute, nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor)
    return tensor is raw


def _as_packed(raw: Tensor | PackedTensor) -> PackedTensor | None:
    if isinstance(raw, PackedTensor):
        return raw
    format = next((format for format, dtype in fp8.DTYPES.items() if dtype == raw.dtype), None)
    if format is None:
        return None
    return PackedTensor(raw.contiguous().view(-1).view(torch.uint8), format, tuple(raw.shape))


def _memory_order(module: nn.Module, dims: int) -> tuple[int, ...]:
    """The axes of a weight of `module` that has `dims` of them, outermost in memory first."""
    channels_last = (0, 2, 3, 1) if isinstance(module, nn.Conv2d) else ()
    order: tuple[int, ...] = getattr(module, "memory_order", channels_last)
    return order if len(order) == dims else tuple(range(dims))


def _converted(
    raw: Tensor | PackedTensor, device: torch.device, dtype: torch.dtype, order: tuple[int, ...]
) -> Tensor:
    """`raw` itself if nothing about it has to change. order: its axes, outermost in memory first."""
    tensor = unpack(raw.to(device), dtype) if isinstance(raw, PackedTensor) else raw.to(device)
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


def _expected(net: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all that a checkpoint fills."""
    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict(keep_vars=True).items()}
    packed = {name: module for name, module in net.named_modules() if isinstance(module, PackedModule)}
    return shapes | {f"{name}.weight": module.shape for name, module in packed.items()}


def _check(net: nn.Module, index: TensorIndex, subject: str) -> None:
    expected = _expected(net)
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


def _check_scales(damaged: Mapping[str, Tensor], subject: str) -> None:
    """damaged: for each quantized tensor, whether it is; asked together, so that a GPU is waited for once."""
    flags = torch.stack(list(damaged.values())).tolist() if damaged else []
    names = [name for name, is_damaged in zip(damaged, flags, strict=True) if is_damaged]
    if names:
        raise CheckpointError(
            f"{subject}: the file is damaged: {_listed('quantized with scales that are no numbers', names)}; "
            "download it again"
        )


def _listed(what: str, names: Collection[str], separator: str = ", ") -> str:
    if not names:
        return ""
    examples = separator.join(list(names)[:3])
    more = separator + "..." if len(names) > 3 else ""
    return f"{len(names)} {what} ({examples}{more})"
