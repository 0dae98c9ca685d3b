"""Recipes where Optimum writes the graph: pure, and only for what runs it."""

from __future__ import annotations

import pytest

from runtime.errors import ProfileError
from runtime.profile import find_profile
from toolchain.recipes.optimum import plan_optimum
from toolchain.recipes.recipe import Precision

QUANTIZED = ["export", "kept", "layers", "tie"]


@pytest.mark.parametrize(
    ("precision", "steps"), [("int4", QUANTIZED), ("int8", QUANTIZED), ("float32", ["export", "tie"])]
)
def test_passes_come_in_the_order_they_run(precision: Precision, steps: list[str]) -> None:
    """The same input gives the same recipe, which needs no calibration text."""
    profile = find_profile("generic-x86_64")
    recipe = plan_optimum(profile, precision, 2)
    assert list(recipe.passes) == steps
    assert recipe == plan_optimum(profile, precision, 2)
    assert not recipe.needs_calibration


def test_layers_are_rounded_as_the_profile_says_and_what_hurts_keeps_8_bits() -> None:
    """Head, embedding and every layer's router."""
    profile = find_profile("raspberry-pi-5")
    passes = plan_optimum(profile, "int4", 2).passes
    assert passes["layers"]["bits"] == 4
    assert passes["layers"]["block_size"] == profile.quantization.int4.block_size
    assert passes["kept"]["bits"] == 8
    routers = [f"/model/layers.{layer}/mlp/gate/MatMul" for layer in range(2)]
    assert passes["kept"]["nodes_to_include"] == ["/model/embed_tokens/Gather", "/lm_head/MatMul", *routers]
    assert plan_optimum(profile, "int8", 2).passes["layers"]["bits"] == 8


@pytest.mark.parametrize("name", ["jetson-orin-nano", "qualcomm-qcs6490", "openvino-x86_64"])
def test_what_runs_no_such_graph_is_refused(name: str) -> None:
    """By the profile's name."""
    with pytest.raises(
        ProfileError, match=rf"{name}: execution.provider: must be CPUExecutionProvider with --exporter"
    ):
        plan_optimum(find_profile(name), "int8", 2)


def test_cpus_compute_in_float32() -> None:
    """As with the other exporter."""
    with pytest.raises(ProfileError, match=r"precision: must be int4, int8 or float32"):
        plan_optimum(find_profile("generic-x86_64"), "float16", 2)
