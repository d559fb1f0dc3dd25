"""A program's command line, read as stable-diffusion.cpp's `parse_options` reads it.

A token is an option only when it equals one of its names; there is no `--x=y` and no abbreviation. The value
is always the next token, even one that begins with a dash. A repeated option's last value wins, except for
options that join theirs with commas.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from darkroom.api.errors import DarkroomError
from darkroom.api.options import Flag, flags
from darkroom.api.values import ValueRejected, choices, convert, expected, value_type

ENDING = ("help", "version")
"""Switches that end the reading: what follows them is not looked at."""

Given = Mapping[type[BaseModel], Mapping[str, Any]]
"""The options that were given, by the model that declares them."""


class UsageError(DarkroomError):
    """A command line that cannot be obeyed. option: the one to explain; hint: what may have been meant."""

    def __init__(self, message: str, option: Option | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.option = option
        self.hint = hint


@dataclass(frozen=True)
class Section:
    """A heading of the help text and the options under it."""

    title: str
    models: tuple[type[BaseModel], ...]


@dataclass(frozen=True)
class Option:
    """One option of one of the models, as it stands on the command line."""

    model: type[BaseModel]
    name: str
    flag: Flag
    field: FieldInfo

    @property
    def is_switch(self) -> bool:
        """Whether it takes no value."""
        return value_type(self.field) is bool


def options_of(section: Section) -> Iterator[Option]:
    """Every option under a heading, in the order of the help text."""
    for model in section.models:
        for name, (flag, field) in flags(model).items():
            yield Option(model, name, flag, field)


def spellings(sections: Sequence[Section]) -> Mapping[str, Option]:
    """Every spelling of every option."""
    return {
        spelling: option
        for section in sections
        for option in options_of(section)
        for spelling in (*option.flag.names, *option.flag.file_names, *option.flag.aliases)
    }


def read_arguments(argv: Sequence[str], options: Mapping[str, Option]) -> Given:
    """The command line without the program's name. Raises UsageError.

    options: every spelling. `--help` and `--version` are given back alone.
    """
    given: dict[type[BaseModel], dict[str, Any]] = {}
    tokens = iter(argv)
    for token in tokens:
        option = options.get(token)
        if option is None:
            raise UsageError(f"unknown argument: {token}", hint=_hint(token, options))
        values = given.setdefault(option.model, {})
        if option.is_switch:
            values[option.name] = True
            if option.name in ENDING:
                return {option.model: {option.name: True}}
            continue
        text = next(tokens, None)
        if text is None:
            raise UsageError(
                f"invalid parameter for argument: {token}: no value; expected {expected(option.field)}",
                option,
            )
        value = _value(option, token, text)
        if option.flag.concat and values.get(option.name):
            value = f"{values[option.name]},{value}"
        elif option.flag.append:
            value = (*values.get(option.name, ()), value)
        values[option.name] = value
    return given


def _value(option: Option, token: str, text: str) -> object:
    if token in option.flag.file_names:
        return _text_of_file(token, Path(text))
    try:
        return convert(option.field, text)
    except ValueRejected as error:
        if choices(option.field):
            raise UsageError(f"invalid {option.flag.label} {text}, must be {error}", option) from None
        raise UsageError(
            f"invalid parameter for argument: {token}: '{text}'; expected {error}", option
        ) from None


def _text_of_file(token: str, path: Path) -> str:
    kind = token.removeprefix("--").replace("-", " ")
    try:
        return path.read_text(encoding="utf-8-sig").rstrip("\r\n")
    except OSError as error:
        raise UsageError(f"failed to read {kind} '{path}': {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"failed to read {kind} '{path}': it is not UTF-8 text") from None


def _hint(token: str, options: Mapping[str, Option]) -> str:
    name, equals, value = token.partition("=")
    if equals and name in options:
        return f"A value is an argument of its own: {name} {value}"
    from difflib import get_close_matches

    close = get_close_matches(token, options, n=1)
    return f"Did you mean {close[0]}?" if close else ""
