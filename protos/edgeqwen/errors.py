"""What can go wrong for a client, and which gRPC status says so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NoReturn, TypeVar, cast

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

Violation = tuple[str, str]
"""A field as generation.proto names it, such as "sampling.top_p", and what is wrong with it."""

_Message = TypeVar("_Message", bound=Message)


class ClientError(Exception):
    """The daemon did not do what was asked; the message is its reason."""


class ServerUnavailable(ClientError):
    """Nothing answers at the target, or it is shutting down."""


class InvalidRequest(ClientError):
    """The request can never succeed. `violations` has every fault as (field, description)."""

    def __init__(self, message: str, violations: tuple[Violation, ...]) -> None:
        self.violations = violations
        super().__init__(message)


class TryAgain(ClientError):
    """Not now, but in `retry_after_s` seconds."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class QueueFull(TryAgain):
    """Too many requests wait."""


class RateLimited(TryAgain):
    """This client has had what it may have for now. `limit` is the daemon's setting, such as "requests_per_minute"."""

    def __init__(self, message: str, retry_after_s: float, limit: str) -> None:
        self.limit = limit
        super().__init__(message, retry_after_s)


class Unauthenticated(ClientError):
    """The daemon has to know who calls."""


class PermissionDenied(ClientError):
    """This client may not do that. `role` is the one that it lacks; empty if the daemon does not say."""

    def __init__(self, message: str, role: str) -> None:
        self.role = role
        super().__init__(message)


class NotFound(ClientError):
    """No model or package of that name is there."""


class Refused(ClientError):
    """It cannot be done as things are, and nothing has changed. `reason` is a word for programs, such as
    "CANARY_FAILED", "DOWNGRADE_REFUSED" or "PACKAGE_UNUSABLE"; empty if the daemon gives none."""

    def __init__(self, message: str, reason: str) -> None:
        self.reason = reason
        super().__init__(message)


class DeadlineExceeded(ClientError):
    """The timeout passed before the answer was complete, or would have."""


def raise_for(error: grpc.RpcError, target: str) -> NoReturn:
    """The one table from gRPC codes to exceptions."""
    code, message = error.code(), error.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE:
        raise ServerUnavailable(_unavailable(message, target)) from error
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        raise InvalidRequest(message, _violations(error)) from error
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and message.startswith("SERVER: Received message larger"):
        reason = f"is too large for the daemon ({message})"
        raise InvalidRequest(f"the request {reason}", (("input", reason),)) from error
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        raise _exhausted(error, message) from error
    if code is grpc.StatusCode.NOT_FOUND:
        raise NotFound(message) from error
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        by_daemon = _status(error).code != 0
        raise DeadlineExceeded(message if by_daemon else "the timeout passed before the answer was complete") from error
    if code in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ABORTED):  # the message says of what
        raise Refused(message, _detail(error, error_details_pb2.ErrorInfo()).reason) from error
    if code is grpc.StatusCode.UNAUTHENTICATED:
        raise Unauthenticated(f"{target}: {message} (--token-file, --certificate and --key)") from error
    if code is grpc.StatusCode.PERMISSION_DENIED:
        raise PermissionDenied(f"{target}: {message}", _role(error)) from error
    raise ClientError(f"{code.name}: {message}") from error


def answered(reply: _Message | None, target: str) -> _Message:
    """The reply. Raises ClientError where it is None, as gRPC within asyncio has it for bytes that are no message."""
    if reply is None:
        raise ClientError(f"{target} answers what cannot be read: is it an edgeqwend?")
    return reply


@contextmanager
def errors_of(target: str) -> Iterator[None]:
    """What a block that calls the daemon raises, it raises as a ClientError."""
    try:
        yield
    except grpc.RpcError as error:
        raise_for(error, target)


_NOT_THERE = ("failed to connect", "connections to all backends failing", "errors resolving")


def _unavailable(message: str, target: str) -> str:
    """What to do about it. Only gRPC's words tell a daemon that is not there from one that refuses."""
    if not message.startswith(_NOT_THERE):
        return f"{target}: {message}"
    if "SSL" in message or "handshak" in message.lower() or "CERTIFICATE" in message:
        return f"{target} and this client do not agree on TLS: is it https://, and are --ca and --certificate right?"
    reason = message.rpartition(": ")[2].rstrip("]")
    if reason == "Permission denied":
        return f"{target} is not for this user (permission denied); are you in the daemon's group? `id` tells"
    if reason in ("Socket closed", "Connection reset by peer"):
        wants = "a certificate (--certificate and --key)" if target.startswith("https://") else "TLS (https://)"
        return f"{target} closed the connection: does it want {wants}, or are too many clients connected?"
    return f"nothing listens at {target} ({reason}); is edgeqwend running? try `systemctl status edgeqwend`"


def _status(error: grpc.RpcError) -> status_pb2.Status:
    """What the daemon says beside code and message; empty if that is nothing, or from whoever else answered."""
    metadata = dict(cast(Iterable[tuple[str, bytes]], error.trailing_metadata() or ()))
    return _parsed(status_pb2.Status(), metadata.get("grpc-status-details-bin", b""))


def _detail(error: grpc.RpcError, detail: _Message) -> _Message:
    """`detail`, filled with what the status has of its kind; empty if it has none."""
    found = [each.value for each in _status(error).details if each.Is(detail.DESCRIPTOR)]
    return _parsed(detail, found[-1]) if found else detail


def _parsed(message: _Message, content: bytes) -> _Message:
    try:
        message.ParseFromString(content)
    except DecodeError:
        message.Clear()
    return message


def _violations(error: grpc.RpcError) -> tuple[Violation, ...]:
    request = _detail(error, error_details_pb2.BadRequest())
    return tuple((v.field, v.description) for v in request.field_violations)


def _exhausted(error: grpc.RpcError, message: str) -> TryAgain:
    if _detail(error, error_details_pb2.ErrorInfo()).reason != "RATE_LIMITED":
        return QueueFull(message, _retry_after_s(error))
    quota = _detail(error, error_details_pb2.QuotaFailure())
    limit = "".join(violation.description.partition(":")[0] for violation in quota.violations[:1])
    return RateLimited(message, _retry_after_s(error), limit)


def _role(error: grpc.RpcError) -> str:
    return str(_detail(error, error_details_pb2.ErrorInfo()).metadata.get("role", ""))


def _retry_after_s(error: grpc.RpcError) -> float:
    retry = _detail(error, error_details_pb2.RetryInfo())
    return retry.retry_delay.ToMilliseconds() / 1e3 if retry.HasField("retry_delay") else 1.0
