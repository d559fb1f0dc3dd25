"""`darkroom list`, `show`, `pull`, `import`, `components`, `rm`, `gc`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from darkroom.manager.cli.session import Api

Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Model = Annotated[str, typer.Argument(help="a name of `darkroom list`")]

_UNSET = (None, "", -1, False)


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("list")(list_models)
    app.command()(show)
    app.command()(pull)
    app.command("import")(import_files)
    app.command()(components)
    app.command("rm")(remove)
    app.command()(gc)


def list_models(
    context: typer.Context,
    as_json: Json = False,
    catalogue: Annotated[
        bool, typer.Option("--catalogue", help="models that `pull` knows by name instead")
    ] = False,
    files: Annotated[
        bool, typer.Option("--files", help="every file instead, companions and broken ones as well")
    ] = False,
) -> None:
    """List the models of the library, and files that are broken."""
    from darkroom.manager.cli.output import console, print_json, print_table
    from darkroom.manager.cli.session import run
    from darkroom.manager.units import readable_bytes

    async def work(api: Api) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        if catalogue or files:
            path = "/v1/catalogue" if catalogue else "/v1/store/library"
            return (await api.call("GET", path))["data"], []
        models = (await api.call("GET", "/v1/models"))["data"]
        every = (await api.call("GET", "/v1/store/library"))["data"]
        return models, [file for file in every if file["broken"]]

    found, broken = run(context, work)
    if as_json:
        print_json(found)
        return
    sized = [{**each, "bytes": readable_bytes(each["size"]) if each.get("size") else ""} for each in found]
    if files:
        described = [(f["path"], f["bytes"], f["problem"] or _parts(f)) for f in sized]
        print_table(("file", "size", "what it is"), described, "There are no files.")
    elif catalogue:
        rows = [(m["id"], m["title"], m["bytes"], m["licence"], "gated" if m["gated"] else "") for m in sized]
        print_table(("name", "model", "size", "licence", ""), rows, "The catalogue is empty.")
    else:
        print_table(("name", "model", "type", "size", "state"), map(_row, sized), "There are no models.")
    if broken:
        console().print("\nFiles that cannot be used:", style="bold")
        print_table(("file", "what is wrong"), [(f["path"], f["problem"]) for f in broken], "")


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    if model["owned_by"] == "alias":
        return model["id"], model["of"], "", "", "alias"
    return model["id"], model["title"], model["type"], model["bytes"], _state(model)


def _parts(file: dict[str, Any]) -> str:
    return ", ".join(part["title"] for part in file["parts"])


def _state(model: dict[str, Any]) -> str:
    if model["missing"]:
        return f"needs {', '.join(model['missing'])}"
    if not model["engine"] and model["state"] == "absent":
        return "needs another engine"
    return str(model["state"]) if model["state"] != "absent" else "ready to load"


def show(context: typer.Context, model: Model, as_json: Json = False) -> None:
    """Show a model, its settings and its companions."""
    from darkroom.manager.cli.output import console, print_json
    from darkroom.manager.cli.session import run
    from darkroom.manager.units import readable_bytes

    async def work(api: Api) -> dict[str, Any]:
        found = await api.call("GET", f"/v1/models/{model}")
        parts = await api.call("GET", f"/v1/models/{model}/components")
        settings = await api.call("GET", f"/admin/settings/{model}")
        return {**found, "components": parts["components"], "settings": settings["settings"]}

    found = run(context, work)
    if as_json:
        print_json(found)
        return
    out = console()
    out.print(found["id"], style="bold", markup=False)
    shown = {**found, "size": readable_bytes(found["size"]), "state": _state(found)}
    for name in ("title", "family", "variant", "type", "size", "file", "state"):
        if shown[name]:
            out.print(f"  {name:<8} {shown[name]}", markup=False, soft_wrap=True)
    chosen = {name: each for name, each in found["settings"].items() if each["requested"] not in _UNSET}
    for name, each in chosen.items():
        out.print(f"  {name:<8} {each['requested']}", markup=False, soft_wrap=True)
    if found["components"]:
        out.print()
        _print_components(found["components"])


def components(
    context: typer.Context,
    model: Model,
    fetch: Annotated[bool, typer.Option("--fetch", help="download what is missing")] = False,
    as_json: Json = False,
) -> None:
    """Show what a model is made of; with --fetch, get what is missing. Exit 1 while something is."""
    from darkroom.manager.cli.output import console, print_json
    from darkroom.manager.cli.session import run

    async def work(api: Api) -> dict[str, Any]:
        if fetch:
            started = await api.call("POST", f"/v1/models/{model}/components:fetch")
            await follow_downloads(api, started["downloads"])
        found: dict[str, Any] = await api.call("GET", f"/v1/models/{model}/components")
        return found

    found = run(context, work)
    if as_json:
        print_json(found)
    elif found["components"]:
        _print_components(found["components"])
    else:
        console().print(f"{found['model']} needs no companions.", markup=False)
    if not found["ready"]:
        raise typer.Exit(1)


def _print_components(parts: list[dict[str, Any]]) -> None:
    from darkroom.manager.cli.output import print_table
    from darkroom.manager.units import readable_bytes

    rows = [
        (
            part["role"],
            part["state"] + ("" if part["required"] else " (optional)"),
            readable_bytes(part["size"]) if part["size"] else "",
            part["problem"] or part["file"] or part["source"],
            part["why"] or " ".join(filter(None, (part["licence"], "gated" if part["gated"] else ""))),
        )
        for part in parts
    ]
    print_table(("role", "state", "size", "file or source", "why, licence"), rows, "")


def pull(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="a name of `list --catalogue`, hf:owner/repo/file, or a URL")],
    role: Annotated[str, typer.Option(help="what the file is, where its source does not tell")] = "model",
    sha256: Annotated[str, typer.Option(help="refuse anything else")] = "",
    companions: Annotated[bool, typer.Option(help="what a catalogue's model needs as well")] = True,
    as_json: Json = False,
) -> None:
    """Download a model, and what it needs."""
    from darkroom.manager.cli.output import print_json
    from darkroom.manager.cli.session import run

    async def work(api: Api) -> list[dict[str, Any]]:
        body = {"source": source, "role": role, "sha256": sha256, "companions": companions}
        started = await api.call("POST", "/v1/downloads", json=body)
        return await follow_downloads(api, started["data"])

    done = run(context, work)
    if as_json:
        print_json(done)
    else:
        for each in done:
            typer.echo(each["file"])


async def follow_downloads(api: Api, downloads: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Bars until all of them are over. Errors: Refused with what stopped the first that failed."""
    from darkroom.manager.cli.output import byte_progress
    from darkroom.manager.cli.session import Refused

    with byte_progress() as progress:

        async def follow(download: dict[str, Any]) -> dict[str, Any]:
            bar = progress.add_task(download["name"], total=download["total"])
            async for event in api.events("GET", f"/v1/downloads/{download['id']}/events"):
                download = event.json()
                progress.update(bar, completed=download["received"], total=download["total"])
            return download

        done = await asyncio.gather(*map(follow, downloads))
    for download in done:
        if download["state"] != "completed":
            error = download["error"] or {"message": f"{download['name']}: {download['state']}"}
            raise Refused(error["message"], error.get("code") or "", error.get("details"))
    return list(done)


