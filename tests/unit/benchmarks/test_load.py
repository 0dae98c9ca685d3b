"""What the benchmark of load sends, and what it makes of the times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from load import report
from load_figures import Outcome, Sample, figures, plan, quantiles
from plot_load import draw

SAMPLES = [Sample(0, 1, 1.0, 100.0), Sample(4, 8, 2.0, 110.0)]


def outcome(due_s: float, *event_s: float, sent_s: float | None = None) -> Outcome:
    """One whose every message has a token."""
    sent_s = due_s if sent_s is None else sent_s
    return Outcome(due_s, sent_s, event_s[-1], "answered", event_s, (1,) * len(event_s))


def test_arrivals_are_those_of_the_seed_and_come_at_the_rate() -> None:
    planned = plan(50.0, 40.0, seed=3)
    assert planned == plan(50.0, 40.0, seed=3) != plan(50.0, 40.0, seed=4)
    assert [each.due_s for each in planned] == sorted(each.due_s for each in planned)
    assert len(planned) / 40 == pytest.approx(50, rel=0.1)


def test_a_request_that_is_sent_late_has_waited() -> None:
    """Times count from when it was due."""
    late = figures(1.0, 10.0, [outcome(1.0, 3.0, 3.1, sent_s=2.9)], SAMPLES)
    assert late["first_ms"]["p50"] == pytest.approx(2000)
    assert late["sent_late_ms"]["p99"] == pytest.approx(1900)


def test_good_answers_are_soon_and_steady() -> None:
    soon, late, slow = outcome(0, 1, 1.05), outcome(0, 2.1, 2.2), outcome(0, 1, 1.2)
    its = figures(1.0, 4.0, [soon, late, slow, Outcome(0, 0, 0.01, "QueueFull")], SAMPLES)
    assert (its["answered"], its["good"], its["refused"]) == (0.75, 0.25, {"QueueFull": 1})
    assert its["refused_ms"]["p99"] == pytest.approx(10)
    assert (its["queued_mean"], its["queued_most"], its["cpu_cores"]) == (2, 4, 1.5)


def test_tokens_of_one_message_share_its_gap() -> None:
    its = figures(1.0, 1.0, [Outcome(0, 0, 0.9, "answered", (0.1, 0.5, 0.9), (1, 4, 1))], SAMPLES)
    assert its["token_ms"] == {"p50": pytest.approx(100), "p95": pytest.approx(400), "p99": pytest.approx(400)}


def test_quantiles_are_values_that_were_seen() -> None:
    assert quantiles(n / 1000 for n in range(1, 101)) == {"p50": 50, "p95": 95, "p99": pytest.approx(99)}
    assert quantiles([]) is None


def test_the_page_and_the_plot_show_levels_with_and_without_refusals(tmp_path: Path) -> None:
    """What is not there is a dash; the page's table has a cell for each column."""
    quiet = figures(1.0, 2.0, [outcome(0, 1, 1.05)], SAMPLES)
    busy = figures(2.0, 2.0, [outcome(0, 1, 1.05), Outcome(0, 0, 0.01, "QueueFull")], SAMPLES)
    empty = figures(0.1, 2.0, [], SAMPLES)
    levels = [{"share": 0.1, **empty}, {"share": 0.5, **quiet}, {"share": 2.0, **busy}]
    raw = {"date": "today", "machine": "m", "busy_cores": 0.1, "threads": 2, "seconds": 2.0, "capacity": 1.0}
    raw = json.loads(json.dumps(raw | {"levels": levels}))
    table = [line for line in report(raw).splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert "1 QueueFull" in table[-1]
    draw(raw, tmp_path / "load.svg")
    assert (tmp_path / "load.svg").read_text().startswith("<?xml")
