"""sd-cli: pictures, what a picture says about itself, or a converted model, from one command line."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys

from darkroom.api.errors import Cancelled, DarkroomError
from darkroom.api.help import version_text
from darkroom.api.names import Mode
from darkroom.cli.arguments import Arguments, UsageError, parse
from darkroom.cli.console import Console
from darkroom.cli.help import help_text, usage_error_text
from darkroom.cli.interrupt import EXIT_CODE, Interrupt
from darkroom.core.log import logging_to

logger = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Runs sd-cli and returns its exit code: 0 done, 1 an error, 130 stopped with Ctrl+C.

    What a program may want to read goes to standard output, all that is for people to standard error.
    torch is imported only once a picture is to be drawn or devices are to be listed.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    # OpenMP reads this when torch is imported. Threads that spin while they wait can cost ten times the
    # time when another program wants a core, and gain next to nothing otherwise (docs/performance.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        code = _main(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` for example, has seen enough
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.dup2(nowhere, sys.stderr.fileno())
        return 1
    return code


def _main(argv: list[str]) -> int:
    try:
        arguments = parse(argv)
    except UsageError as error:
        print(usage_error_text(error), file=sys.stderr)
        return 1
    cli = arguments.cli
    if cli.help or cli.version:
        print(help_text() if cli.help else version_text())
        return 0
    console = Console(sys.stderr, color=cli.color)
    with logging_to(console, verbose=cli.verbose, color=cli.color):
        return _guarded(arguments, console)


def _guarded(arguments: Arguments, console: Console) -> int:
    """Runs the mode; every error becomes a message and an exit code."""

    is_convert = arguments.cli.mode is Mode.CONVERT

    def heard() -> None:
        console.settle()
        console.line(f"stopping{'' if is_convert else ' after this step'}; Ctrl+C again stops at once")

    with Interrupt(on_first=heard, on_end=_tidy_up) as interrupt:
        try:
            _run(arguments, console, interrupt)
        except (Cancelled, KeyboardInterrupt):
            console.settle()
            console.line(f"stopped; no {'model' if is_convert else 'picture'} was written")
            return EXIT_CODE
        except BrokenPipeError:
            raise
        except DarkroomError as error:
            console.error(str(error))
            return 1
        except Exception as error:
            console.error(f"{type(error).__name__}: {error}".strip(": "))
            if arguments.cli.verbose:
                logger.exception("where it happened:")
            else:
                console.line("This is a fault in Darkroom. Run with -v for the traceback.")
            return 1
    return 0


def _run(arguments: Arguments, console: Console, interrupt: Interrupt) -> None:
    # each import waits for its mode: help and usage errors answer at once
    if arguments.context.list_devices:
        from darkroom.runtime.devices import Devices

        print("\n".join(Devices.discover().lines()))
    elif arguments.cli.mode is Mode.METADATA:
        from darkroom.cli.metadata import print_metadata

        print_metadata(arguments.cli)
    elif arguments.cli.mode is Mode.CONVERT:
        from darkroom.cli.convert import convert

        convert(arguments, console, interrupt)
    else:
        from darkroom.cli.generate import generate

        generate(arguments, console, interrupt)


def _tidy_up() -> None:
    for name in ("darkroom.cli.output", "darkroom.weights.output"):
        if name in sys.modules:
            with contextlib.suppress(OSError):
                sys.modules[name].discard_unfinished()


if __name__ == "__main__":
    sys.exit(main())
