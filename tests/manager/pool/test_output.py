"""What processes print."""

from __future__ import annotations

from pathlib import Path

import pytest

from darkroom.manager.pool.output import LOG_BYTES, TAIL_LINES, Bar, Output, read_bar


@pytest.mark.parametrize(
    ("line", "bar"),
    [
        ("  |==>                 | 3/20 - 1.25s/it", Bar(3, 20, False, 1.25)),
        ("  |======>             | 10/20 - 2.00it/s\033[K", Bar(10, 20, False, 0.5)),
        ("  |####                | 120/686 - 1.25GB/s", Bar(120, 686, True, 0.0)),
        ("  |####                | 120/686 - 830.20MB/s", Bar(120, 686, True, 0.0)),
        ("[INFO ] sampling completed, taking 1.2s", None),
    ],
)
def test_progress_bars(line: str, bar: Bar | None) -> None:
    assert read_bar(line) == bar


@pytest.fixture
def bars() -> list[Bar]:
    return []


@pytest.fixture
def output(tmp_path: Path, bars: list[Bar]) -> Output:
    return Output(tmp_path / "logs" / "a.log", bars.append, lambda: None)


def test_lines_come_in_pieces_and_bars_do_not_fill_the_tail(
    output: Output, bars: list[Bar], tmp_path: Path
) -> None:
    output.feed(b"[INFO ] load")
    output.feed(b"ing\r\n\x1b[32mgreen\x1b[0m\n")
    for step in range(1, 301):
        output.feed(f"\r  |=> | {step}/300 - 0.10s/it\033[K".encode())
    output.feed("\nfertig: ä\nunfinished".encode())
    assert len(bars) == 300
    assert output.tail == (
        "[INFO ] loading", "green", "fertig: ä", "  |=> | 300/300 - 0.10s/it", "unfinished"
    )  # fmt: skip
    assert (tmp_path / "logs" / "a.log").read_text() == "[INFO ] loading\ngreen\nfertig: ä\n"


def test_the_tail_has_the_last_lines_and_no_secrets(output: Output) -> None:
    output.feed(b"".join(b"line %d\n" % number for number in range(1000)))
    output.feed(b"token hf_abcdefghijkl, Authorization: Bearer xyz123\n")
    assert len(output.tail) == TAIL_LINES
    assert output.tail[-2] == "line 999"
    assert output.tail[-1] == "token ***, Authorization: Bearer ***"


def test_what_is_new_since_a_moment(output: Output) -> None:
    output.feed(b"old\n")
    count = output.count
    assert output.since(count) == ()
    output.feed(b"new\nnewer\n")
    assert output.since(count) == ("new", "newer")
    output.feed(b"many\n" * 500)
    assert output.since(count) == ("many",) * TAIL_LINES


def test_bytes_that_are_no_text(output: Output) -> None:
    output.feed(b"\xff\xfe\n" + b"x" * 200_000)
    assert output.tail[0] == "\ufffd\ufffd"
    assert len(output.tail[1]) == 65536


def test_a_large_log_is_put_aside(output: Output, tmp_path: Path) -> None:
    file = tmp_path / "logs" / "a.log"
    file.parent.mkdir()
    file.write_bytes(b"x" * (LOG_BYTES + 1))
    output.feed(b"new\n")
    assert file.read_text() == "new\n"
    assert file.with_name("a.log.1").stat().st_size == LOG_BYTES + 1
