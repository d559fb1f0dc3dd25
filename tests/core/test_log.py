from __future__ import annotations

import io
import logging
import warnings

from darkroom.core.log import logging_to

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
