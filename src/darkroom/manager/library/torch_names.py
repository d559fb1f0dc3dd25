"""What torch's pickles name, the descriptions that it stands for, and what calls of it make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

Item: TypeAlias = Any
"""Whatever a pickle may hold."""

STORAGES = {
    "DoubleStorage": "f64", "FloatStorage": "f32", "HalfStorage": "f16", "BFloat16Storage": "bf16",
    "LongStorage": "i64", "IntStorage": "i32", "ShortStorage": "i16", "CharStorage": "i8",
    "ByteStorage": "u8", "BoolStorage": "bool", "UntypedStorage": "u8", "TypedStorage": "u8",
}  # fmt: skip

TYPES = {
    "float64": "f64", "float32": "f32", "float16": "f16", "bfloat16": "bf16", "float8_e4m3fn": "f8_e4m3",
    "float8_e5m2": "f8_e5m2", "int64": "i64", "int32": "i32", "int16": "i16", "int8": "i8", "uint8": "u8",
    "bool": "bool",
}  # fmt: skip

HARMLESS = {
    "collections.OrderedDict", "collections.defaultdict", "torch.Size", "torch.device",
    "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state",
    "torch.nn.modules.container.ParameterDict", "torch.nn.parameter.Parameter",
    "numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct", "numpy.ndarray",
    "_codecs.encode", "__builtin__.set", "builtins.set",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    *(f"torch.{name}" for name in (*STORAGES, *TYPES)),
    *(f"torch.storage.{name}" for name in STORAGES),
}  # fmt: skip
"""What published checkpoints name. None of it runs anything that the file chooses."""

MAX_DIMS = 8
MAX_DEPTH = 8
KEYS = (str, int, float, bytes, type(None))


@dataclass(frozen=True)
class Global:
    """The name of a class or a function."""

    name: str


@dataclass(frozen=True)
class Storage:
    """A run of numbers in the file."""

    key: str
    dtype: str
    numel: int


@dataclass(frozen=True)
class TensorRef:
    """A tensor over a storage."""

    dtype: str
    shape: tuple[int, ...]
    storage: Storage


class Unknown:
    """What a pickle would make that is of no interest here."""


def plain(text: str) -> str:
    """Text of a file, fit to be shown."""
    return "".join(char if char.isprintable() else "?" for char in text[:120])


def shown(arguments: Item) -> str:
    """Arguments of a call for people."""
    texts = arguments if isinstance(arguments, tuple) else (arguments,)
    return ", ".join(
        plain(repr(text))[:60] if isinstance(text, (str, bytes, int, float)) else "..." for text in texts
    )


def made(name: str, arguments: Item) -> Item:
    """What a call makes, if it is a description of a tensor or a dict."""
    if not isinstance(arguments, tuple):
        return Unknown()
    if name.startswith("torch._utils._rebuild_tensor"):
        return _tensor(*arguments)
    if name.startswith("torch._utils._rebuild_parameter"):
        return arguments[0] if arguments else Unknown()
    if name.endswith((".OrderedDict", ".defaultdict")):
        items = arguments[0] if arguments and isinstance(arguments[0], list) else []
        pairs = (item for item in items if isinstance(item, (tuple, list)) and len(item) == 2)
        return {key: value for key, value in pairs if isinstance(key, KEYS)}
    if name == "torch.Size" and arguments:
        return tuple(arguments[0])
    return Unknown()


def _tensor(storage: Item, offset: Item, shape: Item, stride: Item, *rest: Item) -> Item:
    if not isinstance(storage, Storage) or not isinstance(shape, tuple) or len(shape) > MAX_DIMS:
        raise ValueError("a tensor without a storage")
    if any(type(size) is not int or size < 0 for size in shape):
        raise ValueError("a tensor of no possible shape")
    dtype = storage.dtype
    if len(rest) >= 3 and isinstance(rest[2], Global):  # _rebuild_tensor_v3 over an untyped storage
        dtype = TYPES.get(rest[2].name.rpartition(".")[2], dtype)
    return TensorRef(dtype, shape, storage)


def named_tensors(value: Item) -> dict[str, TensorRef]:
    """The tensors in nested dicts under dotted names; a `state_dict` at the top stands for the whole."""
    if isinstance(value, dict) and isinstance(value.get("state_dict"), dict):
        value = value["state_dict"]
    found: dict[str, TensorRef] = {}
    seen: set[int] = set()

    def walk(item: Item, path: str, depth: int) -> None:
        if isinstance(item, TensorRef):
            found[path or "tensor"] = item
        if not isinstance(item, dict) or id(item) in seen or depth > MAX_DEPTH:
            return
        seen.add(id(item))  # a pickle may hold one dict many times, or a dict that holds itself
        for key, inner in item.items():
            if isinstance(key, str):
                walk(inner, f"{path}.{key}" if path else key, depth + 1)

    walk(value, "", 0)
    return found
