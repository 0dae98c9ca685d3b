"""Recipes for OpenVINO: a pure function of profile and precision."""

from __future__ import annotations

import pytest

from runtime.profile import find_profile
from toolchain.recipes.openvino import plan_openvino
from toolchain.recipes.recipe import Precision


def weights(profile: str, precision: Precision) -> dict[str, object]:
    recipe = plan_openvino(find_profile(profile), precision)
    assert not recipe.needs_calibration
    quantization = recipe.passes["convert"]["ov_quant_config"]
    assert isinstance(quantization, dict)
    return quantization


def test_int4_for_the_npu_is_as_intel_recommends() -> None:
    """Symmetric, in blocks of 128, at 4 bits throughout but for head and embedding."""
    assert (
        weights("intel-core-ultra-npu", "int4").items()
        >= {
            "weight_format": "int4",
            "sym": True,
            "group_size": 128,
            "ratio": 1.0,
            "backup_precision": "int8_sym",
        }.items()
    )


def test_what_a_profile_says_of_int4_is_done() -> None:
    """Blocks with zero points, of another size."""
    assert (
        weights("openvino-x86_64", "int4").items()
        >= {
            "sym": False,
            "group_size": 64,
            "backup_precision": "int8_asym",
        }.items()
    )


@pytest.mark.parametrize(("precision", "written"), [("int8", "int8"), ("float32", "fp32")])
def test_other_precisions_keep_their_bits(precision: Precision, written: str) -> None:
    assert weights("intel-core-ultra-npu", precision)["weight_format"] == written


def test_one_compiled_model_serves_npu_and_gpu() -> None:
    """The key is of what Olive is told, and it is told the same."""
    npu, gpu = (plan_openvino(find_profile(f"intel-core-ultra-{name}"), "int4") for name in ("npu", "gpu"))
    assert npu.key == gpu.key
