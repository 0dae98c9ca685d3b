"""Recipes that a sweep compares: a profile's own, and those that differ from it in one thing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from runtime.profile import MixedPrecision, Profile, parse_profile

_SHARES = (0.0, 0.15, 0.45, 0.7)
_BLOCKS = (32, 64, 128)


@dataclass(frozen=True)
class Candidate:
    """A recipe: `precision`, with `knobs` of it changed from the profile's. `name` is short and says what changed."""

    name: str
    precision: Literal["int4", "int8"]
    knobs: Mapping[str, object]

    def applied_to(self, profile: Profile) -> Profile:
        """The profile with these knobs. Raises ProfileError for what it cannot have."""
        data = profile.model_dump()
        data["quantization"][self.precision] |= self.knobs
        return parse_profile(data, profile.name)


def candidates(profile: Profile) -> list[Candidate]:
    """The profile's own recipes first, then each variation; none is there twice."""
    return [*_of_int4(profile), *_of_int8(profile)]


def _of_int4(profile: Profile) -> Iterator[Candidate]:
    own = profile.quantization.int4
    yield Candidate("int4", "int4", {})
    for algorithm in ("gptq", "kquant", "rtn"):
        if algorithm != own.algorithm:
            yield Candidate(f"int4 {algorithm}", "int4", {"algorithm": algorithm})
    yield Candidate("int4 not smooth" if own.smooth else "int4 smooth", "int4", {"smooth": not own.smooth})
    yield Candidate("int4 rotated", "int4", {"rotate": True})
    for block in _BLOCKS:
        if block != own.block_size:
            yield Candidate(f"int4 block {block}", "int4", {"block_size": block})
    zero_points = "zero points" if own.symmetric else "symmetric"
    yield Candidate(f"int4 {zero_points}", "int4", {"symmetric": not own.symmetric})
    for way in get_args(MixedPrecision):
        if way != own.mixed_precision:
            yield Candidate(f"int4 {way}", "int4", {"mixed_precision": way})
    for share in _SHARES:
        yield Candidate(f"int4 {share:.0%} at 8 bits", "int4", {"mixed_precision": "fisher", "high_share": share})
    other_head: dict[str, object] = {"head_bits": 12 - own.head_bits, "head_block_size": 32}
    yield Candidate(f"int4 head {12 - own.head_bits} bits", "int4", other_head)
    smallest = {"head_bits": 4, "head_block_size": 32, "mixed_precision": "fisher", "high_share": 0.0}
    yield Candidate("int4 all 4 bits", "int4", smallest)


def _of_int8(profile: Profile) -> Iterator[Candidate]:
    own = profile.quantization.int8
    yield Candidate("int8", "int8", {})
    yield Candidate("int8 not smooth" if own.smooth else "int8 smooth", "int8", {"smooth": not own.smooth})
    for block in _BLOCKS:
        if block != own.block_size:
            yield Candidate(f"int8 block {block}", "int8", {"block_size": block})
    zero_points = "zero points" if own.symmetric else "symmetric"
    yield Candidate(f"int8 {zero_points}", "int8", {"symmetric": not own.symmetric})
