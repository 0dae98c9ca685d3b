"""How fast a package should be on this board."""

from __future__ import annotations

from dataclasses import dataclass

from ..configuration.settings import RunSettings
from ..package import Build

SHARE_OF_PEAK = 0.64
"""Of its memory's peak bandwidth, what one stream uses where nothing disturbs it (docs/benchmarks/peers.md)."""

_FIRST_TOKEN_MS = 10_000.0  # people have left by then
_LEAST_FIRST_TOKEN_MS = 2_000.0


@dataclass(frozen=True)
class Expectation:
    """Of one model.

    Args:
        decode_tokens_per_second: of one stream; None where nothing is known.
        decode_from: who says so.
        first_token_ms: that a request may wait at most.
        first_token_from: likewise.
        rows: requests that run at once.
        token_cost: of a further token in a step.
    """

    decode_tokens_per_second: float | None
    decode_from: str
    first_token_ms: float
    first_token_from: str
    rows: int
    token_cost: float


def expectation_of(build: Build, settings: RunSettings) -> Expectation:
    """By what was measured on this board, else by its memory's bandwidth, as far as its profile tells it."""
    profile, memory = build.profile, build.memory
    decode, decode_from = settings.decode_tokens_per_second, "were measured on this board"
    peak = profile.device.memory_gb_s
    if decode is None and peak is not None and profile.execution.backend in ("ort", "cuda"):
        decode = SHARE_OF_PEAK * peak * 1e9 / memory.weights_bytes
        decode_from = f"are what {peak:g} GB/s of memory bandwidth let expect"
    first_token_ms, first_token_from = _FIRST_TOKEN_MS, "after ten seconds most people have left"
    if (prefill := settings.prefill_tokens_per_second) is not None:
        first_token_ms = settings.context_tokens / prefill * 1e3
        first_token_from = f"a prompt of {settings.context_tokens} tokens alone takes {first_token_ms:.0f} ms"
        if first_token_ms < _LEAST_FIRST_TOKEN_MS:
            first_token_ms, first_token_from = _LEAST_FIRST_TOKEN_MS, "two seconds seem long to nobody"
    return Expectation(
        decode_tokens_per_second=decode,
        decode_from=decode_from,
        first_token_ms=first_token_ms,
        first_token_from=first_token_from,
        rows=settings.slots,
        token_cost=settings.token_cost,
    )
