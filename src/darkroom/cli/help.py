"""sd-cli's help, and what follows a mistake on its command line."""

from __future__ import annotations

from darkroom.api import help
from darkroom.api.arguments import UsageError
from darkroom.cli.options import SECTIONS

PROGRAM = "sd-cli"


def help_text() -> str:
    """All options in their sections."""
    return help.help_text(PROGRAM, SECTIONS)


def usage_error_text(error: UsageError) -> str:
    """The message, what it is about, and where to read on."""
    return help.usage_error_text(PROGRAM, error)
