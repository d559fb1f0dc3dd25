"""Pictures of durable jobs: a folder for each job, a file for each picture."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from darkroom.manager.gateway.jobs import Job, Picture


class Results:
    """What is below one folder. Its methods block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, job: Job, result: Mapping[str, Any]) -> list[Picture]:
        """Writes the pictures of a sidecar's `result`."""
        folder = self._folder / job.id
        folder.mkdir(parents=True, exist_ok=True)
        suffix = str(result.get("output_format") or "png")
        kept = []
        for index, image in enumerate(result["images"]):
            name = f"{index}.{suffix}"
            (folder / name).write_bytes(base64.b64decode(image["b64_json"]))
            kept.append(Picture(file=name, seed=image.get("seed"), infotext=image.get("infotext") or ""))
        return kept

    def file(self, job: Job, picture: Picture) -> Path:
        """Where a picture is, or was."""
        return self._folder / job.id / picture.file

    def remove(self, job: Job) -> None:
        """Deletes the job's pictures."""
        folder = self._folder / job.id
        with contextlib.suppress(FileNotFoundError):
            for file in folder.iterdir():
                file.unlink(missing_ok=True)
            folder.rmdir()
