"""Errors in the OpenAI API's words. The statuses follow from the gRPC codes, of which there is one table."""

from __future__ import annotations

import math

from google.rpc import code_pb2

from ..api.replies import code_name, code_of, status_of
from ..errors import EdgeQwenError, Exhausted, RequestError
from .answers import Json
from .asking import parameter_of

# HTTP status, type and code, by google.rpc.Code.
_ANSWERS: dict[int, tuple[int, str, str | None]] = {
    code_pb2.INVALID_ARGUMENT: (400, "invalid_request_error", None),
    code_pb2.FAILED_PRECONDITION: (400, "invalid_request_error", None),
    code_pb2.UNAUTHENTICATED: (401, "authentication_error", "invalid_api_key"),
    code_pb2.PERMISSION_DENIED: (403, "permission_error", "insufficient_permissions"),
    code_pb2.NOT_FOUND: (404, "invalid_request_error", "model_not_found"),
    code_pb2.RESOURCE_EXHAUSTED: (429, "rate_limit_error", "rate_limit_exceeded"),
    code_pb2.INTERNAL: (500, "server_error", None),
    code_pb2.UNAVAILABLE: (503, "server_error", "unavailable"),
    code_pb2.DEADLINE_EXCEEDED: (504, "server_error", "deadline_exceeded"),
}


# The name of a google.rpc.Code, by HTTP status, for what only HTTP knows.
_NAMES: dict[int, str] = {
    404: "UNIMPLEMENTED",
    405: "UNIMPLEMENTED",
    408: "DEADLINE_EXCEEDED",
    413: "RESOURCE_EXHAUSTED",
    415: "INVALID_ARGUMENT",
    421: "PERMISSION_DENIED",
}


class HttpError(Exception):
    """What only HTTP knows, such as a body that is too large."""

    def __init__(self, status: int, message: str, code: str | None = None, *, closes: bool = False) -> None:
        super().__init__(message)
        self.status, self.code, self.closes = status, code, closes


class TooLarge(HttpError):
    """The body. What is left of it is not read."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__(413, f"the body must have at most {most_bytes} bytes", "request_too_large", closes=True)


class TooSlow(HttpError):
    """The body, again."""

    def __init__(self, most_s: float) -> None:
        super().__init__(408, f"the body must be there within {most_s:g} s", "request_timeout", closes=True)


def body_of(error: EdgeQwenError | HttpError) -> Json:
    """The JSON that tells of it."""
    if isinstance(error, HttpError):
        return _body(str(error), _type(error.status), None, error.code)
    _, kind, code = _ANSWERS[code_of(error)]
    parameter = None
    if isinstance(error, RequestError) and error.faults:
        parameter = parameter_of(error.faults[0].path) or None
    return _body(status_of(error).message, kind, parameter, code)


def grpc_name_of(error: EdgeQwenError | HttpError) -> str:
    """The gRPC status that says the same, as metrics have it."""
    return _NAMES.get(error.status, "UNKNOWN") if isinstance(error, HttpError) else code_name(error)


def status_and_headers(error: EdgeQwenError | HttpError) -> tuple[int, dict[str, str]]:
    """For a response that has not begun."""
    if isinstance(error, HttpError):
        return error.status, {"connection": "close"} if error.closes else {}
    status, _, _ = _ANSWERS[code_of(error)]
    if isinstance(error, Exhausted):
        return status, {"retry-after": str(max(1, math.ceil(error.retry_after_s)))}
    if status == 401:
        return status, {"www-authenticate": "Bearer"}
    return status, {}


def _type(status: int) -> str:
    return "server_error" if status >= 500 else "invalid_request_error"


def _body(message: str, kind: str, parameter: str | None, code: str | None) -> Json:
    return {"error": {"message": message, "type": kind, "param": parameter, "code": code}}
