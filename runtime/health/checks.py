"""Judges how the daemon is: figures in, checks out. Pure.

A check never gets better as its figure gets worse. What a board cannot tell is ok, and the summary says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class Status(IntEnum):
    """From well to bad."""

    OK = 1
    DEGRADED = 2
    FAILED = 3


@dataclass(frozen=True)
class Check:
    """One finding; the fields are those of `Check` in health.proto."""

    name: str
    status: Status
    summary: str
    recommendation: str = ""
    value: float | None = None
    bound: float | None = None
    unit: str = ""
    model: str = ""


_MB = 1e6
_FAILING_STEPS = 3
VERY_SLOW = 0.2
"""Of what is expected: below it the speed has failed."""
_SLOW = 0.5  # deep contexts, other programs and hot boards take their part
_LEAST_AVAILABLE, _LEAST_AVAILABLE_BYTES = 0.10, 128 << 20
_CGROUP_FULL, _CGROUP_BURSTS = 0.90, 0.97
_STALLED_PERCENT, _STUCK_PERCENT = 10.0, 40.0
_ABOVE_PROMISE, _FAR_ABOVE_PROMISE = 1.25, 2.0
_GROWN, _GROWN_BYTES = 0.25, 256 << 20  # Qwen's vocabulary for structured answers takes half of that, once
_FAR_TOO_HOT_C = 5.0
_LITTLE_DISK_BYTES, _NO_DISK_BYTES = 512 << 20, 64 << 20
_QUEUE_LONG = 0.5


def _found(name: str, status: Status, summary: str, advice: str, value: float, bound: float, unit: str) -> Check:
    """What was measured, with advice where it is not well."""
    return Check(name, status, summary, advice if status > Status.OK else "", value, bound, unit)


def worst(checks: Sequence[Check]) -> Status:
    """Of all of them."""
    return max((check.status for check in checks), default=Status.OK)


def check_engine(*, loaded: bool, draining: bool, stalled: bool, failures: int, age_s: float | None) -> Check:
    """Whether steps end, and work. `age_s` is how long the last one is ago."""
    name, value = "engine", float(failures)
    if not loaded:
        return Check(name, Status.FAILED, "No model is loaded.", "Load one.")
    if stalled:
        since = "" if age_s is None else f" for {age_s:.0f} s"
        return Check(
            name,
            Status.FAILED,
            f"There is work, and no step has ended{since}.",
            "systemd's watchdog restarts a daemon that hangs; without it, restart it. If it hangs again, look into"
            " `dmesg`: memory, disk and accelerators fail in this way.",
        )
    if failures >= _FAILING_STEPS:
        return Check(
            name,
            Status.FAILED,
            f"The last {failures} steps failed.",
            "The log says why. Restart the daemon; if it goes on, install the package again.",
            value,
            _FAILING_STEPS,
            "steps",
        )
    if draining:
        return Check(name, Status.DEGRADED, "The daemon is shutting down.", "Send requests elsewhere.")
    if failures:
        summary = f"The last {'step' if failures == 1 else f'{failures} steps'} failed."
        return Check(name, Status.DEGRADED, summary, "The log says why.", value, _FAILING_STEPS, "steps")
    return Check(name, Status.OK, "Steps end as they should.", "", value, _FAILING_STEPS, "steps")


def check_provider(asked: str, used: str) -> Check:
    """Whether the model runs where its profile says."""
    if asked == used:
        return Check("provider", Status.OK, f"The model runs on {used}, as its profile asks.")
    return Check(
        "provider",
        Status.DEGRADED,
        f"The model runs on {used}, and its profile asks for {asked}.",
        "If that is not meant, remove `device` from the configuration and restart the daemon.",
    )


def check_speed(tokens_per_second: float | None, expected: float | None, source: str, *, lowered: str = "") -> Check:
    """One stream's tokens/s, deduced from the steps of the last minute, against what is expected.

    Args:
        source: who expects it, such as "was measured on this board".
        lowered: why the engine does less than it can; empty if it does not.
    """
    name, unit = "speed", "tokens/s"
    if tokens_per_second is None:
        return Check(
            name, Status.OK, "Nothing was generated in the last minute.", bound=expected and _SLOW * expected, unit=unit
        )
    if expected is None:
        summary = f"{tokens_per_second:.1f} tokens/s for one stream; what to expect here is not known."
        return Check(name, Status.OK, summary, value=tokens_per_second, unit=unit)
    summary = f"{tokens_per_second:.1f} tokens/s for one stream; {expected:.1f} {source}."
    status = _below(tokens_per_second, _SLOW * expected, VERY_SLOW * expected)
    advice = "See what else runs here (`top`); measure the board again with `edgeqwen bench --autotune`."
    if lowered:
        advice = f"The engine is lowered: {lowered}."
    return _found(name, status, summary, advice, tokens_per_second, _SLOW * expected, unit)


def check_latency(first_token_p95_ms: float | None, bound_ms: float, source: str) -> Check:
    """Time to the first token: 95 of 100 requests of the last minute waited less."""
    if first_token_p95_ms is None:
        return Check("latency", Status.OK, "Nobody asked in the last minute.", bound=bound_ms, unit="ms")
    status = _above(first_token_p95_ms, bound_ms, 4 * bound_ms)
    return _found(
        "latency",
        status,
        f"95 % of the requests had their first token within {first_token_p95_ms:.0f} ms; {source}.",
        "Requests wait for each other: ask less at once, ask for shorter answers, or shorten prompts.",
        first_token_p95_ms,
        bound_ms,
        "ms",
    )


def check_token_time(token_p95_ms: float | None, expected_ms: float | None, rows: int, token_cost: float) -> Check:
    """Time for each token: 95 of 100 requests that ended in the last minute took less. With all `rows` in work a step
    may take as long as they cost together."""
    name = "token time"
    if token_p95_ms is None:
        return Check(name, Status.OK, "No request ended in the last minute.")
    summary = f"95 % of the requests had their tokens within {token_p95_ms:.0f} ms each"
    if expected_ms is None:
        return Check(name, Status.OK, f"{summary}; what to expect here is not known.", value=token_p95_ms, unit="ms")
    bound_ms = expected_ms / _SLOW * (1 + token_cost * (rows - 1))
    status = _above(token_p95_ms, bound_ms, bound_ms / VERY_SLOW * _SLOW)
    advice = "Long prompts of others come between; lower `slots`, or see `speed`."
    return _found(name, status, f"{summary}.", advice, token_p95_ms, bound_ms, "ms")


def check_queue(depth: int, limit: int) -> Check:
    """Requests that wait for a slot."""
    status = _above(depth, _QUEUE_LONG * limit, limit)
    summary = f"{depth} of at most {limit} requests wait."
    advice = "Requests come faster than they are answered: ask less at once, or spread them."
    return _found("queue", status, summary, advice, float(depth), _QUEUE_LONG * limit, "requests")


def check_memory(
    available_bytes: int | None,
    total_bytes: int | None,
    cgroup_bytes: int | None,
    cgroup_limit_bytes: int | None,
    stalled_percent: float | None,
) -> Check:
    """What the board and the unit's own limit have left, and how long all waited for memory in the last ten seconds.

    The worst of the three; of equals the first.
    """
    found = [Check("memory", Status.OK, "This board does not tell how much memory is available.")]
    if available_bytes is not None:
        bound = max(_LEAST_AVAILABLE_BYTES, _LEAST_AVAILABLE * (total_bytes or 0))
        status = _below(available_bytes, bound, bound / 4)
        summary = f"{_mb(available_bytes)} are available."
        found = [_memory(status, summary, float(available_bytes), bound, "bytes")]
    if cgroup_bytes is not None and cgroup_limit_bytes:
        bound = _CGROUP_FULL * cgroup_limit_bytes
        status = _above(cgroup_bytes, bound, _CGROUP_BURSTS * cgroup_limit_bytes)
        summary = f"{_mb(cgroup_bytes)} of the {_mb(cgroup_limit_bytes)} that the unit may use are in use."
        found.append(_memory(status, summary, float(cgroup_bytes), bound, "bytes"))
    if stalled_percent is not None:
        status = _above(stalled_percent, _STALLED_PERCENT, _STUCK_PERCENT)
        summary = f"All work waited for memory {stalled_percent:.0f} % of the last ten seconds."
        found.append(_memory(status, summary, stalled_percent, _STALLED_PERCENT, "%"))
    return max(found, key=lambda check: check.status)


def _memory(status: Status, summary: str, value: float, bound: float, unit: str) -> Check:
    advice = "Close other programs, lower `slots` or `context_tokens`, or take a smaller package."
    return _found("memory", status, summary, advice, value, bound, unit)


def check_footprint(resident_bytes: int, promised_bytes: int, ready_bytes: int, kv_bytes: int) -> Check:
    """What this process takes, against what its packages promised, and since it was ready, beside the KV in use."""
    bound = _ABOVE_PROMISE * promised_bytes
    grown = max(0, resident_bytes - ready_bytes - kv_bytes)
    status = max(
        _above(resident_bytes, bound, _FAR_ABOVE_PROMISE * promised_bytes),
        Status.DEGRADED if grown >= max(_GROWN_BYTES, _GROWN * promised_bytes) else Status.OK,
    )
    return _found(
        "footprint",
        status,
        f"The daemon takes {_mb(resident_bytes)}, {_mb(grown)} of it since it was ready and beside the KV in use;"
        f" at most {_mb(promised_bytes)} were promised.",
        "Restart the daemon at a quiet hour, and tell its makers how it came to this.",
        float(resident_bytes),
        bound,
        "bytes",
    )


def check_temperature(hottest_c: float | None, limit_c: float) -> Check:
    """The hottest sensor that counts."""
    if hottest_c is None:
        return Check("temperature", Status.OK, "No sensor answers.", bound=limit_c, unit="C")
    status = _above(hottest_c, limit_c, limit_c + _FAR_TOO_HOT_C)
    advice = "Give the board air: a heatsink, a fan, a cooler place. Meanwhile the engine does less."
    summary = f"{hottest_c:.1f} C; the limit is {limit_c:g} C."
    return _found("temperature", status, summary, advice, hottest_c, limit_c, "C")


def check_throttling(reasons: Sequence[str] | None) -> Check:
    """Whether the board holds itself back."""
    if reasons is None:
        return Check("throttling", Status.OK, "This board does not tell whether it throttles.")
    if not reasons:
        return Check("throttling", Status.OK, "The board does not throttle.")
    voltage = any("voltage" in reason or "current" in reason for reason in reasons)
    advice = "Use the maker's power supply, and a short cable." if voltage else "Give the board air."
    return Check("throttling", Status.DEGRADED, f"The board throttles itself: {', '.join(reasons)}.", advice)


def check_power(level: int, lowest: int, reason: str, *, wanted: bool) -> Check:
    """Whether the engine is lowered, and why; `wanted`, to save power, that is as it should be."""
    if not level:
        return Check("power", Status.OK, "The engine may use all of its power.")
    summary = f"The engine is {level} of {lowest} levels down: {reason}."
    if wanted:
        return Check("power", Status.OK, summary)
    return Check("power", Status.DEGRADED, summary, "See temperature and throttling; it comes back by itself.")


def check_disk(free_bytes: int | None) -> Check:
    """Of the filesystems that the daemon uses that which has the least."""
    if free_bytes is None:
        return Check("disk", Status.OK, "This board does not tell how much room there is.")
    status = _below(free_bytes, _LITTLE_DISK_BYTES, _NO_DISK_BYTES)
    advice = "Remove packages that are not used, and old logs (`journalctl --vacuum-size=100M`)."
    summary = f"{_mb(free_bytes)} are free."
    return _found("disk", status, summary, advice, float(free_bytes), float(_LITTLE_DISK_BYTES), "bytes")


def check_warnings(warnings: Sequence[tuple[str, str]]) -> list[Check]:
    """One for each, a sentence and what to do; one that all is well where there are none."""
    if not warnings:
        return [Check("warnings", Status.OK, "There is nothing to warn of.")]
    return [Check("warnings", Status.DEGRADED, summary, advice) for summary, advice in warnings]


def _above(value: float, degraded: float, failed: float) -> Status:
    return Status.FAILED if value >= failed else Status.DEGRADED if value >= degraded else Status.OK


def _below(value: float, degraded: float, failed: float) -> Status:
    return Status.FAILED if value < failed else Status.DEGRADED if value < degraded else Status.OK


def _mb(size_bytes: float) -> str:
    return f"{size_bytes / _MB:.0f} MB"
