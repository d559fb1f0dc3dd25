"""The command line, read as stable-diffusion.cpp's `parse_options` reads it.

A token is an option only when it equals one of its names; there is no `--x=y` and no abbreviation. The value
is always the next token, even one that begins with a dash. A repeated option's last value wins, except for
options that join theirs with commas.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from darkroom.api.config import EngineConfig
from darkroom.api.errors import DarkroomError
from darkroom.api.names import Mode
from darkroom.api.options import Flag, flags
from darkroom.api.request import GenerationRequest
from darkroom.cli.options import SECTIONS, CliOptions, ContextSwitches, PictureSwitches, Section
from darkroom.cli.values import ValueRejected, choices, convert, expected, value_type

M = TypeVar("M", bound=BaseModel)


class UsageError(DarkroomError):
    """A command line that cannot be obeyed. option: the one to explain; hint: what may have been meant."""

    def __init__(self, message: str, option: Option | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.option = option
        self.hint = hint


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


@dataclass(frozen=True)
class Arguments:
    """A whole command line."""

    cli: CliOptions
    context: ContextSwitches
    picture: PictureSwitches
    config: EngineConfig
    request: GenerationRequest


def options_of(section: Section) -> Iterator[Option]:
    """Every option under a heading, in the order of the help text."""
    for model in section.models:
        for name, (flag, field) in flags(model).items():
            yield Option(model, name, flag, field)


OPTIONS: Mapping[str, Option] = {
    spelling: option
    for section in SECTIONS
    for option in options_of(section)
    for spelling in (*option.flag.names, *option.flag.file_names, *option.flag.aliases)
}
"""Every spelling of every option."""


def parse(argv: Sequence[str]) -> Arguments:
    """The command line without the program's name. Raises UsageError.

    `--help` and `--version` end the reading: what follows them is not looked at.
    """
    if not argv:
        raise UsageError("the following arguments are required: prompt (-p)")
    given: dict[type[BaseModel], dict[str, Any]] = {model: {} for s in SECTIONS for model in s.models}
    tokens = iter(argv)
    for token in tokens:
        option = OPTIONS.get(token)
        if option is None:
            raise UsageError(f"unknown argument: {token}", hint=_hint(token))
        values = given[option.model]
        if option.is_switch:
            values[option.name] = True
            if option.name in ("help", "version"):
                return _build({CliOptions: {option.name: True}})
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
    arguments = _build(given)
    _require(arguments.cli, arguments.config)
    return arguments


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


def _build(given: Mapping[type[BaseModel], Mapping[str, Any]]) -> Arguments:
    def made(model: type[M]) -> M:
        return model(**given.get(model, {}))

    return Arguments(
        made(CliOptions),
        made(ContextSwitches),
        made(PictureSwitches),
        made(EngineConfig),
        made(GenerationRequest),
    )


def _require(cli: CliOptions, config: EngineConfig) -> None:
    if cli.mode is Mode.METADATA:
        if cli.image is None:
            raise UsageError("metadata mode needs an image path (--image)")
    elif cli.mode is Mode.CONVERT and not config.files:
        raise UsageError("no input model path provided for convert; give one with -m or --diffusion-model")
    elif not cli.output:
        raise UsageError("the following arguments are required: output_path (-o)")


def _hint(token: str) -> str:
    name, equals, value = token.partition("=")
    if equals and name in OPTIONS:
        return f"A value is an argument of its own: {name} {value}"
    from difflib import get_close_matches

    close = get_close_matches(token, OPTIONS, n=1)
    return f"Did you mean {close[0]}?" if close else ""
