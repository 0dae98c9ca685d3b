"""What quantization costs on the reference checkpoint, on text unlike what it was calibrated on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from runtime.engine.tokenizer import Tokenizer
from runtime.package import Fidelity, Package
from runtime.sessions.ort_session import OrtSession
from runtime.sessions.session import Chunk
from toolchain.checkpoints.sources import resolve
from toolchain.evaluation.choices import chosen, compare_choices, read_questions, tokens_of
from toolchain.evaluation.divergence import diverge
from toolchain.evaluation.float_reference import FloatReference
from toolchain.evaluation.packaged import WINDOW_TOKENS, SessionModel, open_session, windows_of
from toolchain.evaluation.scoring import ROWS, session_scores

pytestmark = pytest.mark.slow

ARC_QUESTIONS = 320
"""Of the 2376; docs/evaluating.md has the figures of all."""


class Remembering(FloatReference):
    """Computes the logits of a window once, for both packages."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(checkpoint)
        self._known: dict[tuple[int, ...], torch.Tensor] = {}

    def logits(self, tokens: Sequence[int]) -> torch.Tensor:
        if tuple(tokens) not in self._known:
            self._known[tuple(tokens)] = super().logits(tokens)
        return self._known[tuple(tokens)]


@pytest.fixture(scope="module")
def reference(build_cache: Path) -> FloatReference:
    return Remembering(resolve("reference", revision=None, cache=build_cache / "cache").folder)


def on_wikitext(package: Package, reference: FloatReference, shared: Path) -> Fidelity:
    text = (shared / "corpora" / "wikitext2-raw-test.txt").read_text(encoding="utf-8")[:40_000]
    windows = windows_of(text, package.tokenizer_file)
    model = SessionModel(open_session(package.serving_graph, threads=2))
    return diverge(reference, model, windows).fidelity("wikitext2 test")


@pytest.fixture(scope="module")
def int8_on_wikitext(int8_package: Path, reference: FloatReference, shared: Path) -> dict[str, Fidelity]:
    """Of the variant that keeps its KV in float32, and of that which keeps it in int8."""
    variants = {"float32": "generic-x86_64", "int8": "generic-arm64"}
    return {kv: on_wikitext(Package.open(int8_package, name), reference, shared) for kv, name in variants.items()}


class Arc:
    """The first questions of ARC-easy, and what packages choose there."""

    def __init__(self, file: Path) -> None:
        self.questions = read_questions(file, ARC_QUESTIONS)

    def chosen(self, package: Package) -> list[int]:
        tokenizer = Tokenizer.from_file(package.tokenizer_file)
        session = OrtSession(package.serving_graph, slots=ROWS, context_tokens=WINDOW_TOKENS, threads=2)
        scores = session_scores(session, [tokens_of(question, tokenizer) for question in self.questions])
        return [chosen(*each) for each in zip(self.questions, scores, strict=True)]

    def difference(self, package: Package, reference: list[int]) -> float:
        """How many more answers are right than of the reference, as a share of the questions."""
        return compare_choices(self.questions, self.chosen(package), reference).difference.share


@pytest.fixture(scope="module")
def arc(shared: Path) -> Arc:
    return Arc(shared / "corpora" / "arc_easy.jsonl")


@pytest.fixture(scope="module")
def arc_of_float(arc: Arc, float_package: Path) -> list[int]:
    """Of the float32 package, whose logits are those of transformers."""
    return arc.chosen(Package.open(float_package))


def test_int8_answers_arc_easy_as_float_does(int8_package: Path, arc: Arc, arc_of_float: list[int]) -> None:
    """Within 1 point."""
    assert abs(arc.difference(Package.open(int8_package, "generic-x86_64"), arc_of_float)) <= 0.01


def test_int4_answers_arc_easy_nearly_as_float_does(int4_package: Path, arc: Arc, arc_of_float: list[int]) -> None:
    """Within 3 points."""
    assert abs(arc.difference(Package.open(int4_package), arc_of_float)) <= 0.03


def test_int8_is_nearly_the_float_checkpoint(int8_package: Path, int8_on_wikitext: dict[str, Fidelity]) -> None:
    """Mean KLD at most 0.006."""
    package = Package.open(int8_package, "generic-x86_64")
    assert package.build.fidelity is not None
    assert package.build.fidelity.mean_kld <= 0.006
    assert int8_on_wikitext["float32"].mean_kld <= 0.006


def test_an_int8_cache_costs_little(int8_package: Path, int8_on_wikitext: dict[str, Fidelity]) -> None:
    """Mean KLD rises by less than 0.005, on our text and on other."""
    plain, small = (Package.open(int8_package, variant) for variant in ("generic-x86_64", "generic-arm64"))
    assert plain.build.fidelity is not None
    assert small.build.fidelity is not None
    assert small.build.fidelity.mean_kld - plain.build.fidelity.mean_kld < 0.005
    assert int8_on_wikitext["int8"].mean_kld - int8_on_wikitext["float32"].mean_kld < 0.005


def test_an_int8_cache_takes_a_quarter_of_the_memory(int8_package: Path) -> None:
    """Of resident memory as of what `build.json` and the session say; what is copied goes on where it was."""
    given_back, said = [], []
    for variant in ("generic-x86_64", "generic-arm64"):
        package = Package.open(int8_package, variant)
        session = OrtSession(package.serving_graph, slots=2, context_tokens=1024, threads=2)
        assert session.spec.kv_bytes_per_token == package.build.memory.kv_bytes_per_token
        said.append(session.spec.kv_bytes_per_token)
        session.run([Chunk(0, range(300, 1300), 0)])
        session.copy(0, 1, 1000)
        first, second = session.run([Chunk(slot, [7], 1000) for slot in (0, 1)])
        assert np.abs(first - second).max() < 1e-4
        session.clear(1)  # and with it what was read of the embeddings
        before = psutil.Process().memory_info().rss
        session.clear(0)
        given_back.append(before - psutil.Process().memory_info().rss)
    assert said[0] == 4 * said[1]
    assert given_back[0] == pytest.approx(4 * given_back[1], rel=0.05)
    assert given_back[1] == pytest.approx(1000 * said[1], rel=0.1)


def test_int4_stays_close_within_its_bytes(int4_package: Path, reference: FloatReference, shared: Path) -> None:
    """Mean KLD at most 0.07 on text that is nothing like its calibration text, at no more than 106 MB of weights."""
    package = Package.open(int4_package)
    assert package.build.memory.weights_bytes <= 106e6
    assert on_wikitext(package, reference, shared).mean_kld <= 0.07
