from __future__ import annotations

import io
import json
import logging
import warnings
from datetime import datetime

from darkroom.core.log import LogFormat, log_fields, logging_to

logger = logging.getLogger("darkroom.test")


def log(*, verbose: bool = False, color: bool = False) -> str:
    stream = io.StringIO()
    with logging_to(stream, verbose=verbose, color=color):
        logger.debug("detail")
        logger.info("phase")
        logger.warning("size")
    logger.warning("afterwards")
    return stream.getvalue()


def test_only_warnings_without_verbose() -> None:
    assert log() == "[WARN ] size\n"


def test_everything_with_verbose() -> None:
    assert log(verbose=True) == "[DEBUG] detail\n[INFO ] phase\n[WARN ] size\n"


def test_tags_are_coloured_on_request() -> None:
    assert log(color=True) == "\x1b[33m[WARN ]\x1b[0m size\n"


def test_warnings_of_libraries_show_only_with_verbose() -> None:
    for verbose in (False, True):
        stream = io.StringIO()
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            with logging_to(stream, verbose=verbose):
                warnings.warn("old name", DeprecationWarning, stacklevel=1)
        assert ("old name" in stream.getvalue()) is verbose


def test_a_traceback_follows_its_message() -> None:
    stream = io.StringIO()
    with logging_to(stream):
        try:
            raise ValueError("inner")
        except ValueError:
            logger.exception("outer")
    assert stream.getvalue().startswith("[ERROR] outer\nTraceback")


def test_what_lines_are_logged_for() -> None:
    stream = io.StringIO()
    with logging_to(stream, verbose=True):
        with log_fields(job="a"), log_fields(request="b c"):
            logger.info("picture", extra={"fields": {"seconds": 1.5, "seed": None}})
        logger.info("afterwards")
    assert stream.getvalue() == '[INFO ] picture job=a request="b c" seconds=1.5\n[INFO ] afterwards\n'


def test_one_object_a_line() -> None:
    stream = io.StringIO()
    with logging_to(stream, format=LogFormat.JSON), log_fields(job="a"):
        try:
            raise ValueError("inner")
        except ValueError:
            logger.exception("outer\nmost", extra={"fields": {"n": 1}})
    (line,) = stream.getvalue().splitlines()
    read = json.loads(line)
    assert datetime.fromisoformat(read.pop("time"))
    assert "ValueError: inner" in read.pop("traceback")
    assert read == {"level": "error", "logger": "darkroom.test", "message": "outer\nmost", "job": "a", "n": 1}


def test_a_talkative_logger_needs_no_verbose() -> None:
    for verbose in (False, True):
        stream = io.StringIO()
        with logging_to(stream, verbose=verbose, talkative="darkroom.test"):
            logger.info("phase")
            logging.getLogger("darkroom.other").info("other")
        assert stream.getvalue() == "[INFO ] phase\n" + "[INFO ] other\n" * verbose
