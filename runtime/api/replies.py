"""What goes back over the wire: events and errors as protobuf."""

from __future__ import annotations

import re
from typing import Any, NoReturn

import grpc.aio
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from edgeqwen.v1 import generation_pb2 as pb

from ..engine.sequence import Delta, Finished, FinishReason, TokenLogprobs
from ..errors import (
    CanaryFailed,
    ConfigError,
    DeadlineTooShort,
    DowngradeRefused,
    EdgeQwenError,
    Exhausted,
    Fault,
    GrammarError,
    ModelNotFound,
    NoRoom,
    NoStore,
    NothingToRollBackTo,
    NotTrusted,
    PackageError,
    PackageNotInstalled,
    PermissionDenied,
    QueueFull,
    RateLimited,
    RequestError,
    StoreBusy,
    StoreError,
    TooHot,
    Unauthenticated,
    Unavailable,
)

MAX_FAULTS = 8
MAX_FAULT_CHARS = 160
ERROR_DOMAIN = "edgeqwen"

_KEY = re.compile(r"\[(?!\d+\]).*\]")
"""What a path has of the client's own words: the keys of a schema, the names of values."""

_REASONS = {
    FinishReason.EOS: pb.Finished.REASON_EOS,
    FinishReason.STOP: pb.Finished.REASON_STOP,
    FinishReason.LENGTH: pb.Finished.REASON_LENGTH,
    FinishReason.TOOL_CALLS: pb.Finished.REASON_TOOL_CALLS,
}

# The one table from errors to gRPC codes; the first class that fits counts. docs/errors.md has it for people.
_CODES: tuple[tuple[type[EdgeQwenError], int], ...] = (
    (RequestError, code_pb2.INVALID_ARGUMENT),
    (GrammarError, code_pb2.INVALID_ARGUMENT),
    (ModelNotFound, code_pb2.NOT_FOUND),
    (PackageNotInstalled, code_pb2.NOT_FOUND),
    (PackageError, code_pb2.FAILED_PRECONDITION),
    (NotTrusted, code_pb2.FAILED_PRECONDITION),
    (ConfigError, code_pb2.FAILED_PRECONDITION),
    (NoRoom, code_pb2.FAILED_PRECONDITION),
    (NoStore, code_pb2.FAILED_PRECONDITION),
    (DowngradeRefused, code_pb2.FAILED_PRECONDITION),
    (NothingToRollBackTo, code_pb2.FAILED_PRECONDITION),
    (TooHot, code_pb2.FAILED_PRECONDITION),
    (CanaryFailed, code_pb2.ABORTED),
    (StoreBusy, code_pb2.ABORTED),
    (StoreError, code_pb2.FAILED_PRECONDITION),
    (QueueFull, code_pb2.RESOURCE_EXHAUSTED),
    (RateLimited, code_pb2.RESOURCE_EXHAUSTED),
    (DeadlineTooShort, code_pb2.DEADLINE_EXCEEDED),
    (Unavailable, code_pb2.UNAVAILABLE),
    (Unauthenticated, code_pb2.UNAUTHENTICATED),
    (PermissionDenied, code_pb2.PERMISSION_DENIED),
    (EdgeQwenError, code_pb2.INTERNAL),
)

# What tells apart for programs what has the same code: the reason of google.rpc.ErrorInfo.
_INFO_REASONS: tuple[tuple[type[EdgeQwenError], str], ...] = (
    (PackageNotInstalled, "PACKAGE_NOT_INSTALLED"),
    (NotTrusted, "NOT_TRUSTED"),
    (PackageError, "PACKAGE_UNUSABLE"),
    (ConfigError, "SETTING_UNUSABLE"),
    (NoRoom, "NO_ROOM"),
    (NoStore, "NO_STORE"),
    (DowngradeRefused, "DOWNGRADE_REFUSED"),
    (NothingToRollBackTo, "NOTHING_TO_ROLL_BACK_TO"),
    (TooHot, "TOO_HOT"),
    (CanaryFailed, "CANARY_FAILED"),
    (StoreBusy, "STORE_BUSY"),
    (StoreError, "STORE_UNUSABLE"),
    (Unauthenticated, "CALLER_UNKNOWN"),
    (PermissionDenied, "ROLE_MISSING"),
)


def delta_message(index: int, delta: Delta) -> pb.Delta:
    """More of the completion `index`."""
    return pb.Delta(
        text=delta.text,
        token_ids=delta.token_ids,
        logprobs=map(_logprobs, delta.logprobs),
        reasoning=delta.reasoning,
        tool_calls=(pb.ToolCall(id=call.id, name=call.name, arguments=call.arguments) for call in delta.tool_calls),
        index=index,
    )


