"""`darkroom keys`: made and revoked on this machine, in the file that the manager reads."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from darkroom.manager.gateway.keys import Keys


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(help="API keys of this machine's manager.", no_args_is_help=True)
    group.command("list")(list_keys)
    group.command()(create)
    group.command()(revoke)
    app.add_typer(group, name="keys")


def list_keys(as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """Show the keys; their secrets are kept nowhere."""
    from darkroom.manager.cli.output import print_json, print_table

    found = [key.public() for key in _keys().all()]
    if as_json:
        print_json(found)
        return
    rows = [
        (
            key["id"],
            key["name"],
            " ".join(map(str, key["scopes"] if isinstance(key["scopes"], list) else ())),
            key["rate"],
            key["concurrency"],
            time.strftime("%Y-%m-%d", time.localtime(int(str(key["created"])))),
        )
        for key in found
    ]
    print_table(("id", "name", "scopes", "per minute", "at once", "made"), rows, "There are no keys.")


def create(
    name: str,
    scope: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="images, jobs:read, models:write, admin; may be repeated (images, jobs:read)"),
    ] = None,
    rate: Annotated[Optional[int], typer.Option(help="requests a minute")] = None,  # noqa: UP045
    concurrency: Annotated[Optional[int], typer.Option(help="requests at the same time")] = None,  # noqa: UP045
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Make a key and print it; it is shown this once."""
    from darkroom.manager.cli.output import print_json
    from darkroom.manager.gateway.keys import Scope

    try:
        scopes = frozenset(map(Scope, scope or (Scope.IMAGES, Scope.JOBS_READ)))
    except ValueError:
        raise typer.BadParameter(f"one of {', '.join(Scope)}", param_hint="--scope") from None
    key, text = _keys().create(name, scopes, rate=rate, concurrency=concurrency)
    if as_json:
        print_json({**key.public(), "key": text})
    else:
        typer.echo(text)


def revoke(id: str) -> None:
    """Take a key back; it is refused from now on."""
    _keys().revoke(id)


def _keys() -> Keys:
    from darkroom.manager.config import Paths
    from darkroom.manager.gateway.keys import Keys

    return Keys(Paths.default().keys_file)
