"""Where log lines go and how they look. The library itself only ever calls `logging.getLogger(__name__)`.

A record with `extra={"fields": {...}}` is an event: its message names it, the fields say what happened.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Protocol


class TextSink(Protocol):
    """Where lines are written: a stream, or what keeps a progress bar below them."""

    def write(self, text: str, /) -> object:
        """Takes whole lines."""

    def flush(self) -> object:
        """Lets go of what is held back."""


class LogFormat(StrEnum):
    """How lines look: for people, or one JSON object each."""

    TEXT = "text"
    JSON = "json"


_NOTHING: Mapping[str, str] = MappingProxyType({})
_bound: ContextVar[Mapping[str, str]] = ContextVar("bound", default=_NOTHING)


@contextmanager
def log_fields(**fields: str) -> Iterator[None]:
    """Every line that is logged inside carries these fields, too: what it was logged for."""
    token = _bound.set({**_bound.get(), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """The record's own fields, and those that are bound where it was made."""
    return {**_bound.get(), **getattr(record, "fields", {})}


_COLORS = {"DEBUG": "2", "INFO": "32", "WARN": "33", "ERROR": "31"}


class _TagFormatter(logging.Formatter):
    """`[INFO ] message field=value`, the tag coloured if asked."""

    def __init__(self, color: bool) -> None:
        super().__init__()
        self._color = color

    def format(self, record: logging.LogRecord) -> str:
        name = {"WARNING": "WARN", "CRITICAL": "ERROR"}.get(record.levelname, record.levelname)
        tag = f"[{name:<5}]"
        if self._color:
            tag = f"\033[{_COLORS.get(name, '0')}m{tag}\033[0m"
        words = (f"{name}={_word(value)}" for name, value in _fields(record).items() if value is not None)
        text = " ".join((record.getMessage(), *words))
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        return f"{tag} {text}"


class _JsonFormatter(logging.Formatter):
    """An object with `time`, `level`, `logger`, `message`, the fields, and `traceback` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _word(value: object) -> str:
    """A value without spaces and line ends, in quotes where it had any."""
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    return text if text.isprintable() and text and not set(text) & set(' ="') else json.dumps(text)


@contextmanager
def logging_to(
    stream: TextSink,
    *,
    verbose: bool = False,
    color: bool = False,
    format: LogFormat = LogFormat.TEXT,
    talkative: str | None = None,
) -> Iterator[None]:
    """Sends Darkroom's log to `stream`: warnings and errors, with `verbose` everything.

    talkative: a logger that tells what it does without `verbose`, too.
    Warnings of libraries, Python's and Pillow's, join the log and show only with `verbose`.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_JsonFormatter() if format is LogFormat.JSON else _TagFormatter(color))
    levels = {
        "darkroom": logging.DEBUG if verbose else logging.WARNING,
        "py.warnings": logging.WARNING if verbose else logging.CRITICAL,
        "PIL": logging.WARNING if verbose else logging.CRITICAL,
    }
    if talkative and not verbose:
        levels[talkative] = logging.INFO
    loggers = [logging.getLogger(name) for name in levels]
    before = [(logger, logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.setLevel(levels[logger.name])
        if logger.name != talkative:  # it hands on to its parent
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
