"""What is above a profile's fidelity gate."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from unit.runtime.tiny_package import make_package

from runtime.errors import BuildError, ProfileError
from runtime.package import AdapterBuild, Build, Fidelity, Golden, Package, build_json
from runtime.profile import builtin_profiles, find_profile, parse_profile
from toolchain.evaluation.fidelity_gate import above_gate, require_fidelity


def fidelity(mean_kld: float) -> Fidelity:
    figures = {"p99_kld": 1.0, "perplexity": 2.0, "perplexity_float": 2.0, "top1_agreement": 1.0}
    return Fidelity(text="own", tokens=1, windows=1, mean_kld=mean_kld, **figures)


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """At INT8, whose gate is 0.02."""
    return Package.open(make_package(tmp_path / "package", "board")).build


@pytest.mark.parametrize(("mean_kld", "passes"), [(0.0, True), (0.02, True), (0.0201, False), (math.nan, False)])
def test_the_gate_itself_passes_and_what_is_no_number_does_not(build: Build, mean_kld: float, passes: bool) -> None:
    """What is above says what was measured, on what, and where the gate is."""
    build = build.model_copy(update={"fidelity": fidelity(mean_kld)})
    assert (above_gate(build) == []) == passes
    if passes:
        require_fidelity([build])
    else:
        with pytest.raises(BuildError, match=r"board: mean KLD (0\.0201|nan) on own text is above .* gate of 0\.02"):
            require_fidelity([build])


def test_adapters_have_the_same_gate(build: Build) -> None:
    """Each is named."""
    golden = Golden(prompt_ids=[1], greedy_ids=[2])
    parts = {"id": "a", "digest": "0", "rank": 1, "alpha": 1.0, "targets": [], "golden": golden}
    adapters = {
        "good": AdapterBuild(**parts, fidelity=fidelity(0.01)),
        "bad": AdapterBuild(**parts, fidelity=fidelity(1)),
    }
    [said] = above_gate(build.model_copy(update={"fidelity": fidelity(0.0), "adapters": adapters}))
    assert said.startswith("mean KLD 1.0000 with the adapter bad on own text")


def test_floats_have_no_gate(build: Build) -> None:
    """Nor has what was not measured."""
    assert above_gate(build.model_copy(update={"precision": "float32", "fidelity": fidelity(9.0)})) == []
    assert above_gate(build) == []


def test_build_json_mentions_only_what_is_above(build: Build) -> None:
    """So that the others stay as they were."""
    assert "low_fidelity" not in build_json(build)
    assert "above" in build_json(build.model_copy(update={"low_fidelity": ["above"]}))


def test_a_gate_is_a_positive_number() -> None:
    """And every built-in profile has one for INT4 and INT8."""
    for name in builtin_profiles():
        quantization = find_profile(name).quantization
        assert 0 < (quantization.max_kld("int8") or 0) <= (quantization.max_kld("int4") or 0) < 1
    data = find_profile("generic-x86_64").model_dump()
    data["quantization"]["int4"]["max_kld"] = 0.0
    with pytest.raises(ProfileError, match=r"quantization.int4.max_kld: must be > 0\.0 \(got 0.0\)"):
        parse_profile(data, "mine")
