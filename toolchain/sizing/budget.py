"""Chooses the recipe for a budget of bytes or of divergence. Pure: what a recipe really gives, `measure` is asked.

The recipes form a ladder. At INT4 the share of layer weights that keep 8 bits (`high_share`) is a continuum, which a
number of bytes determines; below it the head has 4 bits too, above it are INT8 and the floats that the device computes
in. Which of two is more faithful is expected from what was measured on the reference checkpoint
(docs/quantization.md); how faithful the chosen one is, is measured.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import exp, log
from typing import Protocol

from runtime.errors import BudgetError, Fault, ProfileError
from runtime.footprint import Footprint, footprint_of, megabytes
from runtime.package import Fidelity
from runtime.profile import Profile, parse_profile

from ..recipes.recipe import Precision
from .sizes import Shape, share_that_fits, weights_bytes, with_int4

BACKENDS = ("ort", "cuda")
"""Whose recipes have these knobs."""

PROBED_SHARES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Of INT4, for a search by fidelity: with the one below them fifteen, so that four builds find the place."""

# What is expected: mean KLD of the reference checkpoint on the held-out text (docs/quantization.md). By INT4's
# `high_share`, between which it is taken to fall exponentially; what a head of 4 bits adds; INT8, by block and whether
# symmetric.
_KLD_BY_SHARE = ((0.0, 0.114), (0.15, 0.0565), (0.29, 0.0373), (0.45, 0.0278), (0.7, 0.0165), (1.0, 0.0033))
_KLD_OF_LOW_HEAD = 0.09
_INT8_BLOCKS = ((64, True, 0.0023), (32, True, 0.0021))


@dataclass(frozen=True)
class Budget:
    """What a variant must keep to; None is no limit.

    Args:
        max_size_bytes: of the weights file.
        max_memory_bytes: resident on the device with all rows full.
        max_kld: mean KL divergence from the float checkpoint on the held-out text.
    """

    max_size_bytes: int | None = None
    max_memory_bytes: int | None = None
    max_kld: float | None = None

    def __bool__(self) -> bool:
        return self != Budget()

    @property
    def limits_bytes(self) -> bool:
        return self.max_size_bytes is not None or self.max_memory_bytes is not None

    def __str__(self) -> str:
        parts = {
            "weights": self.max_size_bytes and megabytes(self.max_size_bytes),
            "memory": self.max_memory_bytes and megabytes(self.max_memory_bytes),
            "KLD": self.max_kld,
        }
        return ", ".join(f"{name} <= {limit}" for name, limit in parts.items() if limit is not None)


@dataclass(frozen=True)
class Candidate:
    """A recipe. `weights_bytes` is the most that it will take, `kld` what is expected of it."""

    name: str
    profile: Profile
    precision: Precision
    weights_bytes: int
    kld: float


@dataclass(frozen=True)
class Choice:
    """The recipe that was chosen, and the reason in one sentence."""

    candidate: Candidate
    why: str


class Measured(Protocol):
    """What a recipe gave."""

    @property
    def weights_bytes(self) -> int: ...

    @property
    def fidelity(self) -> Fidelity | None: ...


Measure = Callable[[Candidate], Measured]


def require_recipes(profiles: Iterable[Profile]) -> None:
    """Raises ProfileError for profiles whose backend has no such ladder."""
    if without := [profile for profile in profiles if profile.execution.backend not in BACKENDS]:
        raise ProfileError(
            Fault(
                profile.name,
                f"a budget chooses among the recipes of CPUs and CUDA, not of {profile.execution.name}: leave out"
                " --max-size, --max-memory and --min-fidelity",
            )
            for profile in without
        )


def served_with(profile: Profile, context_tokens: int | None, rows: int | None) -> Profile:
    """The profile with another context or number of rows. Raises ProfileError if it cannot have them."""
    asked = {"context_tokens": context_tokens, "slots": rows}
    changes = {name: value for name, value in asked.items() if value is not None}
    data = profile.model_dump()
    return parse_profile(data | {"runtime": data["runtime"] | changes}, profile.name) if changes else profile


