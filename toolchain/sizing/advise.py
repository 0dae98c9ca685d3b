"""Which model a board can run, at which precision, with how many rows: by the memory it takes and the bytes it reads.

A token is decoded at the speed at which all weights and the KV so far are read (Williams et al., "Roofline", CACM
52(4), 2009), of which our sessions reach a share that was measured. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from runtime.errors import EdgeQwenError
from runtime.footprint import Footprint, footprint_of, megabytes
from runtime.profile import Profile

from ..recipes.recipe import Precision
from .models import Model
from .sizes import weights_bytes

DEPTH_TOKENS = 656
SHARE_OF_FLOOR = 0.64
"""What a single stream reaches at that depth, of bytes over bandwidth: Qwen2.5-0.5B's geometry at INT4 on a CPU whose
bandwidth was measured (docs/benchmarks/peers.md). Of a maker's peak it is less: such predictions are optimistic."""

RECOMMENDED = "recommended"

MIN_SPEED = 5.0
"""Tokens/s. People read about as fast."""

SYSTEM_BYTES = 512 << 20
SYSTEM_SHARE = 1 / 8
"""What a headless Linux and other programs are left: an assumption, the larger of the two."""


@dataclass(frozen=True)
class Reads:
    """How fast a board reads a model: `bytes_per_s` while it decodes, and where that is from.

    Args:
        measured: the name of the package that was measured, and what it decoded in tokens/s.
    """

    bytes_per_s: float
    source: str
    measured: tuple[str, float] | None = None


@dataclass(frozen=True)
class Speed:
    """Of one stream, in tokens/s; `kind` says measured or predicted."""

    tokens_per_s: float
    kind: str


@dataclass(frozen=True)
class Option:
    """A model at a precision on the board.

    Args:
        footprint: with as many rows as fit, or one if none does.
        verdict: RECOMMENDED, or why it is not.
    """

    model: Model
    precision: Precision
    footprint: Footprint
    speed: Speed | None
    verdict: str = ""


@dataclass(frozen=True)
class Wish:
    """What is asked for; None takes the profile's or what fits.

    Args:
        room_bytes: what the daemon may take; None for the board's memory less what the system needs.
        any_licence: also models whose licence does not allow every use.
    """

    task: str
    context_tokens: int | None = None
    rows: int | None = None
    min_speed: float = MIN_SPEED
    room_bytes: int | None = None
    any_licence: bool = False


def room_of(profile: Profile) -> int:
    """What the board's memory leaves the daemon."""
    memory = profile.device.memory_mb << 20
    return memory - max(SYSTEM_BYTES, int(memory * SYSTEM_SHARE))


def reads_of(profile: Profile, bench: Mapping[str, Any] | None = None) -> Reads | None:
    """How fast the board reads a model: by what `edgeqwen bench --json` measured there, or by its peak bandwidth.

    None if neither is known, or if the share that is reached was measured on no such device. Raises EdgeQwenError if
    `bench` is not what bench writes.
    """
    if bench is not None:
        return _measured(bench)
    peak = profile.device.memory_gb_s
    if peak is None or profile.execution.backend not in ("ort", "cuda"):
        return None
    return Reads(peak * 1e9 * SHARE_OF_FLOOR, f"{SHARE_OF_FLOOR:.0%} of its {peak:g} GB/s")


def advise(profile: Profile, models: Sequence[Model], wish: Wish, reads: Reads | None) -> list[Option]:
    """All options for the task in the order in which they are tried: the largest model first, and of each the more
    faithful precision, or the profile's where speed is unknown. The first that fits and is fast enough is recommended.
    """
    room = room_of(profile) if wish.room_bytes is None else wish.room_bytes
    fitting = [model for model in models if model.task == wish.task]
    found: Option | None = None
    options = []
    for model in sorted(fitting, key=lambda model: -model.shape.parameters):
        for precision in _precisions(profile, reads):
            option = _option(profile, model, precision, wish, reads, room)
            verdict = _fault(option, wish, room) or _after(found, model)
            if verdict is None:
                found, verdict = option, RECOMMENDED
            options.append(replace(option, verdict=verdict))
    return options


