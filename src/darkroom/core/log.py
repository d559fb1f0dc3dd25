"""Where log lines go and how they look. The library itself only ever calls `logging.getLogger(__name__)`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class TextSink(Protocol):
    """Where lines are written: a stream, or what keeps a progress bar below them."""

    def write(self, text: str, /) -> object:
        """Takes whole lines."""

    def flush(self) -> object:
        """Lets go of what is held back."""


_COLORS = {"DEBUG": "2", "INFO": "32", "WARN": "33", "ERROR": "31"}


class _TagFormatter(logging.Formatter):
    """`[INFO ] message`, the tag coloured if asked."""

    def __init__(self, color: bool) -> None:
        super().__init__()
        self._color = color

    def format(self, record: logging.LogRecord) -> str:
        name = {"WARNING": "WARN", "CRITICAL": "ERROR"}.get(record.levelname, record.levelname)
        tag = f"[{name:<5}]"
        if self._color:
            tag = f"\033[{_COLORS.get(name, '0')}m{tag}\033[0m"
        text = record.getMessage()
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        return f"{tag} {text}"


@contextmanager
def logging_to(stream: TextSink, *, verbose: bool = False, color: bool = False) -> Iterator[None]:
    """Sends Darkroom's log to `stream`: warnings and errors, with `verbose` everything.

    Warnings of libraries, Python's and Pillow's, join the log and show only with `verbose`.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_TagFormatter(color))
    levels = {
        "darkroom": logging.DEBUG if verbose else logging.WARNING,
        "py.warnings": logging.WARNING if verbose else logging.CRITICAL,
        "PIL": logging.WARNING if verbose else logging.CRITICAL,
    }
    loggers = [logging.getLogger(name) for name in levels]
    before = [(logger, logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.setLevel(levels[logger.name])
        logger.addHandler(handler)
        logger.propagate = False
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger, level, propagate in before:
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