def choose(
    profile: Profile, shape: Shape, budget: Budget, measure: Measure, *, precision: Precision | None = None
) -> Choice:
    """The most faithful recipe inside the bytes of `budget`; without a limit of bytes, the smallest that is faithful
    enough, of at most four at INT4 and those above it. With `precision`, of that one only.

    Raises BudgetError, which says what would fit, if none does.
    """
    if not ladder(profile, shape, precision):
        raise BudgetError(f"{profile.name} does not compute in {precision}: choose another --precision")
    if not budget.limits_bytes:
        return _smallest_faithful(profile, shape, budget, measure, precision)
    limit = weights_limit(profile, shape, budget)
    found = most_faithful(profile, shape, limit, precision)
    if found is None:
        raise BudgetError(_nothing_fits(profile, shape, budget, precision))
    got = measure(found)
    size, kld = megabytes(got.weights_bytes), _kld(got)
    if got.weights_bytes > limit:
        raise BudgetError(f"{profile.name}: {found.name} came out at {size}, above {budget}: allow so much")
    if budget.max_kld is not None and kld > budget.max_kld:
        hint = _would_reach(profile, shape, budget.max_kld, kld / found.kld if found.kld else 1.0, precision)
        raise BudgetError(
            f"{profile.name}: {found.name}, the most faithful inside {budget}, has a KLD of {kld:.4f} at {size} of"
            f" weights; {hint}"
        )
    summed = f": {_footprint(profile, shape, got.weights_bytes)}" if budget.max_memory_bytes is not None else ""
    return Choice(found, f"{found.name} is expected to be the most faithful inside {budget}{summed}")


def weights_limit(profile: Profile, shape: Shape, budget: Budget) -> int:
    """Bytes that the weights may have, less than 0 if KV cache and buffers alone are too much."""
    limits = [budget.max_size_bytes] if budget.max_size_bytes is not None else []
    if budget.max_memory_bytes is not None:
        limits.append(budget.max_memory_bytes - _footprint(profile, shape, 0).total_bytes)
    return min(limits)


def most_faithful(profile: Profile, shape: Shape, limit_bytes: int, precision: Precision | None) -> Candidate | None:
    """Of all recipes whose weights take at most `limit_bytes`, the one expected to be; the smaller of two alike."""
    shares = {
        head_bits: share_that_fits(
            shape, with_int4(profile, mixed_precision="fisher", head_bits=head_bits), limit_bytes
        )
        for head_bits in (8, 4)
    }
    candidates = [
        *(_int4(profile, shape, share, head_bits) for head_bits, share in shares.items() if share is not None),
        *_above_int4(profile, shape),
    ]
    inside = [each for each in _of(precision, candidates) if each.weights_bytes <= limit_bytes]
    return min(inside, key=lambda each: (each.kld, each.weights_bytes), default=None)


def ladder(profile: Profile, shape: Shape, precision: Precision | None) -> list[Candidate]:
    """The recipes that a search by fidelity tries, from the smallest and least faithful on."""
    int4 = [_int4(profile, shape, 0.0, 4), *(_int4(profile, shape, share, 8) for share in PROBED_SHARES)]
    return _of(precision, [*int4, *_above_int4(profile, shape)])


def _smallest_faithful(
    profile: Profile, shape: Shape, budget: Budget, measure: Measure, precision: Precision | None
) -> Choice:
    limit = budget.max_kld
    assert limit is not None
    rungs = ladder(profile, shape, precision)
    int4 = [rung for rung in rungs if rung.precision == "int4"]
    at = bisect_left(int4, True, key=lambda rung: _kld(measure(rung)) <= limit)
    found = int4[at] if at < len(int4) else None
    above = (rung for rung in rungs if rung.precision != "int4")
    found = found or next((rung for rung in above if _kld(measure(rung)) <= limit), None)
    if found is None:
        raise BudgetError(
            f"{profile.name}: no recipe of {precision or 'any precision'} reaches {budget}, nor does the most faithful,"
            f" {rungs[-1].name}: choose another --precision, or allow more with --min-fidelity"
        )
    return Choice(found, f"{found.name} is the smallest that was tried which reaches {budget}")


