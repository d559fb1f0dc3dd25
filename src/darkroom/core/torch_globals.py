"""The names that a torch checkpoint's pickle may use, and the descriptions that they stand for; no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

Item: TypeAlias = Any
"""Whatever a pickle may hold."""

STORAGES = {
    "DoubleStorage": "f64",
    "FloatStorage": "f32",
    "HalfStorage": "f16",
    "BFloat16Storage": "bf16",
    "LongStorage": "i64",
    "IntStorage": "i32",
    "ShortStorage": "i16",
    "CharStorage": "i8",
    "ByteStorage": "u8",
    "BoolStorage": "bool",
    "UntypedStorage": "u8",
}

TORCH_TYPES = {
    "float64": "f64",
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
    "float8_e4m3fn": "f8_e4m3",
    "float8_e5m2": "f8_e5m2",
    "int64": "i64",
    "int32": "i32",
    "int16": "i16",
    "int8": "i8",
    "uint8": "u8",
    "bool": "bool",
}

MAX_DIMS = 8
MAX_DEPTH = 8


@dataclass(frozen=True)
class Global:
    """The name of a class or function; never the thing itself."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True)
class Inert:
    """Where an object would be that is no tensor, such as a training callback's state. It is never made."""

    kind: Global


@dataclass(frozen=True)
class Storage:
    """A run of numbers in the file. numel: of `dtype`. offset: elements to skip, for legacy views."""

    key: str
    dtype: str
    numel: int
    offset: int = 0


@dataclass(frozen=True)
class TensorRef:
    """A tensor over a storage, in elements of `dtype`."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


PARAMETER_DICT = Global("torch.nn.modules.container", "ParameterDict")

INERT = {
    Global("numpy", "dtype"),
    Global("numpy.core.multiarray", "scalar"),
    Global("numpy._core.multiarray", "scalar"),
    Global("numpy.core.multiarray", "_reconstruct"),
    Global("numpy._core.multiarray", "_reconstruct"),
    Global("numpy", "ndarray"),
    Global("_codecs", "encode"),
    Global("__builtin__", "set"),
    Global("builtins", "set"),
    Global("torch", "device"),
    Global("torch.nn.parameter", "Parameter"),
    Global("torch.storage", "TypedStorage"),
    Global("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
}
"""What published Stable Diffusion checkpoints and embeddings carry besides tensors; kept as placeholders."""

KEYS = (str, int, float, bytes, Inert, Global, type(None))
"""What may be a dict's key. Nested tuples may not: hashing them can take forever."""


def _rebuild_tensor(storage: Storage, offset: int, shape: Item, stride: Item, *rest: Item) -> TensorRef:
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    dtype = storage.dtype
    if len(rest) >= 3 and isinstance(rest[2], Global):  # _rebuild_tensor_v3 over an untyped storage
        dtype = TORCH_TYPES[rest[2].name]
    numbers = (offset, *shape, *stride)
    if any(type(n) is not int or n < 0 for n in numbers) or not len(shape) == len(stride) <= MAX_DIMS:
        raise ValueError("a tensor of no possible shape")
    return TensorRef(storage, dtype, offset, tuple(shape), tuple(stride))


def _rebuild_parameter(data: Item, *rest: Item) -> Item:
    return data


def _ordered_dict(items: Item = ()) -> dict[Item, Item]:
    return {key: value for key, value in items if isinstance(key, KEYS)}


def _default_dict(factory: Item = None, items: Item = ()) -> dict[Item, Item]:
    return _ordered_dict(items)


def _size(sizes: Item = ()) -> tuple[Item, ...]:
    return tuple(sizes)


REBUILD: dict[Any, Callable[..., Item]] = {
    Global("collections", "OrderedDict"): _ordered_dict,
    Global("collections", "defaultdict"): _default_dict,
    Global("torch", "Size"): _size,
    Global("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    Global("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    Global("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor,
    Global("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    Global("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
}
"""The only calls a pickle may ask for; each makes a description."""


def is_known(name: Global) -> bool:
    """Whether checkpoints may name it."""
    if name in REBUILD or name in INERT or name == PARAMETER_DICT:
        return True
    return name.module in ("torch", "torch.storage") and (name.name in STORAGES or name.name in TORCH_TYPES)


def named_tensors(unpickled: object) -> dict[str, TensorRef]:
    """The tensors in nested dicts under dotted names; a `state_dict` at the top stands for the whole.

    A file that is one tensor calls it `tensor`.
    """
    if isinstance(unpickled, dict) and isinstance(unpickled.get("state_dict"), dict):
        unpickled = unpickled["state_dict"]
    found: dict[str, TensorRef] = {}
    seen: set[int] = set()

    def walk(value: object, path: str, depth: int) -> None:
        if isinstance(value, TensorRef):
            found[path or "tensor"] = value
        if not isinstance(value, dict) or id(value) in seen or depth > MAX_DEPTH:
            return
        seen.add(id(value))  # a pickle may hold one dict many times, or a dict that holds itself
        for key, item in value.items():
            if isinstance(key, str):
                walk(item, f"{path}.{key}" if path else key, depth + 1)

    walk(unpickled, "", 0)
    return found