def import_files(
    context: typer.Context,
    paths: Annotated[list[Path], typer.Argument(help="model files, or folders of another program")],
    role: Annotated[str, typer.Option(help="what files are: model, vae, t5xxl, ... (told by content)")] = "",
    as_json: Json = False,
) -> None:
    """Take model files into the store without copying; use folders of other programs where they are."""
    from darkroom.manager.cli.output import print_json
    from darkroom.manager.cli.session import run

    async def work(api: Api) -> list[Any]:
        body = {"role": role}
        return [
            await api.call("POST", "/v1/store/import", json={**body, "path": str(path.absolute())})
            for path in paths
        ]

    done = run(context, work)
    if as_json:
        print_json(done)
    else:
        for each in done:
            typer.echo(each["summary"])


def remove(context: typer.Context, model: Model) -> None:
    """Take a pulled model, or another file, out of the store; `gc` drops companions that no model uses."""
    from darkroom.manager.cli.session import run

    run(context, lambda api: api.call("DELETE", f"/v1/models/{model}"))


def gc(
    context: typer.Context,
    force: Annotated[bool, typer.Option("--force", help="do it; without, show what would go")] = False,
    purge: Annotated[
        bool, typer.Option("--purge", help="at once, instead of keeping files for a week")
    ] = False,
    as_json: Json = False,
) -> None:
    """Drop files of the store that no model uses."""
    from darkroom.manager.cli.output import console, print_json, print_table
    from darkroom.manager.cli.session import run
    from darkroom.manager.units import readable_bytes

    options = {"dry_run": not force, "purge": purge}
    found = run(context, lambda api: api.call("POST", "/v1/store/gc", params=options))
    if as_json:
        print_json(found)
        return
    rows = [(i["name"], readable_bytes(i["size"]), i["reason"]) for i in found["removed"] + found["deleted"]]
    print_table(("file", "size", "why"), rows, "Nothing to drop.")
    if rows:
        done = "would be" if found["dry_run"] else "are"
        console().print(f"{readable_bytes(found['bytes'])} {done} free again.", markup=False)
