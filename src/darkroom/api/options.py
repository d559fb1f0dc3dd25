"""One declaration for an option: its type, default, range, help and command-line spelling.

sd-cli's flags, the server's JSON and the generated documentation all come from these declarations.
"""

from __future__ import annotations

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
    from_file: the value is a path whose text becomes the option's value.
    """

    names: tuple[str, ...]
    metavar: str | None = None
    concat: bool = False


def opt(
    default: Any,  # noqa: ANN401  (any field type)
    help: str,
    *names: str,
    metavar: str | None = None,
    concat: bool = False,
    **limits: Any,  # noqa: ANN401  (pydantic's ge, gt, le, lt)
) -> Any:  # noqa: ANN401  (pydantic's Field is typed so)
    """A pydantic field that also knows its command-line flag.

    limits: pydantic's own `ge`, `gt`, `le`, `lt`.
    """
    info: FieldInfo = Field(default=default, description=help, **limits)
    info.metadata.append(Flag(names, metavar, concat))
    return info


def flag_of(field: FieldInfo) -> Flag | None:
    """The command-line flag declared with `opt`, or None for a field without one."""
    return next((extra for extra in field.metadata if isinstance(extra, Flag)), None)


def flags(model: type[BaseModel]) -> dict[str, tuple[Flag, FieldInfo]]:
    """Every option of `model` that has a flag, by field name, in declaration order."""
    return {
        name: (flag, field)
        for name, field in model.model_fields.items()
        if (flag := flag_of(field)) and flag.names
    }
