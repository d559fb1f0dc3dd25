"""Reads the pickles of torch checkpoints without being able to run anything.

A pickle is a program for a stack machine, and Python's own reader imports and calls what it names. Here the
machine builds numbers, strings, lists, dicts and descriptions of tensors, and nothing else: a global is two
names, never an object, and only those of an allow-list may appear at all. Opcodes: Python's pickletools.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from darkroom.api.errors import CheckpointError
from darkroom.weights.torch_globals import (
    INERT,
    KEYS,
    PARAMETER_DICT,
    REBUILD,
    STORAGES,
    TORCH_TYPES,
    Global,
    Inert,
    Item,
    Storage,
)


@dataclass(frozen=True)
class Unpickled:
    """value: what the pickle holds, its tensors as TensorRef. storages: all that it mentions, by key."""

    value: Item
    storages: dict[str, Storage]


def load(file: IO[bytes], subject: str) -> Unpickled:
    """Reads one pickle from the file's position to its end mark.

    Raises CheckpointError for a global outside the allow-list, and for a damaged pickle.
    """
    machine = _Machine(subject)
    return Unpickled(machine.run(file), machine.storages)


class _Mark:
    pass


MARK = _Mark()


class _Machine:
    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.stack: list[Item] = []
        self.memo: dict[int, Item] = {}
        self.storages: dict[str, Storage] = {}

    def run(self, file: IO[bytes]) -> Item:
        try:
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "STOP":
                    return self.stack.pop()
                self.step(opcode.name, argument)
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, EOFError) as err:
            raise CheckpointError(
                f"{self.subject}: its pickle is damaged ({type(err).__name__}: {err}); download it again"
            ) from err
        raise CheckpointError(f"{self.subject}: its pickle has no end; download it again")

    def step(self, name: str, argument: Item) -> None:
        if name in CONSTANTS:
            self.stack.append(CONSTANTS[name]())
        elif name in LITERALS:
            self.stack.append(argument)
        elif operation := OPERATIONS.get(name):
            operation(self)
        elif name == "GLOBAL":
            self.stack.append(self.named(*argument.split(" ", 1)))
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            self.stack.append(self.memo[int(argument)])
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[int(argument)] = self.stack[-1]
        elif name not in ("PROTO", "FRAME"):
            raise CheckpointError(
                f"{self.subject}: its pickle uses {name}, which no torch checkpoint needs; "
                "convert the file to safetensors"
            )

    def named(self, module: str, name: str) -> Global:
        found = Global(module, name)
        is_type = name in STORAGES or name in TORCH_TYPES
        if found in REBUILD or found in INERT or found == PARAMETER_DICT:
            return found
        if module in ("torch", "torch.storage") and is_type:
            return found
        raise CheckpointError(
            f"{self.subject}: its pickle names {found}, which no tensor needs and which could run code; "
            "get the model as safetensors"
        )

    def to_mark(self) -> list[Item]:
        at = len(self.stack) - 1
        while self.stack[at] is not MARK:
            at -= 1
            if at < 0:
                raise ValueError("no mark")
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Global):
            raise ValueError("a call of what is no function")
        if function in REBUILD:
            self.stack.append(REBUILD[function](*arguments))
        elif function in INERT:
            self.stack.append(Inert(function))
        else:
            raise ValueError(f"a call of {function}")

    def new_object(self) -> None:
        _, kind = self.stack.pop(), self.stack.pop()
        if kind == PARAMETER_DICT:
            self.stack.append({})
        elif isinstance(kind, Global) and kind in INERT:
            self.stack.append(Inert(kind))
        else:
            raise ValueError("an object of what is no class")

    def build(self) -> None:
        """Gives an object its state. Only a parameter dict's matters: the tensors of a textual inversion."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, dict) and isinstance(state, dict):
            parameters = state.get("_parameters")
            target.update(parameters if isinstance(parameters, dict) else {})

    def persistent(self) -> None:
        reference = self.stack.pop()
        if reference[0] == "module":  # a network's class with its source text, in files from before torch 1.6
            self.stack.append(reference[1])
            return
        storage = self.storage(reference)
        self.storages[storage.key] = storage
        self.stack.append(storage)

    def storage(self, reference: Item) -> Storage:
        tag, kind, key, _, numel, *view = reference
        if tag != "storage" or not isinstance(kind, Global) or not isinstance(key, str):
            raise ValueError("a reference that is no storage")
        if type(numel) is not int or numel < 0:
            raise ValueError("a storage without a size")
        offset = 0
        if view and view[0] is not None:
            _, offset, numel = view[0]
            if type(offset) is not int or type(numel) is not int or min(offset, numel) < 0:
                raise ValueError("a view that is no part of its storage")
        return Storage(key, STORAGES[kind.name], numel, offset)

    def set_items(self, items: list[Item]) -> None:
        target = self.stack[-1]
        if isinstance(target, Inert):
            return
        if not isinstance(target, dict):
            raise ValueError("items for what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(key, KEYS):
                target[key] = value

    def append_items(self, items: list[Item]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, set):
            return
        else:
            raise ValueError("elements for what is no list")


def _pop_tuple(count: int) -> Callable[[_Machine], None]:
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


def _memoize(machine: _Machine) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _stack_global(machine: _Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    if not isinstance(module, str) or not isinstance(name, str):
        raise ValueError("a global without a name")
    machine.stack.append(machine.named(module, name))


CONSTANTS: dict[str, Callable[[], Item]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
    "MARK": lambda: MARK,
}

LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}

OPERATIONS: dict[str, Callable[[_Machine], None]] = {
    "POP": lambda machine: machine.stack.pop(),
    "POP_MARK": lambda machine: machine.to_mark().clear(),
    "DUP": lambda machine: machine.stack.append(machine.stack[-1]),
    "TUPLE": lambda machine: machine.stack.append(tuple(machine.to_mark())),
    "TUPLE1": _pop_tuple(1),
    "TUPLE2": _pop_tuple(2),
    "TUPLE3": _pop_tuple(3),
    "LIST": lambda machine: machine.stack.append(machine.to_mark()),
    "DICT": _dict,
    "SETITEM": _set_item,
    "SETITEMS": lambda machine: machine.set_items(machine.to_mark()),
    "APPEND": _append,
    "APPENDS": lambda machine: machine.append_items(machine.to_mark()),
    "ADDITEMS": lambda machine: machine.append_items(machine.to_mark()),
    "MEMOIZE": _memoize,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.new_object,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
}
