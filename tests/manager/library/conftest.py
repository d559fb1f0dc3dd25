"""A library in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from darkroom.manager.config import Paths
from darkroom.manager.library.library import Library


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths.under(tmp_path / "home")


@pytest.fixture
def folder(paths: Paths) -> Path:
    """The manager's own models folder."""
    paths.models.mkdir(parents=True)
    return paths.models


@pytest.fixture
def library(paths: Paths, folder: Path) -> Iterator[Library]:
    library = Library(paths)
    yield library
    library.close()
