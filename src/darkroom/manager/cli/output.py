"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table


def console() -> Console:
    """Standard output."""
    return Console(highlight=False)


def err_console() -> Console:
    """Where bars and remarks go, so that standard output holds results alone."""
    return Console(stderr=True, highlight=False)


def print_json(document: Any) -> None:  # noqa: ANN401 - JSON
    """On standard output, indented."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, default=str) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """Rows under their columns; `empty` where there are none."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    out = console()
    out.print(table if table.row_count else empty, soft_wrap=not table.row_count, markup=False)


def byte_progress() -> Progress:
    """Bars of bytes, gone when they are done."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=(out := err_console()),
        disable=not out.is_terminal,
        transient=True,
    )


def step_progress() -> Progress:
    """Bars of steps."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeRemainingColumn(),
        console=(out := err_console()),
        disable=not out.is_terminal,
        transient=True,
    )
