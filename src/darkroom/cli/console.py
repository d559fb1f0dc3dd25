"""Standard error with one live line at the bottom, which log lines do not tear."""

from __future__ import annotations

import os
from typing import TextIO


class Console:
    """Text over `stream`; `live` shows a line that the next text replaces or moves down."""

    def __init__(self, stream: TextIO, *, color: bool = False) -> None:
        self._stream = stream
        self._color = color
        self._live = ""
        self.is_terminal = stream.isatty()

    def write(self, text: str, /) -> int:
        """Whole lines; a live line is kept below them."""
        self._erase()
        self._stream.write(text + self._live)
        self._stream.flush()
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def line(self, text: str) -> None:
        """One line for people."""
        self.write(text + "\n")

    def error(self, text: str) -> None:
        """`error: text`, after the live line was let go."""
        self.settle()
        tag = "\033[31merror:\033[0m" if self._color else "error:"
        self.line(f"{tag} {text}")

    def live(self, text: str) -> None:
        """Shows `text`, cut to the terminal, instead of the live line before it."""
        self._erase()
        self._live = text[: self._columns() - 1]
        self._stream.write(self._live)
        self._stream.flush()

    def settle(self) -> None:
        """Leaves the live line standing and starts a new one."""
        if self._live:
            self._live = ""
            self._stream.write("\n")
            self._stream.flush()

    def can_show(self, text: str) -> bool:
        """Whether the stream's encoding has these characters."""
        try:
            text.encode(getattr(self._stream, "encoding", None) or "ascii")
        except UnicodeEncodeError:
            return False
        return True

    def _erase(self) -> None:
        # overwritten with blanks: not every console on Windows knows the escape code for it
        if self._live:
            self._stream.write(f"\r{' ' * len(self._live)}\r")

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except OSError:  # no real terminal
            return 80
