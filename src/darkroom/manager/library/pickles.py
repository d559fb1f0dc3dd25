"""The pickles of torch checkpoints, read to the end: what they hold, what they would call if they could."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO

from darkroom.core.torch_globals import Global, Inert, Item, Storage, is_known
from darkroom.core.torch_pickle import PickleError, PickleMachine
from darkroom.manager.library.limited import HeaderError

MAX_WANTED = 8


@dataclass(frozen=True)
class Unpickled:
    """value: what it describes. wanted: what it names that no checkpoint needs, as it would call it."""

    value: Item
    wanted: list[str]
    storages: dict[str, Storage]


def read_pickle(file: IO[bytes]) -> Unpickled:
    """Reads one pickle from the file's place to its end mark.

    Raises HeaderError for a damaged one; what was named until then is told in the message.
    """
    machine = _Machine()
    try:
        return Unpickled(machine.run(file), machine.wanted, machine.storages)
    except PickleError as err:
        named = f"; {describe_wanted(machine.wanted)}" if machine.wanted else ""
        raise HeaderError(f"{_plain(str(err))}{named}") from err


def describe_wanted(wanted: list[str]) -> str:
    """For people: what a pickle would do."""
    return (
        f"its pickle would run code: it wants {', '.join(wanted[:MAX_WANTED])}, which no model needs; "
        "get the model as safetensors"
    )


class _Machine(PickleMachine):
    """Notes what is refused, and goes on without it."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted: list[str] = []

    def refuse_global(self, name: Global) -> None:
        self._want(_plain(str(name)))

    def refuse_computed_name(self) -> Item:
        self._want("a global with a computed name")
        return Inert(Global("", "a computed name"))

    def refuse_opcode(self, name: str, argument: Item) -> None:
        if name == "INST":
            function = self.named(*argument.split(" ", 1))
            self.stack.append(self.called(function, tuple(self.to_mark())))
        elif name == "OBJ":
            function, *arguments = self.to_mark()
            self.stack.append(self.called(function, tuple(arguments)))
        else:
            self._want(f"the opcode {name}")
            self.stack.append(Inert(Global("", name)))

    def called(self, function: Item, arguments: Item) -> Item:
        if isinstance(function, Inert):
            return function
        if not isinstance(function, Global) or is_known(function):
            return super().called(function, arguments)
        name = _plain(str(function))
        self.wanted = [wanted for wanted in self.wanted if wanted != name]
        self._want(f"{name}({_shown(arguments)})")
        return Inert(function)

    def _want(self, what: str) -> None:
        if what not in self.wanted and len(self.wanted) < MAX_WANTED:
            self.wanted.append(what)


def _plain(text: str) -> str:
    """Text of a file, fit to be shown."""
    return "".join(char if char.isprintable() else "?" for char in text[:120])


def _shown(arguments: Item) -> str:
    """Arguments of a call for people."""
    texts = arguments if isinstance(arguments, tuple) else (arguments,)
    return ", ".join(
        _plain(repr(text))[:60] if isinstance(text, (str, bytes, int, float)) else "..." for text in texts
    )