def _after(found: Option | None, model: Model) -> str | None:
    """Why an option that would do is not the one, where `found` is."""
    if found is None:
        return None
    return f"{found.precision} of it comes first" if model is found.model else "smaller than the one recommended"


def build_command(profile: Profile, named: str, option: Option) -> str:
    """What builds it; `named` is the profile as the user gave it."""
    footprint, runtime = option.footprint, profile.runtime
    words = ["edgeqwen-compile build", option.model.id, "--profile", named, "--precision", option.precision]
    if footprint.context_tokens != runtime.context_tokens:
        words += ["--context", str(footprint.context_tokens)]
    if footprint.rows != runtime.slots:
        words += ["--rows", str(footprint.rows)]
    return " ".join([*words, "-o dist"])


def _measured(bench: Mapping[str, Any]) -> Reads:
    try:
        alone = [case for case in bench["cases"] if case["streams"] == 1]
        case = min(alone, key=lambda case: abs(case["prompt"] - DEPTH_TOKENS))
        name, speed = str(bench["model"]), float(case["decode_tokens_per_second"])
        return Reads(speed * int(bench["weights_bytes"]), f"what {name} reached on it", (name, speed))
    except (KeyError, TypeError, ValueError) as error:
        raise EdgeQwenError(
            f"what was measured cannot be used ({error!r}): give what `edgeqwen bench --json` printed, with 1 in"
            " --streams"
        ) from error


def _precisions(profile: Profile, reads: Reads | None) -> Iterator[Precision]:
    """In the order in which they are tried."""
    yield from ("int8", "int4") if reads or profile.quantization.precision == "int8" else ("int4", "int8")


def _option(profile: Profile, model: Model, precision: Precision, wish: Wish, reads: Reads | None, room: int) -> Option:
    shape = model.shape
    per_token = shape.kv_bytes_per_token(profile.kv_itemsize)
    full = footprint_of(profile, weights_bytes(shape, profile, precision), per_token, shape.context_tokens)
    if wish.context_tokens is not None:
        full = replace(full, context_tokens=min(wish.context_tokens, shape.context_tokens))
    full = replace(full, rows=wish.rows or _rows(full, room))
    return Option(model, precision, full, _speed(model, precision, full, reads))


def _rows(full: Footprint, room: int) -> int:
    """As many as can be full at once, of those that `full` has; at least one."""
    left = min(room - full.weights_bytes - full.buffers_bytes, full.kv_limit_bytes)
    return max(1, min(full.rows, left // (full.kv_bytes_per_token * full.context_tokens)))


def _speed(model: Model, precision: Precision, footprint: Footprint, reads: Reads | None) -> Speed | None:
    if reads is None:
        return None
    if reads.measured and reads.measured[0] == f"{model.id.partition('/')[2].lower()}-{precision}":
        return Speed(reads.measured[1], "measured")
    depth = min(DEPTH_TOKENS, footprint.context_tokens)
    return Speed(reads.bytes_per_s / (footprint.weights_bytes + depth * footprint.kv_bytes_per_token), "predicted")


def _fault(option: Option, wish: Wish, room: int) -> str | None:
    footprint, speed = option.footprint, option.speed
    if footprint.total_bytes > room:
        return f"does not fit: {megabytes(footprint.total_bytes)} of {megabytes(room)}"
    if footprint.kv_bytes < footprint.kv_bytes_per_token * footprint.context_tokens:
        return f"the profile's KV budget, {megabytes(footprint.kv_limit_bytes)}, does not hold one row"
    if speed is not None and speed.tokens_per_s < wish.min_speed:
        return f"too slow: {speed.tokens_per_s:.1f} tokens/s {speed.kind}, {wish.min_speed:g} wanted"
    if option.model.licence and not wish.any_licence:
        return f"its licence ({option.model.licence}) does not allow every use: --any-licence takes it"
    return None
