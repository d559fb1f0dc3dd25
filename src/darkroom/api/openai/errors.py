"""OpenAI's error object, and the requests that get one."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from darkroom.api.errors import RequestError


class ErrorType(StrEnum):
    """Whose fault it is, in OpenAI's words."""

    INVALID_REQUEST = "invalid_request_error"
    AUTHENTICATION = "authentication_error"
    PERMISSION = "permission_error"
    RATE_LIMIT = "rate_limit_error"
    SERVER = "server_error"


class ErrorCode(StrEnum):
    """What exactly went wrong. Those that OpenAI has are spelled as it spells them."""

    MISSING_PARAMETER = "missing_required_parameter"
    UNKNOWN_PARAMETER = "unknown_parameter"
    UNSUPPORTED_PARAMETER = "unsupported_parameter"
    INVALID_VALUE = "invalid_value"
    UNSUPPORTED_VALUE = "unsupported_value"
    INVALID_TYPE = "invalid_type"
    INTEGER_TOO_SMALL = "integer_below_min_value"
    INTEGER_TOO_LARGE = "integer_above_max_value"
    DECIMAL_TOO_SMALL = "decimal_below_min_value"
    DECIMAL_TOO_LARGE = "decimal_above_max_value"
    STRING_TOO_LONG = "string_above_max_length"
    ARRAY_TOO_SHORT = "array_below_min_length"
    ARRAY_TOO_LONG = "array_above_max_length"
    INVALID_JSON = "invalid_json"
    INVALID_IMAGE = "invalid_image_file"
    INVALID_MASK = "invalid_mask"
    INVALID_KEY = "invalid_api_key"
    MODEL_NOT_FOUND = "model_not_found"
    FILE_NOT_FOUND = "file_not_found"
    URL_EXPIRED = "url_expired"
    TOO_LARGE = "request_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    QUEUE_FULL = "queue_full"
    CANCELLED = "cancelled"
    OUT_OF_MEMORY = "out_of_memory"
    COMPONENTS_MISSING = "model_components_missing"
    COMPONENT_MISMATCH = "model_component_mismatch"


class ErrorObject(BaseModel):
    """What `error` holds in the body of every answer that is no success.

    param: the field that is at fault. details: what a program needs to go on, beyond the message.
    """

    model_config = ConfigDict(extra="allow")

    message: str
    type: str = ErrorType.INVALID_REQUEST
    param: str | None = None
    code: str | None = None
    details: Any = None

    def body(self) -> dict[str, Any]:
        """The whole answer: `{"error": {...}}`, `details` only where there are any."""
        error = self.model_dump(mode="json", exclude={"details"})
        return {"error": error if self.details is None else {**error, "details": self.details}}


class FieldError(RequestError):
    """A field of a request is wrong: status 400, with the field's name and OpenAI's code for it."""

    def __init__(self, param: str, problem: str, code: str = ErrorCode.INVALID_VALUE) -> None:
        super().__init__(f"{param}: {problem}")
        self.param = param
        self.code = str(code)

    def error(self) -> ErrorObject:
        """The error object to answer with."""
        return ErrorObject(message=str(self), param=self.param, code=self.code)
