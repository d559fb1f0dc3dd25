"""A stack machine that reads the pickles of torch checkpoints without being able to run anything.

A pickle is a program for a stack machine, and Python's own reader imports and calls what it names. Here the
machine builds numbers, strings, lists, dicts and descriptions of tensors, and nothing else: a global is two
names, never an object. What becomes of names outside of the allow-list, its user says. Opcodes: Python's
pickletools.
"""

from __future__ import annotations

import pickletools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import IO

from darkroom.core.torch_globals import (
    INERT,
    KEYS,
    PARAMETER_DICT,
    REBUILD,
    STORAGES,
    Global,
    Inert,
    Item,
    Storage,
    is_known,
)

MAX_OPCODES = 4_000_000


class PickleError(ValueError):
    """A pickle that makes no sense: what is wrong with it."""


class _Mark:
    pass


MARK = _Mark()


class PickleMachine(ABC):
    """Reads one pickle. storages: all that it mentions, by key."""

    def __init__(self) -> None:
        self.stack: list[Item] = []
        self.memo: dict[int, Item] = {}
        self.storages: dict[str, Storage] = {}

    @abstractmethod
    def refuse_global(self, name: Global) -> None:
        """A name that no checkpoint needs."""

    @abstractmethod
    def refuse_opcode(self, name: str, argument: Item) -> None:
        """An opcode that torch never writes."""

    @abstractmethod
    def refuse_computed_name(self) -> Item:
        """A name that is no text in the file. Returns what stands for it."""

    def run(self, file: IO[bytes]) -> Item:
        """What the pickle holds that begins at the file's position. Raises PickleError."""
        try:
            for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
                if opcode.name == "STOP":
                    return self.stack.pop()
                if count > MAX_OPCODES:
                    break
                self._step(opcode.name, argument)
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, EOFError) as err:
            raise PickleError(f"its pickle is damaged ({type(err).__name__}: {err})") from err
        except (MemoryError, RecursionError) as err:
            raise PickleError("its pickle is made to harm") from err
        raise PickleError("its pickle goes on without an end")

    def _step(self, name: str, argument: Item) -> None:
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
            self.refuse_opcode(name, argument)

    def named(self, module: str, name: str) -> Global:
        """The name, which may be refused."""
        found = Global(module, name)
        if not is_known(found):
            self.refuse_global(found)
        return found

    def to_mark(self) -> list[Item]:
        """Takes all that lies above the last mark off the stack, and the mark."""
        at = len(self.stack) - 1
        while self.stack[at] is not MARK:
            at -= 1
            if at < 0:
                raise ValueError("no mark")
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def _reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(self.called(function, arguments))

    def called(self, function: Item, arguments: Item) -> Item:
        """What the function would return, described."""
        if not isinstance(function, Global):
            raise ValueError("a call of what is no function")
        if function in REBUILD:
            return REBUILD[function](*arguments)
        if function in INERT:
            return Inert(function)
        raise ValueError(f"a call of {function}")

    def _new_object(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        self.stack.append({} if kind == PARAMETER_DICT else self.called(kind, arguments))

    def _build(self) -> None:
        """Gives an object its state. Only a parameter dict's matters: the tensors of a textual inversion."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, dict) and isinstance(state, dict):
            parameters = state.get("_parameters")
            target.update(parameters if isinstance(parameters, dict) else {})

    def _persistent(self) -> None:
        reference = self.stack.pop()
        if reference[0] == "module":  # a network's class with its source text, in files from before torch 1.6
            self.stack.append(reference[1])
            return
        storage = self._storage(reference)
        self.storages[storage.key] = storage
        self.stack.append(storage)

    def _storage(self, reference: Item) -> Storage:
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

    def _set_items(self, items: list[Item]) -> None:
        target = self.stack[-1]
        if isinstance(target, Inert):
            return
        if not isinstance(target, dict):
            raise ValueError("items for what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(key, KEYS):
                target[key] = value

    def _append_items(self, items: list[Item]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, set | Inert):
            raise ValueError("elements for what is no list")


def _pop_tuple(count: int) -> Callable[[PickleMachine], None]:
    def make(machine: PickleMachine) -> None:
        if len(machine.stack) < count:
            raise ValueError("the stack is too short")
        items = tuple(machine.stack[-count:])
        machine.stack[-count:] = [items]

    return make


def _dict(machine: PickleMachine) -> None:
    items = machine.to_mark()
    machine.stack.append({})
    machine._set_items(items)


def _set_item(machine: PickleMachine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine._set_items([key, value])


def _append(machine: PickleMachine) -> None:
    value = machine.stack.pop()
    machine._append_items([value])


def _memoize(machine: PickleMachine) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _stack_global(machine: PickleMachine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    is_text = isinstance(module, str) and isinstance(name, str)
    machine.stack.append(machine.named(module, name) if is_text else machine.refuse_computed_name())


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

OPERATIONS: dict[str, Callable[[PickleMachine], None]] = {
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
    "SETITEMS": lambda machine: machine._set_items(machine.to_mark()),
    "APPEND": _append,
    "APPENDS": lambda machine: machine._append_items(machine.to_mark()),
    "ADDITEMS": lambda machine: machine._append_items(machine.to_mark()),
    "MEMOIZE": _memoize,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": PickleMachine._reduce,
    "NEWOBJ": PickleMachine._new_object,
    "BUILD": PickleMachine._build,
    "BINPERSID": PickleMachine._persistent,
}
