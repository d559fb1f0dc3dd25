"""What the user decided and what must stay the same: names of models, attached files, aliases."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from darkroom.api.errors import RequestError
from darkroom.manager.library.roles import FileRole

logger = logging.getLogger(__name__)


@dataclass
class Choices:
    """A JSON file, written whole whenever something changes.

    names: model names by path. attached: files by model name and role. aliases: other names of models.
    """

    path: Path
    names: dict[Path, str] = field(default_factory=dict)
    attached: dict[str, dict[FileRole, Path]] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    @classmethod
    def read(cls, path: Path) -> Choices:
        """What the file says; nothing where there is none. Raises RequestError for one that is damaged."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                path,
                {Path(file): str(name) for file, name in data.get("names", {}).items()},
                {
                    model: {FileRole(role): Path(file) for role, file in roles.items()}
                    for model, roles in data.get("attached", {}).items()
                },
                {str(alias): str(name) for alias, name in data.get("aliases", {}).items()},
            )
        except FileNotFoundError:
            return cls(path)
        except (OSError, ValueError, AttributeError) as err:
            raise RequestError(
                f"{path}: is damaged ({err}); repair it or move it away to start anew"
            ) from err

    @contextmanager
    def changing(self) -> Iterator[None]:
        """For whoever changes something: one at a time, and the file is written afterwards."""
        with self._lock:
            yield
            self._write()

    def _write(self) -> None:
        """All or nothing."""
        data = {
            "names": {str(file): name for file, name in sorted(self.names.items())},
            "attached": {
                model: {role.value: str(file) for role, file in roles.items()}
                for model, roles in sorted(self.attached.items())
                if roles
            },
            "aliases": dict(sorted(self.aliases.items())),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        with new.open("w", encoding="utf-8") as file:
            json.dump(data, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path)
