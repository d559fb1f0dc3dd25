"""`darkroom load`, `unload`, `ps`, `logs`, `settings`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from darkroom.manager.cli.models import Json, Model

if TYPE_CHECKING:
    from darkroom.manager.cli.session import Api

_BAD = ("failed", "quarantined")


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (load, unload, ps, logs, settings):
        app.command()(command)


def load(
    context: typer.Context,
    model: Model,
    keep_alive: Annotated[Optional[str], typer.Option(help="how long it stays: 30m, -1")] = None,  # noqa: UP045
    as_json: Json = False,
) -> None:
    """Load a model in the manager that runs."""
    from darkroom.manager.cli.output import print_json
    from darkroom.manager.cli.session import run

    async def work(api: Api) -> dict[str, Any]:
        return await follow_load(api, model, keep_alive)

    status = run(context, work, private=False)
    if as_json:
        print_json(status)
    else:
        typer.echo(f"{status['model']} is {status['state']} on port {status['port']}")


async def follow_load(api: Api, model: str, keep_alive: str | None) -> dict[str, Any]:
    """A bar of bytes until the model is loaded. Errors: Refused, with the process's last lines."""
    from darkroom.manager.cli.output import byte_progress
    from darkroom.manager.cli.session import Refused

    params = {"wait": "true"} | ({"keep_alive": keep_alive} if keep_alive else {})
    with byte_progress() as progress:
        bar = progress.add_task(f"loading {model}", total=None)
        async for event in api.events("POST", f"/admin/models/{model}/load", params=params):
            data: dict[str, Any] = event.json()
            if event.type == "error":
                error = data["error"]
                raise Refused(error["message"], error.get("code") or "", error.get("details"))
            if event.type == "ready":
                return data
            progress.update(bar, completed=data["bytes_read"], total=data["bytes_total"] or None)
    raise Refused(f"model '{model}': the manager stopped while it was loaded")


def unload(
    context: typer.Context,
    model: Model,
    force: Annotated[bool, typer.Option("--force", help="without waiting for its requests")] = False,
) -> None:
    """Unload a model."""
    from darkroom.manager.cli.session import run

    path = f"/admin/models/{model}/unload"
    run(context, lambda api: api.call("POST", path, params={"force": force}), private=False)


def ps(context: typer.Context, as_json: Json = False) -> None:
    """List the models that the manager has loaded or tried to."""
    from darkroom.manager.cli.output import print_json, print_table
    from darkroom.manager.cli.session import run
    from darkroom.manager.units import readable_bytes

    models = run(context, lambda api: api.call("GET", "/admin/pool"), private=False)["models"]
    if as_json:
        print_json(models)
        return
    rows = [
        (
            m["model"],
            m["state"],
            m["port"],
            m["pid"],
            " ".join(f"{device} {readable_bytes(count)}" for device, count in m["memory"].items()),
            m["rung_name"] if m["rung"] else "",
            f"{m['leases']}, {m['waiting']} waiting" if m["waiting"] else m["leases"] or "",
            "pinned" if m["pinned"] else "" if m["unloads_in"] is None else f"{m['unloads_in']:.0f} s",
            m["failure"]["message"] if m["failure"] and m["state"] in _BAD else "",
        )
        for m in models
    ]
    columns = ("model", "state", "port", "pid", "memory", "frugal", "requests", "unloads in", "failure")
    print_table(columns, rows, "No model is loaded.")


def logs(
    context: typer.Context,
    model: Model,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="print what comes, too")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", help="how many of the last lines")] = 200,
) -> None:
    """Print what a model's process has printed."""
    from darkroom.manager.cli.session import run

    async def work(api: Api) -> None:
        async for text in api.lines(f"/admin/logs/{model}?lines={lines}&follow={str(follow).lower()}"):
            sys.stdout.write(text)
            sys.stdout.flush()

    run(context, work)


def settings(
    context: typer.Context,
    model: Model,
    changes: Annotated[Optional[list[str]], typer.Argument(help="key=value; key= for the default")] = None,  # noqa: UP045
    as_json: Json = False,
) -> None:
    """Show a model's settings, or change some; they count from its next load."""
    from darkroom.manager.cli.output import print_json, print_table
    from darkroom.manager.cli.session import run

    wanted = {}
    for change in changes or ():
        name, equals, value = change.partition("=")
        if not equals:
            raise typer.BadParameter(f"'{change}' is not key=value", param_hint="changes")
        wanted[name.strip().replace("-", "_")] = value.strip()
    path = f"/admin/settings/{model}"
    method, options = ("PATCH", {"json": wanted}) if wanted else ("GET", {})
    found = run(context, lambda api: api.call(method, path, **options))
    if as_json:
        print_json(found)
        return
    each = found["settings"].items()
    if found["loaded"]:
        rows = [(name, _value(s["requested"]), _value(s["engaged"]), s["reason"]) for name, s in each]
        print_table(("setting", "requested", "engaged", "why"), rows, "")
    else:
        unloaded = [(name, _value(s["requested"]), s["description"]) for name, s in each]
        print_table(("setting", "requested", "what it is"), unloaded, "")


def _value(value: object) -> str:
    return "" if value is None else str(value)
