"""Writes docs/server_options.md: `python -m darkroom.server.options_reference > docs/server_options.md`."""

from __future__ import annotations

import sys

from darkroom.api.help import table
from darkroom.server.arguments import SECTIONS

_HEAD = """\
# Options of sd-server

<!-- Made by `python -m darkroom.server.options_reference > docs/server_options.md` from the
declarations. -->

[server.md](server.md) says what the server does. Options are read as sd-cli reads them ([cli.md](cli.md)).
Context options say what is loaded and where it lives. Generation options are the defaults of requests: what
a request says itself counts.
"""


def reference() -> str:
    """The page, in Markdown."""
    return "\n".join([_HEAD, *(line for section in SECTIONS for line in table(section))])


if __name__ == "__main__":
    sys.stdout.write(reference())
