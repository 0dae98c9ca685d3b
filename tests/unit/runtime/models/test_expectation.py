"""How fast a package should be: by what was measured here, else by the memory's bandwidth, else nobody knows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from unit.runtime.configuration.test_settings import Board

from runtime.models.expectation import SHARE_OF_PEAK, Expectation, expectation_of


def expected(board: Board, *, measured: bool, **config: object) -> Expectation:
    rates = {"prefill_tokens_per_second": 100.0, "decode_tokens_per_second": 25.0}
    local = board.local().model_copy(update=rates) if measured else None
    settings = replace(board.decide(local, **config), context_tokens=1000)
    return expectation_of(board.package.build, settings)


def test_what_was_measured_on_this_board_counts_most(tmp_path: Path) -> None:
    """The longest wait for a first token is what a prompt of the whole context takes alone."""
    found = expected(Board(tmp_path, "raspberry-pi-5"), measured=True)
    assert (found.decode_tokens_per_second, found.decode_from) == (25.0, "were measured on this board")
    assert found.first_token_ms == 10_000
    assert found.first_token_from == "a prompt of 1000 tokens alone takes 10000 ms"
    assert (found.rows, found.token_cost) == (5, 0.3)


@pytest.mark.parametrize(
    ("profile", "measured", "known"), [("raspberry-pi-5", False, True), ("generic-x86_64", False, False)]
)
def test_else_the_bandwidth_if_the_profile_tells_it(tmp_path: Path, profile: str, measured: bool, known: bool) -> None:
    board = Board(tmp_path, profile)
    found = expected(board, measured=measured)
    weights = board.package.build.memory.weights_bytes
    assert found.decode_tokens_per_second == (SHARE_OF_PEAK * 17.1e9 / weights if known else None)
    assert found.first_token_ms == 10_000


def test_threads_that_somebody_sets_are_not_judged_by_what_others_reached(tmp_path: Path) -> None:
    found = expected(Board(tmp_path), measured=True, threads=1)
    assert found.decode_tokens_per_second is None
