"""One declaration for an option: its type, default, range, help and command-line spelling.

sd-cli's flags, the server's JSON and the generated documentation all come from these declarations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo


@dataclass(frozen=True)
class Flag:
    """How an option is written on the command line.

    names: every spelling, short ones first.
    metavar: the placeholder in the help text; None for a switch.
    concat: repeated values are joined with a comma instead of the last one winning.
    append: each value is one more of a list.
    aliases: older spellings, which help does not show.
    file_names: more spellings, whose value is the path of a file that holds the option's text.
    label: what a wrong value is called in messages; the flag's own name when empty.
    """

    names: tuple[str, ...]
    metavar: str | None = None
    concat: bool = False
    file_names: tuple[str, ...] = ()
    label: str = ""
    append: bool = False
    aliases: tuple[str, ...] = ()


def opt(
    default: Any,  # noqa: ANN401
    help: str,
    *names: str,
    metavar: str | None = None,
    concat: bool = False,
    file_names: tuple[str, ...] = (),
    label: str = "",
    append: bool = False,
    aliases: tuple[str, ...] = (),
    **limits: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """A pydantic field that also knows its command-line flag.

    limits: pydantic's own `ge`, `gt`, `le`, `lt`, `min_length`.
    """
    field = Field(default=default, description=help, **limits)
    field.metadata.append(Flag(names, metavar, concat, file_names, label, append, aliases))
    return field


def flag_of(field: FieldInfo) -> Flag | None:
    """The command-line flag declared with `opt`, or None for a field without one."""
    return next((extra for extra in field.metadata if isinstance(extra, Flag)), None)


def flags(model: type[BaseModel]) -> Mapping[str, tuple[Flag, FieldInfo]]:
    """Every option of `model` that has a flag, by field name, in declaration order."""
    return {
        name: (flag, field)
        for name, field in model.model_fields.items()
        if (flag := flag_of(field)) and flag.names
    }
