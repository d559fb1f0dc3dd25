"""The manager's log: a line for each thing that happened, as JSON or for people; no prompts, no keys."""

from __future__ import annotations

import json
import logging
import re
from contextvars import ContextVar
from typing import Literal, TextIO

LogFormat = Literal["text", "json"]

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Of the request that the running code serves."""

_SECRETS = re.compile(r"\b(hf_|sk-|dk-[0-9a-f]{8}-)[\w-]{8,}|(?i:bearer\s+)[\w.~+/=-]{8,}")
_FIELDS = ("method", "path", "status", "ms", "model", "key", "client", "job", "pid")


def redact(text: str) -> str:
    """The text without tokens and keys."""
    return _SECRETS.sub(lambda found: f"{found[1] or 'Bearer '}...", text)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        line: dict[str, object] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        if id := request_id.get():
            line["request_id"] = id
        line |= {name: getattr(record, name) for name in _FIELDS if getattr(record, name, None) is not None}
        if record.exc_info:
            line["traceback"] = redact(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False, default=str)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def configure(stream: TextIO, format: LogFormat, *, verbose: bool = False) -> None:
    """Sends the log of the manager and of its web server to `stream`."""
    handler = logging.StreamHandler(stream)
    text = _TextFormatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
    handler.setFormatter(JsonFormatter() if format == "json" else text)
    for name in ("darkroom", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(logging.DEBUG if verbose and name == "darkroom" else logging.INFO)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
