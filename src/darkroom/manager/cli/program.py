"""The commands put together, and what an error looks like."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from darkroom.manager.cli import generate, keys, models, pool, serve

app = typer.Typer(
    name="darkroom",
    help="Several image models behind one API: a pool of sd-server processes, a store, a gateway.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for part in (serve, models, generate, pool, keys):
    part.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        from darkroom.api.version import __version__

        typer.echo(f"darkroom {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    url: Annotated[str, typer.Option(envvar="DARKROOM_URL", help="the manager to speak with")] = "",
    key: Annotated[str, typer.Option(envvar="DARKROOM_API_KEY", help="an API key for it")] = "",
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Several image models behind one API."""
    context.obj = (url, key)


def main() -> None:
    """Exit codes: 0 done, 1 failed, 2 not understood, 130 interrupted."""
    from darkroom.api.errors import DarkroomError

    try:
        app()
    except DarkroomError as error:
        print(f"darkroom: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
