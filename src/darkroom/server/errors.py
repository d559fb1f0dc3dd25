"""What goes wrong at a server's door, and how each API says it."""

from __future__ import annotations

from collections.abc import Mapping

from darkroom.api.errors import (
    Cancelled,
    CheckpointError,
    DarkroomError,
    OutOfMemoryError,
    PlacementError,
    RequestError,
)


class ApiError(DarkroomError):
    """An error with its HTTP answer.

    status: of HTTP. code: for programs. type: OpenAI's kind of error; None follows the status.
    param: the field that is wrong. headers: of the answer, Retry-After for example.
    """

    status = 400
    code: str | None = None
    type: str | None = None

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        type: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status or self.status
        self.code = code or self.code
        self.type = type or self.type
        self.param = param
        self.headers = dict(headers or {})


class InvalidField(ApiError, RequestError):
    """A field of a request that cannot be as it is. param: its name."""

    code = "invalid_value"


class JobNotFound(ApiError):
    """No job has this id."""

    status, code = 404, "not_found"


class JobExpired(ApiError):
    """The job was finished long ago and is forgotten."""

    status, code = 410, "job_expired"


class QueueFull(ApiError):
    """As many jobs wait as may."""

    status, code, type = 429, "queue_full", "rate_limit_exceeded"


class NotReady(ApiError):
    """The model is still being loaded, or could not be."""

    status, code = 503, "model_not_ready"


class ShuttingDown(ApiError):
    """The server takes no more work."""

    status, code = 503, "shutting_down"


class BodyTooLarge(ApiError):
    """More bytes than a request may have."""

    status, code = 413, "request_too_large"


def has_run_out(error: BaseException | None) -> bool:
    """Whether an error of Python's own says that there is no more memory, be it for a thread."""
    is_thread = isinstance(error, RuntimeError) and "can't start new thread" in str(error)
    return is_thread or isinstance(error, MemoryError)


def fault(error: Exception) -> DarkroomError:
    """What is told of an error that nobody foresaw."""
    if has_run_out(error):
        return OutOfMemoryError("the server is out of memory; a smaller picture needs less")
    return DarkroomError(f"a fault in Darkroom: {type(error).__name__}: {error}")


def status_of(error: Exception) -> int:
    """The HTTP status that an error stands for."""
    match error:
        case ApiError():
            return error.status
        case RequestError() | PlacementError():
            return 400
        case Cancelled():
            return 409
        case OutOfMemoryError():
            return 507
        case CheckpointError():
            return 503
        case _:
            return 500


def code_of(error: Exception) -> str:
    """What a program calls the error."""
    match error:
        case ApiError(code=str(code)):
            return code
        case RequestError() | ApiError():
            return "invalid_request"
        case OutOfMemoryError():
            return "out_of_memory"
        case Cancelled():
            return "cancelled"
        case _:
            return "generation_failed"
