"""Recipes: a pure function of profile, precision and hidden size."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import ProfileError
from runtime.profile import Execution, Profile, find_profile, parse_profile
from toolchain.recipes.recipe import CUDA, MIN_BLOCK, Precision, Recipe, plan

QWEN25_05B, QWEN25_15B = 896, 1536


def profile(*, provider: str = "CPUExecutionProvider", **knobs: dict[str, object]) -> Profile:
    """generic-x86_64 with other `int4` or `int8` knobs."""
    data = find_profile("generic-x86_64").model_dump()
    data["execution"]["provider"] = provider
    if provider == CUDA:
        data["runtime"]["kv_cache"]["dtype"] = "float16"
    for precision, changed in knobs.items():
        data["quantization"][precision] |= changed
    return parse_profile(data, "test")


def block_sizes(recipe: Recipe) -> list[object]:
    """Of decoder layers, of the head where it differs, and the one that ModelBuilder is told."""
    keys = (("layers", "group_size"), ("head", "group_size"), ("model_builder", "int4_block_size"))
    return [recipe.passes[step].get(key) for step, key in keys if step in recipe.passes]


@pytest.mark.parametrize("precision", ["int4", "int8", "float32"])
def test_a_plan_is_pure(precision: Precision) -> None:
    """The same input gives an equal recipe with the same key, and the profile stays as it was."""
    board = profile()
    before = board.digest
    first, second = plan(board, precision, QWEN25_05B), plan(board, precision, QWEN25_05B)
    assert first == second
    assert first.key == second.key
    assert board.digest == before


@pytest.mark.parametrize(
    ("precision", "steps"),
    [
        ("int4", ["mixed_precision", "smoothing", "layers", "head", "model_builder", "tie"]),
        ("int8", ["smoothing", "layers", "head", "model_builder", "tie"]),
        ("float32", ["model_builder", "tie"]),
    ],
)
def test_passes_come_in_the_order_they_run(precision: Precision, steps: list[str]) -> None:
    """Weights are rounded before the graph is written, and embeddings tied in what was written."""
    assert list(plan(profile(), precision, QWEN25_05B).passes) == steps


@pytest.mark.parametrize(
    ("hidden", "block", "head_block", "fitted"),
    [
        (QWEN25_05B, 32, 128, [32, 128, 32]),
        (QWEN25_05B, 256, 256, [128, 128, 128]),
        (QWEN25_15B, 256, 256, [256, 256, 256]),
        (576, 128, 128, [64, 64, 64]),
        (64, 256, 16, [64, 16, 64]),
    ],
)
def test_block_sizes_fit_the_hidden_size(hidden: int, block: int, head_block: int, fitted: list[int]) -> None:
    """A block that does not divide a row is halved until it does; ModelBuilder gets the layers' own."""
    sizes = {"block_size": block, "head_block_size": head_block}
    board = profile(int4=sizes, int8=sizes)
    assert block_sizes(plan(board, "int4", hidden)) == fitted
    assert block_sizes(plan(board, "int8", hidden)) == fitted


@given(st.sampled_from([16, 32, 64, 128, 256]), st.integers(1, 512).map(lambda n: n * 16))
def test_a_fitted_block_divides_and_is_the_largest(block: int, hidden: int) -> None:
    """Of the asked size's halves, the largest that divides the row is taken."""
    sizes = {"block_size": block, "head_block_size": block}
    fitted, head, told = block_sizes(plan(profile(int8=sizes), "int8", hidden))
    assert (
        fitted == head == told == max(size for size in (16, 32, 64, 128, 256) if size <= block and hidden % size == 0)
    )


@pytest.mark.parametrize(
    ("precision", "knobs", "needed"),
    [
        ("int4", {"algorithm": "gptq", "mixed_precision": "k_quant_mixed", "smooth": False}, True),
        ("int4", {"algorithm": "rtn", "mixed_precision": "fisher", "smooth": False}, True),
        ("int4", {"algorithm": "rtn", "mixed_precision": "k_quant_mixed", "smooth": True}, True),
        ("int4", {"algorithm": "rtn", "mixed_precision": "k_quant_mixed", "smooth": False}, False),
        ("int8", {"smooth": True}, True),
        ("int8", {"smooth": False}, False),
        ("float32", {}, False),
    ],
)
def test_text_is_made_only_for_what_reads_it(precision: Precision, knobs: dict[str, object], needed: bool) -> None:
    """GPTQ, layers chosen by measurement, and channels evened out."""
    board = profile(**({precision: knobs} if knobs else {}))
    assert plan(board, precision, QWEN25_05B).needs_calibration is needed


