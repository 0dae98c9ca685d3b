"""The memory sum, and sizes as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.footprint import BUFFERS_BYTES, CUDA_BUFFERS_BYTES, Footprint, footprint_of, parse_size
from runtime.profile import find_profile

SIZES = st.integers(0, 10**10)


@given(SIZES, st.integers(1, 10**6), st.integers(64, 131_072), st.integers(1, 64), SIZES, SIZES)
def test_a_footprint_is_the_sum_of_what_it_lists(
    weights: int, per_token: int, context: int, rows: int, limit: int, buffers: int
) -> None:
    """The KV cache is full, and never above its budget."""
    footprint = Footprint(weights, per_token, context, rows, limit, buffers)
    assert footprint.kv_bytes <= min(limit, per_token * context * rows)
    assert footprint.total_bytes == weights + footprint.kv_bytes + buffers
    assert ("budget limits" in str(footprint)) == (per_token * context * rows > limit)


def test_the_sum_is_spelled_out() -> None:
    board = find_profile("raspberry-pi-5")
    assert str(footprint_of(board, 374_100_000, 6144, 32_768)) == (
        "weights 374.1 MB + KV 100.7 MB (6144 B a token x 4096 tokens x 4 rows) + buffers 150.0 MB = 624.8 MB"
    )


def test_contexts_are_no_longer_than_the_model_knows_and_a_gpu_takes_more() -> None:
    board = find_profile("generic-x86_64-cuda")
    footprint = footprint_of(board, 1, 1, 1024)
    assert footprint.context_tokens == 1024
    assert footprint.buffers_bytes == CUDA_BUFFERS_BYTES > BUFFERS_BYTES


@pytest.mark.parametrize(
    ("text", "size"),
    [("110MB", 110_000_000), ("1GiB", 1 << 30), ("1.5 gb", 1_500_000_000), ("512mib", 512 << 20), ("7", 7)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "0", "0.1", "-1MB", "1TB", "1 M B", "1,5GB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a size such as 110MB"):
        parse_size(text)
