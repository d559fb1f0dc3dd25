"""The help text and the text after a usage error, laid out from the option declarations."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from enum import Enum

from darkroom.api.arguments import Option, Section, UsageError, options_of
from darkroom.api.values import choices
from darkroom.api.version import __version__

_NAMES_WIDTH = 30


def version_text() -> str:
    """What --version prints."""
    return f"darkroom {__version__} (stable-diffusion.cpp compatible)"


def usage(program: str) -> str:
    """How a program is called."""
    return f"Usage: {program} [options]"


def help_text(program: str, sections: Sequence[Section]) -> str:
    """All options in their sections, as wide as the terminal but 80 to 100 columns."""
    width = min(100, max(80, shutil.get_terminal_size().columns))
    lines = [version_text(), usage(program)]
    for section in sections:
        lines += ["", f"{section.title}:"]
        for option in options_of(section):
            lines += entries(option, width)
    return "\n".join(lines)


def usage_error_text(program: str, error: UsageError) -> str:
    """The message, what it is about, and where to read on."""
    lines = [f"error: {error}"]
    if error.hint:
        lines.append(error.hint)
    lines += ["", usage(program)]
    if error.option is not None:
        lines += entries(error.option, 100)
    lines.append(f"'{program} --help' lists all options.")
    return "\n".join(lines)


def entries(option: Option, width: int) -> list[str]:
    """The lines of one option in the help text."""
    flag = option.flag
    lines = _entry(spelling(flag.names, flag.metavar), description(option), width)
    if flag.file_names:
        lines += _entry(spelling(flag.file_names, "PATH"), file_description(option), width)
    return lines


def spelling(names: tuple[str, ...], metavar: str | None) -> str:
    """`-o, --output PATH`."""
    return ", ".join(names) + (f" {metavar}" if metavar else "")


def description(option: Option) -> str:
    """The declared help, with the allowed values and the default where it does not name them itself."""
    text = option.field.description or ""
    if names := choices(option.field):
        text += f", one of [{', '.join(names)}]"
    default = option.field.default
    if "default:" not in text and default not in (None, "", False, ()):
        text += f" (default: {default.value if isinstance(default, Enum) else default})"
    if option.flag.concat:
        text += "; repeated values are joined with commas"
    return text


def file_description(option: Option) -> str:
    """The help of the spelling that reads a file."""
    return f"a file to read {option.field.description} from"


def table(section: Section) -> list[str]:
    """A section as lines of Markdown."""
    lines = [f"## {section.title}\n", "| option | meaning |", "| --- | --- |"]
    for option in options_of(section):
        flag = option.flag
        lines.append(_row(spelling(flag.names, flag.metavar), description(option)))
        if flag.file_names:
            lines.append(_row(spelling(flag.file_names, "PATH"), file_description(option)))
    return [*lines, ""]


def _row(names: str, text: str) -> str:
    return f"| `{names}` | {text} |".replace("<", "&lt;")


def _entry(names: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=f"  {names:<{_NAMES_WIDTH}}",
        subsequent_indent=" " * (_NAMES_WIDTH + 2),
        break_on_hyphens=False,
    )
