"""The rectangular serving graph and its session, on the CPU provider: what a GPU computes, as far as it can say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from integration.packages import build_package, small_checkpoint
from integration.reference import expected_logits

from runtime.errors import SessionError
from runtime.package import Package
from runtime.sessions.cuda_session import CudaSession
from runtime.sessions.inference import CPU
from runtime.sessions.ort_session import OrtSession
from runtime.sessions.session import Chunk, Logits

pytestmark = pytest.mark.slow

PROMPT = [int(token) for token in np.random.default_rng(1).integers(3, 300, 90)]
CLOSE = 0.02
"""Between float16 and float32, of logits whose spread is about 1."""


@pytest.fixture(scope="module", params=["qwen2", "qwen3"])
def made(request: pytest.FixtureRequest, build_cache: Path) -> tuple[Path, Path]:
    """A checkpoint with layers of real size, and its serving graph at float16."""
    checkpoint = small_checkpoint(request.param, build_cache / "small")
    source = str(checkpoint)
    package = build_package("float16", "generic-x86_64-cuda", cache=build_cache / "small", source=source)
    return checkpoint, Package.open(package).serving_graph


def open_session(graph: Path, slots: int = 1) -> CudaSession:
    return CudaSession(graph, slots=slots, context_tokens=128, provider=CPU)


def difference(one: Logits, other: Logits) -> float:
    return float(np.abs(one - other).max() / other.std())


def test_logits_are_those_of_transformers(made: tuple[Path, Path]) -> None:
    """Of a prompt, in chunks that need padding and one that does not, and of tokens after it."""
    checkpoint, graph = made
    expected = expected_logits(checkpoint, PROMPT)
    session = open_session(graph)
    whole = session.run([Chunk(0, PROMPT, 0, logits=len(PROMPT))])
    assert difference(whole, expected) < CLOSE
    session.clear(0)
    assert session.run([Chunk(0, PROMPT[:21], 0, logits=0)]).shape == (0, 512)
    assert difference(session.run([Chunk(0, PROMPT[21:53], 21)]), expected[52:53]) < CLOSE
    for at in range(53, 60):
        assert difference(session.run([Chunk(0, PROMPT[at : at + 1], at)]), expected[at : at + 1]) < CLOSE
    assert difference(session.run([Chunk(0, PROMPT[60:], 60, logits=3)]), expected[-3:]) < CLOSE


def test_rows_that_rest_lose_nothing_beside_rows_that_run(made: tuple[Path, Path]) -> None:
    """Rows of different lengths decode together, with a chunk of another and around rows that wait."""
    checkpoint, graph = made
    expected = expected_logits(checkpoint, PROMPT)
    session = open_session(graph, slots=6)
    lengths = {0: 30, 1: 17, 2: 64, 4: 5}
    for slot, length in lengths.items():
        session.run([Chunk(slot, PROMPT[:length], 0)])
    for step in range(4):
        running = {slot: lengths[slot] + step for slot in (0, 2)}
        chunks = [Chunk(slot, PROMPT[at : at + 1], at) for slot, at in running.items()]
        chunks.append(Chunk(5, PROMPT[20 * step : 20 * step + 20], 20 * step, logits=1))
        got = session.run(chunks)
        for row, at in zip(got, [*running.values(), 20 * step + 19], strict=True):
            assert difference(row, expected[at]) < CLOSE
    for slot in (1, 4):
        at = lengths[slot]
        assert difference(session.run([Chunk(slot, PROMPT[at : at + 1], at)])[0], expected[at]) < CLOSE


def test_a_row_that_is_copied_goes_on_where_the_other_was(made: tuple[Path, Path]) -> None:
    checkpoint, graph = made
    expected = expected_logits(checkpoint, PROMPT)
    session = open_session(graph, slots=2)
    session.run([Chunk(0, PROMPT[:40], 0)])
    session.copy(0, 1, 33)
    assert difference(session.run([Chunk(1, PROMPT[33:50], 33)])[0], expected[49]) < CLOSE
    assert difference(session.run([Chunk(0, PROMPT[40:41], 40)])[0], expected[40]) < CLOSE


def test_a_row_can_be_filled_to_its_end(made: tuple[Path, Path]) -> None:
    checkpoint, graph = made
    tokens = (PROMPT * 2)[:128]
    expected = expected_logits(checkpoint, tokens)
    session = open_session(graph)
    session.run([Chunk(0, tokens[:120], 0)])
    assert difference(session.run([Chunk(0, tokens[120:127], 120)])[0], expected[126]) < CLOSE
    assert difference(session.run([Chunk(0, tokens[127:], 127)])[0], expected[127]) < CLOSE


def test_a_graph_for_another_backend_is_refused(made: tuple[Path, Path], float_package: Path) -> None:
    _, graph = made
    with pytest.raises(SessionError, match="build the package again"):
        OrtSession(graph, slots=1, context_tokens=64, threads=1)
    with pytest.raises(SessionError, match="build the package again"):
        open_session(Package.open(float_package, verify=False).serving_graph)


def test_cuda_is_refused_where_there_is_none(made: tuple[Path, Path]) -> None:
    """Never the CPU in silence."""
    with pytest.raises(SessionError, match=r"CUDAExecutionProvider was asked for.*install onnxruntime-gpu"):
        CudaSession(made[1], slots=1, context_tokens=64)
