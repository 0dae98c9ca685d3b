"""Counts what the engine does. Pure: the caller tells the time."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from .throttle import Throttle

WINDOW_S = 60.0


@dataclass(frozen=True)
class EngineStats:
    """One consistent reading; the fields are those of `EngineInfo` in telemetry.proto."""

    queue_depth: int
    queue_limit: int
    running: int
    slots: int
    kv_used_tokens: int
    kv_reserved_tokens: int
    kv_warm_tokens: int
    kv_budget_tokens: int
    kv_bytes_per_token: int
    requests_total: int
    requests_finished_total: int
    requests_cancelled_total: int
    requests_rejected_total: int
    prompt_tokens_total: int
    cached_prompt_tokens_total: int
    completion_tokens_total: int
    guessed_tokens_total: int
    right_guesses_total: int
    steps_total: int
    window_s: float
    completion_tokens_per_second: float
    prompt_tokens_per_second: float
    time_to_first_token_p50_ms: float | None
    time_to_first_token_p95_ms: float | None
    last_step_age_ms: float | None
    draining: bool
    time_per_token_p50_ms: float | None
    time_per_token_p95_ms: float | None
    decode_step_p50_ms: float | None
    failures_in_a_row: int
    throttle: Throttle | None


class Meter:
    """Totals since the start, and what happened in the last `window_s` seconds, by the second."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._requests = self._finished = self._cancelled = self._rejected = 0
        self._prompt_tokens = self._cached_prompt_tokens = self._completion_tokens = self._steps = 0
        self._guessed_tokens = self._right_guesses = 0
        self._last_step_s: float | None = None
        self._mean_duration_s = 1.0
        self._seconds: deque[tuple[int, int, int]] = deque()  # (second, prompt tokens, completion tokens)
        # (when, how long), in seconds: to a first token, between those of a request, and of a decode of one token.
        self._first_tokens: deque[tuple[float, float]] = deque(maxlen=4096)
        self._tokens: deque[tuple[float, float]] = deque(maxlen=4096)
        self._decodes: deque[tuple[float, float]] = deque(maxlen=1024)

    @property
    def mean_duration_s(self) -> float:
        """The recent mean duration of a request, recent ones counting most; 1 before the first has ended."""
        return self._mean_duration_s

    def retry_after_s(self, rows: int) -> float:
        """When a slot is likely to be free: that duration over the rows that share it, within reason."""
        return min(60.0, max(0.1, self._mean_duration_s / rows))

    def request_arrived(self) -> None:
        self._requests += 1

    def prefill_started(self, cached_prompt_tokens: int) -> None:
        self._cached_prompt_tokens += cached_prompt_tokens

    def rejected(self) -> None:
        self._rejected += 1

    def cancelled(self) -> None:
        self._cancelled += 1

    def finished(self, duration_s: float) -> None:
        self._finished += 1
        self._mean_duration_s += 0.2 * (duration_s - self._mean_duration_s)

    def first_token(self, now_s: float, time_to_first_token_s: float) -> None:
        self._first_tokens.append((now_s, time_to_first_token_s))

    def answered(self, now_s: float, tokens: int, seconds: float) -> None:
        """A request has ended, `seconds` after its first token."""
        if tokens > 1:
            self._tokens.append((now_s, seconds / (tokens - 1)))

    def decoded(self, now_s: float, seconds: float) -> None:
        """A step has only decoded. `seconds` is what it would have taken for one token."""
        self._decodes.append((now_s, seconds))

    def guessed(self, tokens: int, right: int) -> None:
        self._guessed_tokens += tokens
        self._right_guesses += right

    def step(self, now_s: float, prompt_tokens: int, completion_tokens: int) -> None:
        """A step of the engine has ended."""
        self._steps += 1
        self._last_step_s = now_s
        self._prompt_tokens += prompt_tokens
        self._completion_tokens += completion_tokens
        second = int(now_s)
        if self._seconds and self._seconds[-1][0] == second:
            _, before_prompt, before_completion = self._seconds.pop()
            prompt_tokens += before_prompt
            completion_tokens += before_completion
        self._seconds.append((second, prompt_tokens, completion_tokens))
        self._forget(now_s)

    def stats(
        self,
        now_s: float,
        *,
        queue_depth: int,
        queue_limit: int,
        running: int,
        slots: int,
        kv_used_tokens: int,
        kv_reserved_tokens: int,
        kv_warm_tokens: int,
        kv_budget_tokens: int,
        kv_bytes_per_token: int,
        draining: bool,
        failures_in_a_row: int = 0,
        throttle: Throttle | None = None,
    ) -> EngineStats:
        """The counters, with what only the engine knows."""
        self._forget(now_s)
        waits_s, tokens_s, decodes_s = (
            sorted(seconds for _, seconds in its) for its in (self._first_tokens, self._tokens, self._decodes)
        )
        return EngineStats(
            queue_depth=queue_depth,
            queue_limit=queue_limit,
            running=running,
            slots=slots,
            kv_used_tokens=kv_used_tokens,
            kv_reserved_tokens=kv_reserved_tokens,
            kv_warm_tokens=kv_warm_tokens,
            kv_budget_tokens=kv_budget_tokens,
            kv_bytes_per_token=kv_bytes_per_token,
            requests_total=self._requests,
            requests_finished_total=self._finished,
            requests_cancelled_total=self._cancelled,
            requests_rejected_total=self._rejected,
            prompt_tokens_total=self._prompt_tokens,
            cached_prompt_tokens_total=self._cached_prompt_tokens,
            completion_tokens_total=self._completion_tokens,
            guessed_tokens_total=self._guessed_tokens,
            right_guesses_total=self._right_guesses,
            steps_total=self._steps,
            window_s=self._window_s,
            completion_tokens_per_second=sum(c for _, _, c in self._seconds) / self._window_s,
            prompt_tokens_per_second=sum(p for _, p, _ in self._seconds) / self._window_s,
            time_to_first_token_p50_ms=_quantile_ms(waits_s, 0.50),
            time_to_first_token_p95_ms=_quantile_ms(waits_s, 0.95),
            last_step_age_ms=None if self._last_step_s is None else (now_s - self._last_step_s) * 1e3,
            draining=draining,
            time_per_token_p50_ms=_quantile_ms(tokens_s, 0.50),
            time_per_token_p95_ms=_quantile_ms(tokens_s, 0.95),
            decode_step_p50_ms=_quantile_ms(decodes_s, 0.50),
            failures_in_a_row=failures_in_a_row,
            throttle=throttle,
        )

    def _forget(self, now_s: float) -> None:
        while self._seconds and self._seconds[0][0] < now_s - self._window_s:
            self._seconds.popleft()
        for its in (self._first_tokens, self._tokens, self._decodes):
            while its and its[0][0] < now_s - self._window_s:
                its.popleft()


def _quantile_ms(ordered_s: list[float], share: float) -> float | None:
    """The smallest value that at least `share` of them do not exceed."""
    if not ordered_s:
        return None
    return ordered_s[max(0, math.ceil(share * len(ordered_s)) - 1)] * 1e3
