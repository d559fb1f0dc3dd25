"""The commands that the documentation shows are commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from darkroom.cli.arguments import parse

ROOT = Path(__file__).parents[2]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")])


def commands(page: str) -> list[list[str]]:
    """The arguments of every sd-cli in a block of code, fenced or indented."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"^(?: {4})?(?:\S*/)?sd-cli (.+)$", text, re.MULTILINE)
    return [shlex.split(command, comments=True) for command in found]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_understood(page: str) -> None:
    for command in commands(page):
        parse(command)


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith(("README", "docs/models/"))])
def test_every_model_has_a_command(page: str) -> None:
    assert commands(page)