def _nothing_fits(profile: Profile, shape: Shape, budget: Budget, precision: Precision | None) -> str:
    smallest = min(ladder(profile, shape, precision), key=lambda rung: rung.weights_bytes)
    footprint = _footprint(profile, shape, smallest.weights_bytes)
    hints = []
    if budget.max_size_bytes is not None and smallest.weights_bytes > budget.max_size_bytes:
        hints.append(f"--max-size {_whole_mb(smallest.weights_bytes)}")
    if budget.max_memory_bytes is not None and footprint.total_bytes > budget.max_memory_bytes:
        hints.append(f"--max-memory {_whole_mb(footprint.total_bytes)} or a shorter --context or fewer --rows")
    return (
        f"{profile.name}: no recipe is inside {budget}; the smallest, {smallest.name}, takes {footprint}: allow"
        f" {' and '.join(hints)}"
    )


def _would_reach(profile: Profile, shape: Shape, max_kld: float, scale: float, precision: Precision | None) -> str:
    """What is expected to be faithful enough, where recipes are `scale` times as far from the float checkpoint as the
    table says."""
    enough = [rung for rung in ladder(profile, shape, precision) if rung.kld * scale <= max_kld]
    if not enough:
        return "no recipe of this precision is expected to reach it: choose another, or allow more with --min-fidelity"
    smallest = min(enough, key=lambda rung: rung.weights_bytes)
    footprint = _footprint(profile, shape, smallest.weights_bytes)
    return (
        f"{smallest.name} is expected to reach it, with {megabytes(smallest.weights_bytes)} of weights and"
        f" {megabytes(footprint.total_bytes)} of memory: allow so much, or more with --min-fidelity"
    )


def _int4(profile: Profile, shape: Shape, share: float, head_bits: int) -> Candidate:
    name = f"INT4 with {100 * share:.3g} % of the layers at 8 bits and a head of {head_bits}"
    chosen = with_int4(profile, mixed_precision="fisher", high_share=share, head_bits=head_bits)
    kld = expected_kld(share) + (_KLD_OF_LOW_HEAD if head_bits == 4 else 0.0)
    return Candidate(name, chosen, "int4", weights_bytes(shape, chosen, "int4"), kld)


def expected_kld(share: float) -> float:
    """Of INT4 with `share` of the layers at 8 bits and such a head."""
    (left, high), (right, low) = next(pair for pair in pairwise(_KLD_BY_SHARE) if share <= pair[1][0])
    return high * exp(log(low / high) * (share - left) / (right - left))


def _above_int4(profile: Profile, shape: Shape) -> Iterator[Candidate]:
    """INT8, then floats."""
    for block_size, symmetric, kld in _INT8_BLOCKS:
        knobs = profile.quantization.int8.model_copy(update={"block_size": block_size, "symmetric": symmetric})
        chosen = profile.model_copy(update={"quantization": profile.quantization.model_copy(update={"int8": knobs})})
        name = f"INT8 in {'symmetric blocks' if symmetric else 'blocks'} of {block_size}"
        yield Candidate(name, chosen, "int8", weights_bytes(shape, chosen, "int8"), kld)
    floats: Precision = "float16" if profile.execution.backend == "cuda" else "float32"
    yield Candidate(floats, profile, floats, weights_bytes(shape, profile, floats), 0.0)


def _of(precision: Precision | None, candidates: Iterable[Candidate]) -> list[Candidate]:
    return [each for each in candidates if precision in (None, each.precision)]


def _footprint(profile: Profile, shape: Shape, weights: int) -> Footprint:
    return footprint_of(profile, weights, shape.kv_bytes_per_token(profile.kv_itemsize), shape.context_tokens)


def _kld(measured: Measured) -> float:
    assert measured.fidelity is not None
    return measured.fidelity.mean_kld


def _whole_mb(size: int) -> str:
    return f"{-(-size // 10**6)}MB"
