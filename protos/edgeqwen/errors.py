"""What can go wrong for a client, and which gRPC status says so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NoReturn, cast

import grpc
from google.rpc import error_details_pb2, status_pb2

Violation = tuple[str, str]
"""A field as generation.proto names it, such as "sampling.top_p", and what is wrong with it."""


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
        by_daemon = _details(error).code != 0
        raise DeadlineExceeded(message if by_daemon else "the timeout passed before the answer was complete") from error
    if code in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ABORTED):  # the message says of what
        raise Refused(message, _info(error).reason) from error
    if code is grpc.StatusCode.UNAUTHENTICATED:
        raise Unauthenticated(f"{target}: {message} (--token-file, --certificate and --key)") from error
    if code is grpc.StatusCode.PERMISSION_DENIED:
        raise PermissionDenied(f"{target}: {message}", _role(error)) from error
    raise ClientError(f"{code.name}: {message}") from error


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
        return f"{target} closed the connection: does it want TLS (https://), or are too many clients connected?"
    return f"nothing listens at {target} ({reason}); is edgeqwend running? try `systemctl status edgeqwend`"


def _details(error: grpc.RpcError) -> status_pb2.Status:
    metadata = dict(cast(Iterable[tuple[str, bytes]], error.trailing_metadata() or ()))
    return status_pb2.Status.FromString(metadata.get("grpc-status-details-bin", b""))


def _violations(error: grpc.RpcError) -> tuple[Violation, ...]:
    request = error_details_pb2.BadRequest()
    found = [detail for detail in _details(error).details if detail.Unpack(request)]
    return tuple((v.field, v.description) for v in request.field_violations) if found else ()


def _exhausted(error: grpc.RpcError, message: str) -> TryAgain:
    info, quota = error_details_pb2.ErrorInfo(), error_details_pb2.QuotaFailure()
    for detail in _details(error).details:
        detail.Unpack(info)
        detail.Unpack(quota)
    if info.reason != "RATE_LIMITED":
        return QueueFull(message, _retry_after_s(error))
    limit = "".join(violation.description.partition(":")[0] for violation in quota.violations[:1])
    return RateLimited(message, _retry_after_s(error), limit)


def _info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo:
    """What the status says for programs; empty if it says nothing."""
    info = error_details_pb2.ErrorInfo()
    for detail in _details(error).details:
        detail.Unpack(info)
    return info


def _role(error: grpc.RpcError) -> str:
    return str(_info(error).metadata.get("role", ""))


def _retry_after_s(error: grpc.RpcError) -> float:
    retry = error_details_pb2.RetryInfo()
    found = [detail for detail in _details(error).details if detail.Unpack(retry)]
    return retry.retry_delay.ToMilliseconds() / 1e3 if found else 1.0
