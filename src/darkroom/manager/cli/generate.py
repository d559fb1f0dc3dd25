"""`darkroom generate`: a picture from a prompt, by the manager that runs or a pool of its own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from darkroom.manager.cli.models import Model

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from darkroom.manager.cli.session import Api


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(generate)


def generate(
    context: typer.Context,
    model: Model,
    prompt: Annotated[str, typer.Argument(help="what to draw")],
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("-o", "--output", help="a file (several pictures get numbers), or a folder"),
    ] = None,
    negative: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("-n", "--negative-prompt", help="what not to draw"),
    ] = None,
    count: Annotated[int, typer.Option("--count", help="pictures", min=1, max=10)] = 1,
    size: Annotated[Optional[str], typer.Option("--size", help="512x768")] = None,  # noqa: UP045
    seed: Annotated[Optional[int], typer.Option("-s", "--seed", help="-1 is random")] = None,  # noqa: UP045
    steps: Annotated[Optional[int], typer.Option("--steps", help="of the sampler")] = None,  # noqa: UP045
    cfg_scale: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--cfg-scale", help="how closely the prompt is followed"),
    ] = None,
    guidance: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--guidance", help="of distilled networks (Flux)"),
    ] = None,
    sampler: Annotated[Optional[str], typer.Option("--sampler", help="euler, 'DPM++ 2M', ...")] = None,  # noqa: UP045
    scheduler: Annotated[Optional[str], typer.Option("--scheduler", help="karras, ...")] = None,  # noqa: UP045
    strength: Annotated[Optional[float], typer.Option("--strength", help="of image-to-image")] = None,  # noqa: UP045
    image: Annotated[Optional[list[Path]], typer.Option("-i", "--image", help="draw over it")] = None,  # noqa: UP045
    mask: Annotated[Optional[Path], typer.Option("--mask", help="where the picture is drawn anew")] = None,  # noqa: UP045
    as_json: Annotated[bool, typer.Option("--json", help="print the job as JSON")] = False,
) -> None:
    """Draw pictures and print their files' names."""
    from darkroom.manager.cli.output import print_json
    from darkroom.manager.cli.session import run

    suffix = output.suffix.lower().lstrip(".") if output and not output.is_dir() else "png"
    if suffix not in ("png", "jpg", "jpeg", "webp", ""):
        raise typer.BadParameter("a name ending in .png, .jpg or .webp, or a folder", param_hint="--output")
    wanted = {
        "model": model,
        "prompt": prompt,
        "negative_prompt": negative,
        "n": count,
        "size": size,
        "seed": seed,
        "steps": steps,
        "cfg_scale": cfg_scale,
        "guidance": guidance,
        "sampler": sampler,
        "scheduler": scheduler,
        "strength": strength,
        "images": [{"image_url": _data_url(file)} for file in image or ()],
        "mask": {"image_url": _data_url(mask)} if mask else None,
        "output_format": {"jpg": "jpeg", "": "png"}.get(suffix, suffix),
    }
    body = {name: value for name, value in wanted.items() if value not in (None, [])}

    async def work(api: Api) -> tuple[dict[str, Any], list[Path]]:
        job = await _draw(api, body)
        pictures = [await api.data(each["url"]) for each in job["result"]["images"]]
        names = _names(output, len(pictures), job["result"]["output_format"])
        for name, data in zip(names, pictures, strict=True):
            name.parent.mkdir(parents=True, exist_ok=True)
            name.write_bytes(data)
        return job, names

    job, names = run(context, work)
    if as_json:
        print_json({**job, "files": [str(name) for name in names]})
    else:
        for name in names:
            typer.echo(name)


def _data_url(file: Path) -> str:
    import base64

    from darkroom.api.errors import RequestError

    try:
        data = file.read_bytes()
    except OSError as error:
        raise RequestError(f"{file}: {error.strerror}; give a picture") from None
    return f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"


async def _draw(api: Api, body: dict[str, Any]) -> dict[str, Any]:
    """The finished job, with a bar of steps meanwhile. Ctrl-C cancels it. Errors: Refused."""
    from darkroom.manager.cli.output import step_progress
    from darkroom.manager.cli.session import Refused

    job: dict[str, Any] = await api.call("POST", "/v1/jobs", json=body)
    path, is_over = job["links"]["self"], False
    try:
        with step_progress() as progress:
            bar = progress.add_task("waiting", total=1)
            async for event in api.events("GET", job["links"]["events"]):
                job = event.json()
                _show(progress, bar, job)
        is_over = True
    finally:
        if not is_over:
            await api.call("DELETE", path)
    job = await api.call("GET", path)
    if job["status"] != "completed":
        error = job["error"] or {"message": job["status"], "code": job["status"]}
        raise Refused(error["message"], error["code"], error.get("details"))
    return job


def _show(progress: Progress, bar: TaskID, job: dict[str, Any]) -> None:
    if job["phase"] == "load":
        total = job["bytes_total"] or 1
        progress.update(
            bar, description="loading, percent", completed=100 * job["bytes_read"] // total, total=100
        )
        return
    number = f" {job['image']} of {job['images']}" if job["images"] > 1 and job["image"] else ""
    text = job["phase"].replace("_", " ") + number
    progress.update(bar, description=text, completed=job["step"], total=job["steps"] or 1)


def _names(output: Path | None, count: int, kind: str) -> list[Path]:
    """Files for the pictures; a folder, or no name at all, gives them the time as their name."""
    suffix = {"jpeg": ".jpg"}.get(kind, f".{kind}")
    if output is None or output.is_dir() or not output.suffix:
        output = (output or Path()) / f"darkroom-{time.strftime('%Y%m%d-%H%M%S')}{suffix}"
    if count == 1:
        return [output]
    return [output.with_name(f"{output.stem}_{number}{output.suffix}") for number in range(1, count + 1)]
