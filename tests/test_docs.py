"""What the pages show and name is there: commands, files, other pages."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from darkroom.cli.arguments import parse

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
pages = pytest.mark.parametrize("page", PAGES)


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def commands(page: str) -> list[list[str]]:
    """The arguments of every sd-cli in a block of code, fenced or indented."""
    text = read(page).replace("\\\n", " ")
    found = re.findall(r"^(?: {4})?(?:\S*/)?sd-cli (?!─)(.+)$", text, re.MULTILINE)
    return [shlex.split(command, comments=True) for command in found]


@pages
def test_every_command_is_understood(page: str) -> None:
    for command in commands(page):
        parse(command)


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith(("README", "docs/models/"))])
def test_every_model_has_a_command(page: str) -> None:
    assert commands(page)


@pages
def test_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", read(page))
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


@pages
def test_files_that_are_named_are_there(page: str) -> None:
    named = re.findall(
        r"\b(?:src/darkroom|tests|docs|benchmarks|training)/[\w/.-]+\.(?:py|md|txt)\b", read(page)
    )
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_room_has_the_files_that_are_named() -> None:
    rows = re.findall(r"^\| `(\w+)/` \| (.+) \|$", read("ARCHITECTURE.md"), re.MULTILINE)
    assert len(rows) > 10
    for room, text in rows:
        there = {path.name for path in (ROOT / "src" / "darkroom" / room).rglob("*.py")}
        assert {Path(name).name for name in re.findall(r"`([\w/]+\.py)`", text)} <= there
