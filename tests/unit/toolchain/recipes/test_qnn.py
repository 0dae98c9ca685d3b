"""Recipes for Qualcomm NPUs: the pipeline is everybody's, the binaries are one SoC's."""

from __future__ import annotations

import pytest

from runtime.errors import BuildError
from runtime.profile import builtin_profiles, find_profile
from toolchain.recipes.qnn import plan_binaries, plan_pipeline
from toolchain.recipes.recipe import ACTIVATIONS, CALIBRATION

PROFILES = [find_profile(name) for name in builtin_profiles() if find_profile(name).execution.backend == "qnn"]


def test_socs_share_the_pipeline_and_nothing_after_it() -> None:
    """What takes minutes is made once for all of them."""
    assert len(PROFILES) >= 3
    assert len({plan_pipeline(profile, "int4").key for profile in PROFILES}) == 1
    assert len({plan_binaries(profile).key for profile in PROFILES}) == len(PROFILES)


def test_another_window_is_another_pipeline() -> None:
    [profile, *_] = PROFILES
    runtime = profile.runtime.model_copy(update={"prefill_chunk_tokens": 32})
    other = plan_pipeline(profile.model_copy(update={"runtime": runtime}), "int4")
    assert other.key != plan_pipeline(profile, "int4").key
    assert other.passes["static"]["context_length"] == 32


@pytest.mark.parametrize(("precision", "data"), [("int4", [CALIBRATION, ACTIVATIONS]), ("int8", [ACTIVATIONS])])
def test_ranges_of_activations_always_want_text(precision: str, data: list[str]) -> None:
    """Weights want it only where they are rounded by what it says."""
    assert plan_pipeline(PROFILES[0], precision).calibration == data  # type: ignore[arg-type]


def test_float_is_refused_before_anything_is_made() -> None:
    with pytest.raises(BuildError, match="an NPU, which computes in integers: choose --precision int4 or int8"):
        plan_pipeline(PROFILES[0], "float32")
