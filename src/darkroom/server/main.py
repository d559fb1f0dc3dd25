"""sd-server: one model behind HTTP."""

from __future__ import annotations

import asyncio
import io
import os
import sys

from darkroom.api.arguments import UsageError
from darkroom.api.config import check_files
from darkroom.api.errors import DarkroomError
from darkroom.api.help import help_text, usage_error_text, version_text
from darkroom.core.log import logging_to
from darkroom.server.arguments import PROGRAM, SECTIONS, Arguments, parse

SWITCH_SECONDS = 0.001
"""How long the worker's Python may keep the event loop waiting; Python's own figure is five times that."""


def main(argv: list[str] | None = None) -> int:
    """Runs sd-server and returns its exit code: 0 stopped, 1 an error.

    Standard output carries where it listens, help, version and devices; log and errors go to standard error.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as sd-cli does
    try:
        arguments = parse(sys.argv[1:] if argv is None else argv)
    except UsageError as error:
        sys.stderr.write(usage_error_text(PROGRAM, error) + "\n")
        return 1
    options = arguments.server
    if options.help or options.version:
        sys.stdout.write((help_text(PROGRAM, SECTIONS) if options.help else version_text()) + "\n")
        return 0
    with logging_to(
        sys.stderr,
        verbose=options.verbose,
        color=options.color,
        format=options.log_format,
        talkative="darkroom.server",
    ):
        try:
            _run(arguments)
        except DarkroomError as error:
            sys.stderr.write(f"error: {error}\n")
            return 1
    return 0


def _run(arguments: Arguments) -> None:
    if arguments.context.list_devices:
        from darkroom.runtime.devices import Devices  # torch

        sys.stdout.write("".join(f"{line}\n" for line in Devices.discover().lines()))
        return
    from darkroom.runtime.assignment import Assignments
    from darkroom.server.app import create_app
    from darkroom.server.lifecycle import listen, serve
    from darkroom.server.routes.page import check_page
    from darkroom.server.service import Service

    check_files(arguments.config)
    Assignments.of(arguments.config)
    check_page(arguments.server.serve_html_path)
    sys.setswitchinterval(SWITCH_SECONDS)
    listener = listen(arguments.server)

    async def run() -> None:
        embeds_metadata = not arguments.picture.disable_image_metadata
        service = Service(
            arguments.config, arguments.server, arguments.request, embeds_metadata=embeds_metadata
        )
        await serve(create_app(service), service, listener)

    asyncio.run(run())


if __name__ == "__main__":
    sys.exit(main())
