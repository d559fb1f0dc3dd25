"""`darkroom serve` and `darkroom doctor`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(serve)
    app.command()(doctor)


def serve(
    host: Annotated[Optional[str], typer.Option(help="address to listen on (127.0.0.1)")] = None,  # noqa: UP045
    port: Annotated[Optional[int], typer.Option(help="port, 0 for a free one (8080)")] = None,  # noqa: UP045
    config: Annotated[Optional[Path], typer.Option(help="a config.yaml in place of the usual one")] = None,  # noqa: UP045
    folder: Annotated[Optional[list[Path]], typer.Option(help="a folder of models; may be repeated")] = None,  # noqa: UP045
    max_loaded: Annotated[Optional[int], typer.Option(help="models loaded at the same time")] = None,  # noqa: UP045
    memory_budget: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="memory that all models may use on a device: 24GiB"),
    ] = None,
    keep_alive: Annotated[Optional[str], typer.Option(help="idle time before a model goes: 15m, -1")] = None,  # noqa: UP045
    preload: Annotated[Optional[list[str]], typer.Option(help="a model to load at once")] = None,  # noqa: UP045
    default_model: Annotated[Optional[str], typer.Option(help="for requests that name none")] = None,  # noqa: UP045
    engine: Annotated[Optional[Path], typer.Option(help="another sd-server binary for all models")] = None,  # noqa: UP045
    openai_names: Annotated[
        bool, typer.Option("--openai-names", help="gpt-image-1 and others are the default model")
    ] = False,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="allow others to reach it without a key")
    ] = False,
    log_format: Annotated[Optional[str], typer.Option(help="text or json")] = None,  # noqa: UP045
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="log more")] = False,
) -> None:
    """Serve every model of the library until it is told to stop."""
    import asyncio

    from darkroom.manager.app import serve as run
    from darkroom.manager.config import ManagerConfig, Paths
    from darkroom.manager.gateway.logs import configure

    paths = Paths.default()
    settings = ManagerConfig.read(
        config or paths.config_file,
        host=host,
        port=port,
        folders=tuple(folder) if folder else None,
        max_loaded=max_loaded,
        memory_budget=memory_budget,
        keep_alive=keep_alive,
        preload=tuple(preload) if preload else None,
        default_model=default_model,
        engine=engine,
        openai_aliases=openai_names or None,
        insecure=insecure or None,
    )
    if log_format not in (None, "text", "json"):
        raise typer.BadParameter("text or json", param_hint="--log-format")
    as_json = log_format == "json" if log_format else not sys.stderr.isatty()
    configure(sys.stderr, "json" if as_json else "text", verbose=verbose)

    def on_ready(url: str) -> None:
        typer.echo(f"Darkroom serves {url} (API: {url}/docs); models: darkroom list")

    asyncio.run(run(settings, paths, on_ready))


def doctor(
    context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False
) -> None:
    """Check what the manager needs; exit 1 when something is wrong."""
    from darkroom.manager.cli.output import print_json, print_table
    from darkroom.manager.cli.session import run

    found = run(context, lambda api: api.call("GET", "/admin/doctor"))
    if as_json:
        print_json(found)
    else:
        rows = [("ok" if each["ok"] else "WRONG", each["name"], each["detail"]) for each in found["checks"]]
        print_table(("", "check", "found"), rows, "")
    if not found["ok"]:
        raise typer.Exit(1)
