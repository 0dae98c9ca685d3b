"""How large a weights file becomes: properties of the sum; that files are so large, packages say in integration."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import SourceError
from runtime.profile import builtin_profiles, find_profile
from toolchain.recipes.recipe import Precision
from toolchain.sizing.sizes import Shape, shape_of, share_that_fits, weights_bytes, with_int4

QWEN25_05B = Shape("Qwen2ForCausalLM", 896, 4864, 24, 14, 2, 64, 151_936, 32_768, tied=True)
REFERENCE = Shape("Qwen2ForCausalLM", 576, 1536, 30, 9, 3, 64, 49_152, 8192, tied=True)
X86 = find_profile("generic-x86_64")


@pytest.mark.parametrize(
    ("profile", "precision", "file_bytes"),
    [
        ("generic-x86_64", "float32", 538_060_032),
        ("generic-x86_64", "int8", 144_794_880),
        ("generic-x86_64", "int4", 105_897_024),
        ("raspberry-pi-5", "int4", 107_138_304),
        ("openvino-x86_64", "int8", 135_030_149),
    ],
)
def test_files_of_the_reference_checkpoint_are_so_large(profile: str, precision: Precision, file_bytes: int) -> None:
    """Within 0.5 %: its zero biases are in no file, and the layers at 8 bits are not known to the last one."""
    assert weights_bytes(REFERENCE, find_profile(profile), precision) == pytest.approx(file_bytes, rel=0.005)


def test_a_config_is_read_and_what_it_lacks_is_named() -> None:
    """`head_dim` follows from the heads where it is not given."""
    config: dict[str, object] = {
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151_936,
        "max_position_embeddings": 32_768,
        "tie_word_embeddings": True,
    }
    assert shape_of(config, "config.json") == QWEN25_05B
    assert QWEN25_05B.kv_bytes_per_token(4) == 24_576
    assert QWEN25_05B.parameters == pytest.approx(494e6, rel=0.001)
    del config["intermediate_size"]
    with pytest.raises(SourceError, match=r"config\.json: intermediate_size must be a whole number \(got None\)"):
        shape_of(config, "config.json")


def test_more_bits_are_larger() -> None:
    """Of each profile that comes along: INT4, INT8, float; an untied head is stored beside the embedding."""
    untied = replace(QWEN25_05B, tied=False)
    for profile in map(find_profile, builtin_profiles()):
        sizes = [weights_bytes(QWEN25_05B, profile, precision) for precision in ("int4", "int8", "float32")]
        assert sizes == sorted(set(sizes)) or profile.execution.backend == "qnn"
        assert weights_bytes(untied, profile, "int8") >= sizes[1]


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8).map(sorted), st.booleans())
def test_a_larger_share_at_8_bits_is_no_smaller(shares: list[float], symmetric: bool) -> None:
    board = with_int4(X86, symmetric=symmetric)
    sizes = [weights_bytes(REFERENCE, with_int4(board, high_share=share), "int4") for share in shares]
    assert all(one <= other for one, other in pairwise(sizes))


@given(st.integers(0, 200_000_000), st.sampled_from([4, 8]), st.booleans())
def test_the_share_that_fits_is_the_largest(limit: int, head_bits: int, symmetric: bool) -> None:
    """It fits, and a thousandth more does not; none fits where not even the smallest file does."""
    board = with_int4(X86, head_bits=head_bits, symmetric=symmetric)

    def size(share: float) -> int:
        return weights_bytes(REFERENCE, with_int4(board, high_share=share), "int4")

    share = share_that_fits(REFERENCE, board, limit)
    if share is None:
        assert size(0) > limit
    else:
        assert size(share) <= limit
        assert share == 1 or size(share + 0.001) >= limit
