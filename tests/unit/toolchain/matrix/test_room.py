"""How many builds there is room for: by what the largest of them takes."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from tiny import make_tiny

from toolchain.matrix.room import memory_bytes, parameter_count, worker_count
from toolchain.requirements import MEMORY_BYTES, MEMORY_BYTES_PER_PARAMETER

HUB = "Qwen/Qwen2.5-0.5B-Instruct"


def test_sizes_are_known_of_what_is_here_and_of_published_models(tmp_path: Path) -> None:
    """Others have none."""
    weights = make_tiny(tmp_path / "tiny", "qwen2") / "model.safetensors"
    (tmp_path / "a.gguf").write_bytes(bytes(1000))
    assert 0.99 < (parameter_count(str(weights.parent)) or 0) * 4 / weights.stat().st_size < 1
    assert parameter_count(str(tmp_path / "a.gguf")) == 2000
    assert 4.9e8 < (parameter_count(HUB) or 0) < 5.0e8
    assert parameter_count("somebody/else") is None


@given(st.integers(min_value=0, max_value=10**11))
def test_no_build_takes_less_than_the_smallest(parameters: int) -> None:
    assert memory_bytes(parameters) >= max(MEMORY_BYTES, MEMORY_BYTES_PER_PARAMETER * parameters)


def test_there_are_no_more_workers_than_jobs_cores_and_memory(tmp_path: Path) -> None:
    """And always one. Why, is said."""
    plenty = 1000 * MEMORY_BYTES
    assert worker_count(["reference"] * 3, 64, plenty)[0] == 3
    assert worker_count(["reference"] * 99, 64, plenty)[0] == 64
    assert worker_count(["reference"] * 99, 64, 5 * MEMORY_BYTES)[0] == 5
    assert worker_count(["reference"] * 99, 64, 0)[0] == 1
    large = tmp_path / "a.gguf"
    with large.open("wb") as file:
        file.truncate(10**9)  # a hole
    count, why = worker_count(["reference", str(large)], 64, plenty)
    assert (count, why) == (
        2,
        "2 workers: 64 cores, 2500.0 GB of memory free, and the largest build takes about 24.9 GB",
    )
    count, why = worker_count(["reference", "somebody/else"], 64, plenty)
    assert (count, why) == (1, "one worker, as the size of somebody/else is not known yet: --workers takes more")
