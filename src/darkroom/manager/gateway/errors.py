"""What the gateway answers when it cannot do what was asked: each error with its status, code and remedy."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from darkroom.api.errors import Cancelled, DarkroomError, OutOfMemoryError, RequestError
from darkroom.api.openai.errors import ErrorCode, ErrorObject, ErrorType, FieldError
from darkroom.manager.library.errors import (
    AmbiguousModel,
    BrokenModel,
    ComponentMismatch,
    ComponentsMissing,
    UnknownModel,
    UnsupportedModel,
)
from darkroom.manager.net_guard import AddressRefused
from darkroom.manager.pool.errors import (
    FailureKind,
    LoadFailed,
    PoolFull,
    Quarantined,
    ShuttingDown,
    SidecarError,
    SidecarLost,
)
from darkroom.manager.store.errors import (
    DownloadFailed,
    FileNotOffered,
    FileRejected,
    GatedFile,
    Offline,
    StoreFull,
)

logger = logging.getLogger(__name__)

_TAIL_LINES = 20
_PERMANENT = {
    FailureKind.BAD_FILE,
    FailureKind.MISSING_TENSOR,
    FailureKind.UNKNOWN_MODEL,
    FailureKind.BAD_SETTING,
}


class GatewayError(DarkroomError):
    """An error with its HTTP answer.

    retry: what `x-should-retry` says; None leaves it to the client. retry_after: seconds.
    details: what a program needs to go on, such as the list of missing components.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str = ErrorCode.INVALID_VALUE,
        type: str = ErrorType.INVALID_REQUEST,
        param: str | None = None,
        details: Any = None,  # noqa: ANN401
        retry: bool | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error = ErrorObject(message=message, type=type, param=param, code=code, details=details)
        self.headers = dict(headers or {})
        if retry is not None:
            self.headers["x-should-retry"] = "true" if retry else "false"
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(retry_after)))


def not_found(what: str, code: str = "not_found") -> GatewayError:
    """Nothing is there under that name."""
    return GatewayError(what, status=404, code=code, retry=False)


def as_gateway_error(error: Exception) -> GatewayError:
    """The answer that an error of any room stands for."""
    match error:
        case GatewayError():
            return error
        case SidecarError():
            return _sidecar_error(error)
        case PoolFull():
            return _server_error(error, 503, "pool_full", retry=True, retry_after=error.retry_after or 5)
        case ShuttingDown():
            return _server_error(error, 503, "shutting_down", retry=False)
        case OutOfMemoryError():
            return _server_error(error, 503, ErrorCode.OUT_OF_MEMORY, retry=False)
        case Cancelled():
            return GatewayError(str(error), status=409, code=ErrorCode.CANCELLED, retry=False)
        case FieldError():
            return GatewayError(str(error), code=error.code, param=error.param)
        case UnknownModel() | AmbiguousModel():
            return _refused(error, 404, error.code, param="model")
        case ComponentsMissing():
            return _refused(error, 409, error.code, param="model", details=error.details)
        case ComponentMismatch():
            return _refused(error, 422, error.code, param="model", details=error.details)
        case BrokenModel() | UnsupportedModel():
            return _refused(error, 422, error.code, param="model")
        case GatedFile():
            return _refused(error, 403, "gated", details={"repo": error.repo, "page": error.page})
        case FileNotOffered():
            return _refused(error, 404, "file_not_offered")
        case StoreFull():
            details = {"needed": error.needed, "free": error.free}
            return _server_error(error, 507, "disk_full", retry=False, details=details)
        case FileRejected() | DownloadFailed() | Offline():
            return _server_error(error, 502, "download_failed", retry=False)
        case AddressRefused():
            return GatewayError(str(error), code="address_refused", retry=False)
        case RequestError():
            return GatewayError(str(error))
        case DarkroomError():
            return _server_error(error, 500, "failed", retry=False)
        case _:
            logger.error("unexpected error", exc_info=error)
            message = "internal error: the manager's log says more"
            return GatewayError(message, status=500, code="internal_error", type=ErrorType.SERVER)


def _refused(
    error: Exception,
    status: int,
    code: str,
    *,
    param: str | None = None,
    details: Any = None,  # noqa: ANN401
) -> GatewayError:
    return GatewayError(str(error), status=status, code=code, param=param, details=details, retry=False)


def _server_error(
    error: Exception,
    status: int,
    code: str,
    *,
    retry: bool,
    retry_after: float | None = None,
    details: Any = None,  # noqa: ANN401
) -> GatewayError:
    return GatewayError(
        str(error),
        status=status,
        code=code,
        type=ErrorType.SERVER,
        details=details,
        retry=retry,
        retry_after=retry_after,
    )


def _sidecar_error(error: SidecarError) -> GatewayError:
    details = {"kind": str(error.kind), "tail": list(error.tail[-_TAIL_LINES:])}
    match error:
        case Quarantined():
            return _server_error(
                error, 503, "quarantined", retry=False, retry_after=error.retry_after, details=details
            )
        case SidecarError(kind=FailureKind.OUT_OF_MEMORY):
            return _server_error(error, 503, ErrorCode.OUT_OF_MEMORY, retry=False, details=details)
        case LoadFailed(kind=kind) if kind in _PERMANENT:
            return GatewayError(
                str(error),
                status=422,
                code="model_load_failed",
                param="model",
                details=details,
                retry=False,
            )
        case LoadFailed():
            return _server_error(error, 500, "model_load_failed", retry=False, details=details)
        case SidecarLost():
            return _server_error(error, 502, "sidecar_lost", retry=False, details=details)
        case _:
            return _server_error(error, 500, "sidecar_failed", retry=False, details=details)


def error_response(path: str, error: Exception) -> JSONResponse:
    """The answer in the form of the API that `path` belongs to.

    A1111's and the native API have `{"error": "..."}`, all others OpenAI's error object.
    """
    answer = as_gateway_error(error)
    body: dict[str, Any] = answer.error.body()
    if path.startswith(("/sdapi/", "/sdcpp/")):
        body = {"error": answer.error.message, "code": answer.error.code, "message": answer.error.message}
        if answer.error.details is not None:
            body["details"] = answer.error.details
    return JSONResponse(body, status_code=answer.status, headers=answer.headers)
