from __future__ import annotations

import io
import re

from darkroom.api.result import Phase, Progress
from darkroom.cli.console import Console
from darkroom.cli.progress import PlainProgress, ProgressBar, progress_for


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def screen(text: str) -> list[str]:
    """What a terminal shows after `text`: a line that was erased is gone."""
    return [re.sub(r".*\r *\r", "", line) for line in text.split("\n")]


def run(console: Console, steps: int) -> None:
    show = progress_for(console)
    for done in (0, 5_000_000, 16_000_000):
        show(Progress(Phase.LOAD, done, 16_000_000, 0.1))
    show(Progress(Phase.ENCODE_TEXT, 0, 1, 0.0))
    show(Progress(Phase.ENCODE_TEXT, 1, 1, 0.2))
    for step in range(steps + 1):
        show(Progress(Phase.SAMPLE, step, steps, step * 1.5))
    show(Progress(Phase.DECODE, 0, 1, 0.0))
    show(Progress(Phase.DECODE, 1, 1, 0.3))


def test_a_terminal_gets_a_bar_with_phase_step_seconds_and_time_left() -> None:
    terminal = Terminal()
    console = Console(terminal)
    assert isinstance(progress_for(console), ProgressBar)
    show = ProgressBar(console)
    show(Progress(Phase.SAMPLE, 5, 20, 7.5))
    (line,) = screen(terminal.getvalue())
    assert line == "sample        |██████░░░░░░░░░░░░░░░░░░| 5/20, 1.50 s/it, ETA 0:22"


def test_finished_phases_stay_on_the_screen() -> None:
    terminal = Terminal()
    run(Console(terminal), 4)
    lines = screen(terminal.getvalue())
    assert [line.split("  ")[0] for line in lines] == ["load", "encode text", "sample", "decode", ""]
    assert lines[0].endswith("| 16.0 MB, 0.1 s")
    assert lines[2].endswith("4/4, 1.50 s/it, ETA 0:00")


def test_long_runs_count_hours_and_batches_count_images() -> None:
    terminal = Terminal()
    ProgressBar(Console(terminal))(Progress(Phase.SAMPLE, 1, 100, 60.0, image=2, images=3))
    (line,) = screen(terminal.getvalue())
    assert line.startswith("sample 2/3 ")
    assert line.endswith("ETA 1:39:00")


def test_a_log_line_does_not_tear_the_bar() -> None:
    terminal = Terminal()
    console = Console(terminal)
    ProgressBar(console)(Progress(Phase.SAMPLE, 1, 2, 1.0))
    console.line("news")
    assert screen(terminal.getvalue())[0] == "news"
    assert screen(terminal.getvalue())[1].startswith("sample")


def test_a_terminal_without_block_characters_gets_a_plain_bar() -> None:
    terminal = Terminal()
    terminal.encoding = "ascii"  # type: ignore[misc]
    ProgressBar(Console(terminal))(Progress(Phase.SAMPLE, 1, 2, 1.0))
    assert terminal.getvalue().isascii()


def test_a_pipe_gets_plain_lines_about_every_tenth() -> None:
    pipe = io.StringIO()
    console = Console(pipe)
    assert isinstance(progress_for(console), PlainProgress)
    run(console, 40)
    lines = pipe.getvalue().splitlines()
    assert lines[0] == "load: 16.0 MB, 0.1 s"
    assert lines[1] == "encode text: 0.2 s"
    assert lines[2:12] == [
        f"sample: {4 * i}/40, 1.50 s/it, ETA {clock}"
        for i, clock in enumerate(
            ["0:54", "0:48", "0:42", "0:36", "0:30", "0:24", "0:18", "0:12", "0:06", "0:00"], 1
        )
    ]
    assert lines[12:] == ["decode: 0.3 s"]
    assert "\r" not in pipe.getvalue()
    assert "\x1b" not in pipe.getvalue()


def test_a_load_that_never_reaches_its_total_is_still_told() -> None:
    pipe = io.StringIO()
    show = PlainProgress(Console(pipe))
    show(Progress(Phase.LOAD, 4_000_000, 5_000_000, 0.5))
    show(Progress(Phase.DECODE, 0, 1, 0.0))
    show(Progress(Phase.DECODE, 1, 1, 0.1))
    assert pipe.getvalue() == "load: 4.0 MB of 5.0 MB, 0.5 s\ndecode: 0.1 s\n"


def test_phases_that_are_logged_are_not_told_twice() -> None:
    pipe = io.StringIO()
    show = progress_for(Console(pipe), phases_are_logged=True)
    show(Progress(Phase.ENCODE_TEXT, 1, 1, 0.1))
    show(Progress(Phase.SAMPLE, 1, 1, 1.0))
    assert pipe.getvalue() == "sample: 1/1, 1.00 s/it, ETA 0:00\n"
