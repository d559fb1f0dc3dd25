"""What a process prints: its last lines, a log file, the progress of engines that tell it nowhere else."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TAIL_LINES = 200
LOG_BYTES = 4 * 1024**2
"""a log that grows larger becomes `.1`"""

_BAR = re.compile(r"(\d+)/(\d+) - ([\d.]+)\s*(s/it|it/s|[KMG]?i?B/s)")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_SECRETS = re.compile(r"hf_[A-Za-z0-9]{8,}|sk-[A-Za-z0-9_-]{8,}|(?<=[Bb]earer )\S+")


@dataclass(frozen=True)
class Bar:
    """One state of stable-diffusion.cpp's progress bar: `3/20 - 1.23s/it`.

    loading: it counts tensors, not steps. seconds: a step's, 0 while it loads.
    """

    done: int
    total: int
    loading: bool
    seconds: float


def read_bar(line: str) -> Bar | None:
    """The progress bar in a line, None in any other line."""
    found = _BAR.search(line)
    if not found:
        return None
    amount, unit = float(found[3]), found[4]
    seconds = {"s/it": amount, "it/s": 1 / amount if amount else 0.0}.get(unit, 0.0)
    return Bar(int(found[1]), int(found[2]), unit.endswith("B/s"), seconds)


class Output:
    """The last lines of one process and the file that has them all."""

    def __init__(self, file: Path, on_bar: Callable[[Bar], None], on_line: Callable[[], None]) -> None:
        self._file = file
        self._on_bar = on_bar
        self._on_line = on_line
        self._lines: deque[str] = deque(maxlen=TAIL_LINES)
        self._bar = ""
        self._rest = b""
        self._count = 0

    def feed(self, data: bytes) -> None:
        """Takes what has just been printed."""
        *lines, self._rest = re.split(rb"\r\n|[\r\n]", self._rest + data)
        self._rest = self._rest[-65536:]
        texts = [self._readable(line) for line in lines]
        written = []
        for text in texts:
            if bar := read_bar(text):
                self._bar = text
                self._on_bar(bar)
            elif text:
                self._lines.append(text)
                self._count += 1
                written.append(text)
        if texts:
            self._on_line()
        if written:
            self.write("\n".join(written))

    def write(self, text: str) -> None:
        """Adds to the file; a full disk costs the log, not the picture."""
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            if self._file.exists() and self._file.stat().st_size > LOG_BYTES:
                self._file.replace(self._file.with_name(self._file.name + ".1"))
            with self._file.open("a", encoding="utf-8") as stream:
                stream.write(text + "\n")
        except OSError:
            return

    @property
    def count(self) -> int:
        """How many lines there have been."""
        return self._count

    def since(self, count: int) -> tuple[str, ...]:
        """The lines after the first `count`, as far as they are kept."""
        new = min(self._count - count, len(self._lines))
        return tuple(self._lines)[len(self._lines) - new :]

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines, the unfinished one and the last state of a progress bar included."""
        unfinished = self._readable(self._rest)
        return tuple(line for line in (*self._lines, self._bar, unfinished) if line)

    @staticmethod
    def _readable(line: bytes) -> str:
        text = _ESCAPES.sub("", line.decode("utf-8", "replace")).rstrip()
        return _SECRETS.sub("***", text)


def last_lines(file: Path) -> tuple[str, ...]:
    """The end of a log; nothing when there is none."""
    try:
        with file.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - 64 * 1024))
            text = stream.read().decode("utf-8", "replace")
    except OSError:
        return ()
    return tuple(text.splitlines()[-TAIL_LINES:])