def test_the_head_keeps_its_own_bits() -> None:
    """Decoder layers at 4 bits, head and embedding as the profile says, whatever they were marked for before."""
    for bits in (4, 8):
        passes = plan(profile(int4={"head_bits": bits}), "int4", QWEN25_05B).passes
        assert passes["layers"]["bits"] == 4
        assert (passes["head"]["bits"], passes["head"]["lm_head"], passes["head"]["embeds"]) == (bits, True, True)
        marked = {"bits": bits, "symmetric": False}
        expected = {"lm_head": marked, "model.embed_tokens": marked} if bits == 4 else None
        assert passes["head"].get("overrides") == expected


KNOBS: list[tuple[Precision, dict[str, Any]]] = [
    ("int4", {"int4": {"algorithm": "rtn"}}),
    ("int4", {"int4": {"block_size": 32}}),
    ("int4", {"int4": {"symmetric": True}}),
    ("int4", {"int4": {"mixed_precision": "k_quant_last"}}),
    ("int4", {"int4": {"high_share": 0.5}}),
    ("int4", {"int4": {"head_bits": 4}}),
    ("int4", {"int4": {"head_block_size": 64}}),
    ("int4", {"int4": {"smooth": False}}),
    ("int4", {"int4": {"accuracy_level": 1}}),
    ("int4", {"provider": CUDA}),
    ("int8", {"int8": {"block_size": 128}}),
    ("int8", {"int8": {"symmetric": False}}),
    ("int8", {"int8": {"head_block_size": 128}}),
    ("int8", {"int8": {"smooth": False}}),
    ("int8", {"int8": {"accuracy_level": 1}}),
    ("int8", {"provider": CUDA}),
]


@pytest.mark.parametrize(("precision", "change"), KNOBS)
def test_any_knob_changes_the_key(precision: Precision, change: dict[str, Any]) -> None:
    """Nothing that was made with one knob is found under another."""
    assert plan(profile(**change), precision, QWEN25_05B).key != plan(profile(), precision, QWEN25_05B).key


@pytest.mark.parametrize(("precision", "provider"), [("float32", CUDA), ("float16", "CPUExecutionProvider")])
def test_floats_are_those_that_the_device_computes_in(precision: Precision, provider: str) -> None:
    """The other ones are refused, with those there are."""
    with pytest.raises(ProfileError, match="precision: must be int4, int8 or float"):
        plan(profile(provider=provider), precision, QWEN25_05B)


def test_tensorrt_gets_what_cuda_gets() -> None:
    """It leaves most of the graph to CUDA."""
    board = profile(provider=CUDA)
    tensorrt = board.model_copy(update={"execution": Execution(provider="TensorrtExecutionProvider")})
    assert plan(tensorrt, "int4", QWEN25_05B) == plan(board, "int4", QWEN25_05B)


def test_precisions_have_keys_of_their_own() -> None:
    """Three precisions of one profile share nothing in the cache."""
    precisions: list[Precision] = ["int4", "int8", "float32"]
    assert len({plan(profile(), precision, QWEN25_05B).key for precision in precisions}) == 3


def test_knobs_of_another_precision_change_nothing() -> None:
    """An INT8 model is not built again because INT4's recipe changed."""
    changed = profile(int4={"block_size": 16, "algorithm": "rtn"})
    assert plan(changed, "int8", QWEN25_05B).key == plan(profile(), "int8", QWEN25_05B).key


def test_the_order_of_passes_is_part_of_the_key() -> None:
    recipe = plan(profile(), "int4", QWEN25_05B)
    steps = list(recipe.passes.items())
    other = Recipe(dict([*steps[1::-1], *steps[2:]]), recipe.provider)
    assert other.passes == recipe.passes
    assert other.key != recipe.key


def test_our_modules_are_those_that_run() -> None:
    """A change of one makes again only what it has made."""
    assert "toolchain.passes.ordered_gptq" in plan(profile(), "int4", QWEN25_05B).our_modules
    assert "toolchain.passes.ordered_gptq" not in plan(profile(), "int8", QWEN25_05B).our_modules
    assert plan(profile(), "float32", QWEN25_05B).our_modules == ["toolchain.passes.rotary_tables"]


@given(st.integers(1, 4096), st.sampled_from([16, 32, 64, 128, 256]), st.sampled_from(["int4", "int8"]))
def test_a_block_divides_all_rows_or_the_recipe_is_refused(divisor: int, block: int, precision: Precision) -> None:
    """Refused is only what no block that kernels know divides."""
    board = profile(**{precision: {"block_size": block}})
    if divisor % MIN_BLOCK:
        with pytest.raises(ProfileError, match=rf"which are multiples of {divisor}: choose a precision that does not"):
            plan(board, precision, divisor)
        return
    for size in block_sizes(plan(board, precision, divisor)):
        assert isinstance(size, int)
        assert divisor % size == 0
        assert size >= MIN_BLOCK
