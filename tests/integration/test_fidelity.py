"""What quantization costs on the reference checkpoint, on text unlike what it was calibrated on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from runtime.package import Fidelity, Package
from toolchain.evaluate import FloatReference, measure, open_session, windows_of
from toolchain.sources import resolve

pytestmark = pytest.mark.slow


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
    session = open_session(package.serving_graph, threads=2)
    return measure(reference, session, windows, text="wikitext2 test")


def test_int8_is_nearly_the_float_checkpoint(int8_package: Path, reference: FloatReference, shared: Path) -> None:
    """Mean KLD at most 0.006."""
    package = Package.open(int8_package)
    assert package.build.fidelity is not None
    assert package.build.fidelity.mean_kld <= 0.006
    assert on_wikitext(package, reference, shared).mean_kld <= 0.006


def test_int4_stays_close_within_its_bytes(int4_package: Path, reference: FloatReference, shared: Path) -> None:
    """Mean KLD at most 0.20 on text that is nothing like its calibration text, at no more than 105 MB of weights."""
    package = Package.open(int4_package)
    assert package.build.memory.weights_bytes <= 105e6
    assert on_wikitext(package, reference, shared).mean_kld <= 0.20
