"""The choice of a recipe: inside the budget, and nothing inside it is expected to be better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import BudgetError, ProfileError
from runtime.footprint import footprint_of
from runtime.package import Fidelity
from runtime.profile import Profile, find_profile
from toolchain.recipes.recipe import Precision
from toolchain.sizing.budget import (
    PROBED_SHARES,
    Budget,
    Candidate,
    choose,
    expected_kld,
    ladder,
    most_faithful,
    require_recipes,
    served_with,
    weights_limit,
)
from toolchain.sizing.sizes import Shape

SHAPE = Shape("Qwen2ForCausalLM", 896, 4864, 24, 14, 2, 64, 151_936, 32_768, tied=True)
PROFILES = st.sampled_from(["generic-x86_64", "raspberry-pi-5", "jetson-orin-nano"]).map(find_profile)
PRECISIONS = st.sampled_from([None, "int4", "int8"])
X86 = find_profile("generic-x86_64")


@dataclass(frozen=True)
class Result:
    weights_bytes: int
    fidelity: Fidelity | None


@dataclass
class Measurer:
    """Recipes come out as small as they may, and as far from the float checkpoint as `kld_of` says."""

    kld_of: Callable[[Candidate], float] = lambda candidate: candidate.kld
    asked: list[Candidate] = field(default_factory=list)

    def __call__(self, candidate: Candidate) -> Result:
        self.asked.append(candidate)
        kld = self.kld_of(candidate)
        fidelity = Fidelity(
            text="a text",
            tokens=1,
            windows=1,
            mean_kld=kld,
            p99_kld=kld,
            perplexity=1.0,
            perplexity_float=1.0,
            top1_agreement=1.0,
        )
        return Result(candidate.weights_bytes, fidelity)


def test_the_ladder_climbs() -> None:
    """Each rung is expected to be more faithful than the one below it; at INT4 each is larger too."""
    for profile in (X86, find_profile("raspberry-pi-5"), find_profile("jetson-orin-nano")):
        rungs = ladder(profile, SHAPE, None)
        assert all(one.kld > other.kld for one, other in pairwise(rungs))
        int4 = ladder(profile, SHAPE, "int4")
        assert all(one.weights_bytes < other.weights_bytes for one, other in pairwise(int4))
        assert rungs[-1].precision == ("float16" if profile.execution.backend == "cuda" else "float32")


@given(st.floats(0, 1), st.floats(0, 1))
def test_more_layers_at_8_bits_are_expected_to_be_better(one: float, other: float) -> None:
    assert (expected_kld(one) - expected_kld(other)) * (one - other) <= 0


@given(PROFILES, PRECISIONS, st.integers(0, 2_500_000_000))
def test_the_choice_is_inside_and_no_rung_inside_is_expected_better(
    profile: Profile, precision: Precision | None, limit: int
) -> None:
    found = most_faithful(profile, SHAPE, limit, precision)
    inside = [each for each in ladder(profile, SHAPE, precision) if each.weights_bytes <= limit]
    if found is None:
        assert not inside
        return
    assert found.weights_bytes <= limit
    assert precision in (None, found.precision)
    assert all(found.kld <= each.kld for each in inside)


@given(st.integers(10**8, 3 * 10**9), st.integers(64, 8192), st.integers(1, 16))
def test_memory_is_the_whole_sum(limit: int, context: int, rows: int) -> None:
    """What is chosen fits with all rows full, buffers included; or the refusal names what would."""
    profile = served_with(X86, context, rows)
    budget = Budget(max_memory_bytes=limit)
    if weights_limit(profile, SHAPE, budget) < ladder(profile, SHAPE, None)[0].weights_bytes:
        with pytest.raises(BudgetError, match=f"x {context} tokens x {rows} row.*allow --max-memory"):
            choose(profile, SHAPE, budget, Measurer())
        return
    choice = choose(profile, SHAPE, budget, Measurer())
    kv = SHAPE.kv_bytes_per_token(profile.kv_itemsize)
    footprint = footprint_of(profile, choice.candidate.weights_bytes, kv, SHAPE.context_tokens)
    assert footprint.total_bytes <= limit
    assert str(footprint) in choice.why


def test_the_smaller_of_two_limits_counts() -> None:
    both = Budget(max_size_bytes=400_000_000, max_memory_bytes=4_000_000_000)
    assert weights_limit(X86, SHAPE, both) == 400_000_000
    both = Budget(max_size_bytes=4_000_000_000, max_memory_bytes=1_400_000_000)
    assert weights_limit(X86, SHAPE, both) < 1_400_000_000


@given(st.floats(0.0001, 0.5), st.floats(0.2, 5))
def test_the_smallest_that_is_faithful_enough_is_found(limit: float, scale: float) -> None:
    """However far the model is from what is expected; of INT4, four builds decide."""
    measurer = Measurer(lambda candidate: candidate.kld * scale)
    choice = choose(X86, SHAPE, Budget(max_kld=limit), measurer)
    enough = [each for each in ladder(X86, SHAPE, None) if each.kld * scale <= limit]
    assert choice.candidate == enough[0]
    assert sum(each.precision == "int4" for each in measurer.asked) <= 4
    assert len(PROBED_SHARES) == 14


def test_what_is_best_inside_the_bytes_and_still_not_faithful_is_refused_with_what_would_be() -> None:
    """By as much as the model is worse than expected, more is asked for."""
    budget = Budget(max_size_bytes=360_000_000, max_kld=0.06)
    with pytest.raises(
        BudgetError, match=r"the most faithful inside weights <= 360\.0 MB, KLD <= 0\.06, has a KLD of"
    ) as e:
        choose(X86, SHAPE, budget, Measurer(lambda candidate: 2 * candidate.kld))
    assert "INT4 with 50 % of the layers at 8 bits and a head of 8 is expected to reach it, with" in str(e.value)
    assert "\n" not in str(e.value)


def test_what_no_recipe_reaches_is_refused() -> None:
    with pytest.raises(BudgetError, match=r"no recipe of int4 reaches KLD <= 0\.001, .* choose another --precision"):
        choose(X86, SHAPE, Budget(max_kld=0.001), Measurer(), precision="int4")
    budget = Budget(max_size_bytes=10**9, max_kld=0.001)
    with pytest.raises(BudgetError, match="no recipe of this precision is expected to reach it"):
        choose(X86, SHAPE, budget, Measurer(), precision="int8")


def test_too_few_bytes_are_refused_with_the_fewest() -> None:
    with pytest.raises(
        BudgetError, match=r"the smallest, INT4 with 0 % .* and a head of 4, takes .*: allow --max-size"
    ) as e:
        choose(X86, SHAPE, Budget(max_size_bytes=10**8), Measurer())
    allowed = int(str(e.value).rpartition("--max-size ")[2].removesuffix("MB")) * 10**6
    assert choose(X86, SHAPE, Budget(max_size_bytes=allowed), Measurer()).candidate.precision == "int4"


@pytest.mark.parametrize("budget", [Budget(max_size_bytes=10**9), Budget(max_kld=1.0)])
def test_floats_are_those_that_the_device_computes_in(budget: Budget) -> None:
    with pytest.raises(BudgetError, match="generic-x86_64 does not compute in float16: choose another --precision"):
        choose(X86, SHAPE, budget, Measurer(), precision="float16")


def test_what_comes_out_larger_than_it_may_is_refused() -> None:
    def measure(candidate: Candidate) -> Result:
        return Result(candidate.weights_bytes + 10**8, Measurer()(candidate).fidelity)

    with pytest.raises(BudgetError, match="came out at"):
        choose(X86, SHAPE, Budget(max_size_bytes=400_000_000), measure)


def test_a_profile_is_served_otherwise_only_within_its_rules() -> None:
    served = served_with(X86, 2048, 2)
    assert (served.runtime.context_tokens, served.runtime.slots) == (2048, 2)
    assert served_with(X86, None, None) == X86
    with pytest.raises(ProfileError, match=r"runtime\.slots: must be 1"):
        served_with(find_profile("intel-core-ultra-npu"), None, 2)


def test_budgets_are_for_backends_with_such_recipes() -> None:
    require_recipes([X86, find_profile("jetson-orin-nano")])
    with pytest.raises(ProfileError, match="leave out --max-size") as error:
        require_recipes([X86, find_profile("openvino-x86_64"), find_profile("qualcomm-qcs6490")])
    assert [fault.path for fault in error.value.faults] == ["openvino-x86_64", "qualcomm-qcs6490"]
