"""Mode metadata: what a picture says about how it was made, as text or as JSON."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from darkroom.api.errors import RequestError
from darkroom.cli.options import CliOptions, MetadataFormat
from darkroom.core.containers import Entry, parameters_of, read_container
from darkroom.core.infotext import read_infotext

_BRIEF = 240
"""Characters that --metadata-brief leaves of a text."""


def print_metadata(cli: CliOptions) -> None:
    """Prints the metadata of `--image`. Raises RequestError for what is no readable picture."""
    assert cli.image is not None, "the command line was checked"
    report = read_report(cli.image, raw=cli.metadata_raw, structural=cli.metadata_all)
    if cli.metadata_format is MetadataFormat.JSON:
        print(json.dumps(report, indent=2, ensure_ascii=False, default=str))
    else:
        print("\n".join(text_lines(report, brief=cli.metadata_brief)))


def read_report(path: Path, *, raw: bool = False, structural: bool = False) -> dict[str, Any]:
    """File, format, entries as stable-diffusion.cpp names them, and the `parameters` text taken apart.

    A ComfyUI picture's `prompt` and `workflow` texts become JSON values.
    structural: keep the parts that hold no metadata.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RequestError(f"--image: '{path}' cannot be read ({error.strerror})") from None
    format, entries = read_container(data, f"--image: '{path}'", raw)
    parameters = parameters_of(entries)
    report: dict[str, Any] = {
        "file": str(path),
        "format": format,
        "entries": [_shown(entry) for entry in entries if structural or entry["metadata_like"]],
    }
    if parameters:
        read = read_infotext(parameters)
        report["parameters"] = {
            "prompt": read.prompt,
            "negative_prompt": read.negative_prompt,
            **read.settings,
        }
    return report


def _shown(entry: Entry) -> Entry:
    shown = {key: value for key, value in entry.items() if key != "metadata_like"}
    text = entry.get("data", {}).get("text", "")
    if text.startswith(("{", "[")):  # ComfyUI's prompt and workflow
        with contextlib.suppress(ValueError):
            shown["data"] = {**entry["data"], "text": json.loads(text)}
    return shown


def text_lines(report: dict[str, Any], *, brief: bool = False) -> list[str]:
    """The report for people. brief: long texts are cut."""
    lines = [f"File: {report['file']}", f"Format: {report['format']}", ""]
    if not report["entries"]:
        lines.append("No metadata entries found.")
    for entry in report["entries"]:
        is_chunk = entry["entry_type"] == "chunk"
        lines.append(f"Chunk: {entry['name']}" if is_chunk else f"Segment: {entry['marker']}")
        for key, value in entry.items():
            if key not in ("entry_type", "name", "marker"):
                lines += _value_lines(key, value, 2, brief)
        lines.append("")
    if "parameters" in report:
        lines += _value_lines("Parameters", report["parameters"], 0, brief)
    return lines


def _value_lines(key: str, value: Any, indent: int, brief: bool) -> list[str]:  # noqa: ANN401
    start = f"{' ' * indent}{key}:"
    if isinstance(value, dict) and value:
        return [start, *(line for k, v in value.items() for line in _value_lines(k, v, indent + 2, brief))]
    if isinstance(value, dict | list):
        value = json.dumps(value, ensure_ascii=False, default=str)
    text = str(value)
    if brief and len(text) > _BRIEF:
        text = text[:_BRIEF] + "..."
    text = text.replace("\n", f"\n{' ' * (indent + 2)}")
    return [f"{start} {text}".rstrip()]