def finished_message(index: int, end: Finished) -> pb.Finished:
    """The end of the completion `index`."""
    return pb.Finished(
        reason=_REASONS[end.reason],
        usage=pb.Usage(
            prompt_tokens=end.usage.prompt_tokens,
            completion_tokens=end.usage.completion_tokens,
            cached_prompt_tokens=end.usage.cached_prompt_tokens,
        ),
        timings=pb.Timings(
            queue_ms=end.timings.queue_ms,
            time_to_first_token_ms=end.timings.time_to_first_token_ms,
            total_ms=end.timings.total_ms,
            prefill_tokens_per_second=end.timings.prefill_tokens_per_second,
            decode_tokens_per_second=end.timings.decode_tokens_per_second,
        ),
        stop=end.stop,
        index=index,
    )


def status_of(error: EdgeQwenError) -> status_pb2.Status:
    """The status that ends a call, with the details that its code has."""
    if isinstance(error, GrammarError):
        error = RequestError([Fault("structure", str(error))])
    status = status_pb2.Status(code=code_of(error), message=str(error))
    if isinstance(error, RequestError):
        faults = _shown(error)
        status.message = "; ".join(map(str, faults))
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=fault.path, description=fault.message) for fault in faults
        ]
        status.details.append(_packed(error_details_pb2.BadRequest(field_violations=violations)))
    if isinstance(error, Exhausted):
        status.details.extend(map(_packed, _quota_details(error)))
    if reason := next((reason for kind, reason in _INFO_REASONS if isinstance(error, kind)), None):
        role = {"role": error.role} if isinstance(error, PermissionDenied) and error.role else {}
        status.details.append(_packed(error_details_pb2.ErrorInfo(reason=reason, domain=ERROR_DOMAIN, metadata=role)))
    return status


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: EdgeQwenError) -> NoReturn:
    """Ends a call with `error`."""
    await context.abort_with_status(rpc_status.to_status(status_of(error)))
    raise AssertionError("abort_with_status raises")


def code_of(error: EdgeQwenError) -> int:
    """The google.rpc.Code of an error."""
    return next(code for kind, code in _CODES if isinstance(error, kind))


def code_name(error: EdgeQwenError) -> str:
    """The name of that code, such as NOT_FOUND."""
    return str(code_pb2.Code.Name(code_of(error)))


def loggable(error: EdgeQwenError) -> str:
    """What a log may say of a request that got an error: where its faults are, nothing of its text or its answer's."""
    if isinstance(error, RequestError):
        return ", ".join(_KEY.sub("[...]", fault.path) for fault in error.faults[:MAX_FAULTS])
    if isinstance(error, GrammarError):
        return "the answer's structure could not be kept"
    return str(error)


def _quota_details(error: Exhausted) -> list[Message]:
    """When to try again, what is used up, and the error's kind for programs."""
    delay = duration_pb2.Duration()
    delay.FromMilliseconds(round(error.retry_after_s * 1e3))
    violation = error_details_pb2.QuotaFailure.Violation(
        subject=_short(f"client:{error.client}"), description=_short(error.quota)
    )
    reason = "QUEUE_FULL" if isinstance(error, QueueFull) else "RATE_LIMITED"
    return [
        error_details_pb2.RetryInfo(retry_delay=delay),
        error_details_pb2.QuotaFailure(violations=[violation]),
        error_details_pb2.ErrorInfo(reason=reason, domain=ERROR_DOMAIN),
    ]


def _logprobs(of: TokenLogprobs) -> pb.TokenLogprobs:
    top = [pb.TokenLogprobs.Candidate(token_id=token, logprob=logprob) for token, logprob in of.top]
    return pb.TokenLogprobs(logprob=of.logprob, top=top)


def _shown(error: RequestError) -> list[Fault]:
    """As many faults as a reply can carry: gRPC has 8 KiB for all of an error, and counts most of it three times."""
    shown = [Fault(fault.path, _short(fault.message)) for fault in error.faults[:MAX_FAULTS]]
    if more := len(error.faults) - len(shown):
        shown.append(Fault("", f"and {more} more faults"))
    return shown


def _short(message: str) -> str:
    """Plain ASCII, which does not grow on its way, of bounded length."""
    text = message.encode("ascii", "backslashreplace").decode()
    return text if len(text) <= MAX_FAULT_CHARS else f"{text[: MAX_FAULT_CHARS - 3]}..."


def _packed(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
