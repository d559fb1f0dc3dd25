"""Reads pickles without running anything: what they name, what they would call, what tensors they describe.

A pickle is a program for a stack machine, and Python's own reader imports and calls what it names. Here a
global is two names, never an object; a call of one that no checkpoint needs is noted and not made.
Opcodes: Python's pickletools.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO

from darkroom.manager.library.limited import HeaderError
from darkroom.manager.library.torch_names import (
    HARMLESS,
    KEYS,
    STORAGES,
    Global,
    Item,
    Storage,
    Unknown,
    made,
    plain,
    shown,
)

MAX_OPCODES = 4_000_000
MAX_WANTED = 8


@dataclass
class Unpickled:
    """value: what it describes. wanted: what it names that no checkpoint needs, as it would call it."""

    value: Item = None
    wanted: list[str] = field(default_factory=list)
    storages: dict[str, Storage] = field(default_factory=dict)


MARK = object()


def read_pickle(file: IO[bytes]) -> Unpickled:
    """Reads one pickle from the file's place to its end mark.

    Raises HeaderError for a damaged one; what was named until then is told in the message.
    """
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if opcode.name == "STOP":
                machine.result.value = machine.stack.pop() if machine.stack else None
                return machine.result
            if count > MAX_OPCODES:
                raise HeaderError("its pickle goes on without an end")
            machine.step(opcode.name, argument)
    except HeaderError as err:
        raise HeaderError(f"{err}{machine.named_so_far()}") from err
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, EOFError, OverflowError) as err:
        raise HeaderError(f"its pickle is damaged{machine.named_so_far()}") from err
    except (MemoryError, RecursionError, UnicodeDecodeError) as err:
        raise HeaderError(f"its pickle is made to harm{machine.named_so_far()}") from err
    raise HeaderError(f"its pickle has no end; the file is truncated{machine.named_so_far()}")


def describe_wanted(wanted: list[str]) -> str:
    """For people: what a pickle would do."""
    return (
        f"its pickle would run code: it wants {', '.join(wanted[:MAX_WANTED])}, which no model needs; "
        "get the model as safetensors"
    )


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Item] = []
        self.memo: dict[int, Item] = {}
        self.result = Unpickled()

    def named_so_far(self) -> str:
        return f"; {describe_wanted(self.result.wanted)}" if self.result.wanted else ""

    def step(self, name: str, argument: Item) -> None:
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            self.stack.append(argument)
        elif operation := _OPERATIONS.get(name):
            operation(self)
        elif name in ("GLOBAL", "INST"):
            self.named(argument.replace(" ", "."), name == "INST")
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            self.stack.append(self.memo[int(argument)])
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[int(argument)] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name == "PERSID":
            self.stack.append(Unknown())
        elif name not in ("PROTO", "FRAME"):
            self.want(f"the opcode {name}")
            self.stack.append(Unknown())

    def want(self, what: str) -> None:
        if what not in self.result.wanted and len(self.result.wanted) < MAX_WANTED:
            self.result.wanted.append(what)

    def named(self, name: str, is_call: bool = False) -> None:
        if name not in HARMLESS:
            self.want(plain(name))
        if is_call:
            self.to_mark()
            self.stack.append(Unknown())
        else:
            self.stack.append(Global(name))

    def to_mark(self) -> list[Item]:
        at = len(self.stack) - 1
        while self.stack[at] is not MARK:
            at -= 1
            if at < 0:
                raise ValueError("no mark")
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        name = function.name if isinstance(function, Global) else ""
        if name and name not in HARMLESS:
            self.result.wanted = [wanted for wanted in self.result.wanted if wanted != plain(name)]
            self.want(f"{plain(name)}({shown(arguments)})")
        self.stack.append(made(name, arguments))

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, dict) and isinstance(state, dict):
            parameters = state.get("_parameters")
            target.update(parameters if isinstance(parameters, dict) else {})

    def new_object(self, extra: int = 0) -> None:
        for _ in range(extra):
            self.stack.pop()
        self.stack.pop()
        kind = self.stack.pop()
        is_dict = isinstance(kind, Global) and kind.name.endswith((".ParameterDict", ".OrderedDict"))
        self.stack.append({} if is_dict else Unknown())

    def persistent(self) -> None:
        reference = self.stack.pop()
        if not isinstance(reference, tuple) or not reference:
            raise ValueError("a reference that is no storage")
        if reference[0] == "module":  # a network's class with its source, in files from before torch 1.6
            self.stack.append(reference[1])
            return
        tag, kind, key, _, numel, *_ = reference
        if tag != "storage" or not isinstance(kind, Global) or type(numel) is not int or numel < 0:
            raise ValueError("a reference that is no storage")
        storage = Storage(str(key), STORAGES.get(kind.name.rpartition(".")[2], "u8"), numel)
        self.result.storages[storage.key] = storage
        self.stack.append(storage)

    def set_items(self, items: list[Item]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            return
        for key, value in zip(items[::2], items[1::2], strict=False):
            if isinstance(key, KEYS):
                target[key] = value

    def append_items(self, items: list[Item]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(module, str) or not isinstance(name, str):
            self.want("a global with a computed name")
            self.stack.append(Unknown())
        else:
            self.named(f"{module}.{name}")


def _tuple(count: int) -> Callable[[_Machine], None]:
    def make(machine: _Machine) -> None:
        if len(machine.stack) < count:
            raise ValueError("the stack is too short")
        items = tuple(machine.stack[-count:])
        machine.stack[-count:] = [items]

    return make


def _dict(machine: _Machine) -> None:
    items = machine.to_mark()
    machine.stack.append({})
    machine.set_items(items)


def _set_item(machine: _Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.set_items([key, value])


def _append(machine: _Machine) -> None:
    value = machine.stack.pop()
    machine.append_items([value])


def _object(machine: _Machine) -> None:
    """OBJ: a class and its arguments above a mark."""
    items = machine.to_mark()
    if items and isinstance(items[0], Global) and items[0].name not in HARMLESS:
        machine.want(f"{plain(items[0].name)}({shown(tuple(items[1:]))})")
    machine.stack.append(Unknown())


_CONSTANTS: dict[str, Callable[[], Item]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
    "MARK": lambda: MARK,
}

_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}

_OPERATIONS: dict[str, Callable[[_Machine], Item]] = {
    "POP": lambda machine: machine.stack.pop(),
    "POP_MARK": lambda machine: machine.to_mark(),
    "DUP": lambda machine: machine.stack.append(machine.stack[-1]),
    "TUPLE": lambda machine: machine.stack.append(tuple(machine.to_mark())),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "LIST": lambda machine: machine.stack.append(machine.to_mark()),
    "DICT": _dict,
    "FROZENSET": lambda machine: machine.stack.append(frozenset(map(id, machine.to_mark()))),
    "SETITEM": _set_item,
    "SETITEMS": lambda machine: machine.set_items(machine.to_mark()),
    "APPEND": _append,
    "APPENDS": lambda machine: machine.append_items(machine.to_mark()),
    "ADDITEMS": lambda machine: machine.to_mark(),
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.new_object,
    "NEWOBJ_EX": lambda machine: machine.new_object(1),
    "OBJ": _object,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
}
