from __future__ import annotations

import re
from pathlib import Path

import pytest

from darkroom.cli.arguments import OPTIONS
from darkroom.cli.help import help_text
from darkroom.cli.reference import reference


@pytest.mark.parametrize("columns", [40, 80, 90, 300])
def test_lines_fit_80_to_100_columns_and_descriptions_align(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = help_text().splitlines()
    assert max(map(len, lines)) <= min(100, max(80, columns))
    described = [line for line in lines if line.startswith("  ")]
    assert all(line[30:32].strip() == "" and line[32] != " " for line in described)


def test_sections_come_in_the_order_of_stable_diffusion_cpp() -> None:
    titles = re.findall(r"^(\w.* Options):$", help_text(), re.MULTILINE)
    assert titles == ["CLI Options", "Context Options", "Generation Options"]


def test_every_spelling_is_in_the_help() -> None:
    words = set(re.findall(r"(?<![\w-])--?[\w-]+", help_text()))
    aliases = {alias for option in OPTIONS.values() for alias in option.flag.aliases}
    assert set(OPTIONS) - aliases <= words


def test_defaults_and_allowed_values_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(help_text().split())
    assert "one of [std_default, cuda, cpu] (default: cuda)" in text
    assert "(default: 0.75)" in text
    assert "(default: 42)" in text


def test_the_page_in_docs_is_fresh() -> None:
    page = Path(__file__).parents[2] / "docs" / "cli.md"
    assert page.read_text(encoding="utf-8") == reference(), (
        "run: python -m darkroom.cli.reference > docs/cli.md"
    )
