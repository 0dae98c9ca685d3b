"""What the benchmark of peers asks, and what it makes of the times."""

from __future__ import annotations

from typing import Any

import pytest
from peer_figures import Case, Figures, cases, figures, gaps, p99, ratio, targets
from peer_report import report
from traffic import Arrival, Group, Served


def served(arrived_s: float, *token_s: float) -> Served:
    return Served(arrived_s, token_s)


def test_requests_come_when_the_first_has_said_enough() -> None:
    """Each is due once, and not before; a group is done when all have their tokens."""
    group = Group([Arrival((1,), 3), Arrival((2,), 1, after=2)])
    assert group.due() == [0]
    group.said(0)
    assert group.due() == []
    group.said(0)
    assert group.due() == [1]
    assert group.due() == []
    group.said(0)
    assert group.ended(0)
    assert not group.done
    group.said(1)
    assert group.done
    first, second = group.served()
    assert first.arrived_s <= first.token_s[0] <= second.arrived_s <= second.token_s[0]


@pytest.mark.parametrize("quick", [False, True])
def test_every_request_of_a_round_comes(quick: bool) -> None:
    """The first of a group says as many tokens as the others wait for, and no prompt is inside another."""
    for case in cases(49_152, quick=quick):
        assert case.arrivals[0].after == 0
        assert all(each.after < case.arrivals[0].tokens for each in case.arrivals)
        prompts = [each.prompt for each in case.arrivals]
        assert len({prompt[:2] for prompt in prompts}) == len(prompts)
        assert all(max(prompt) < 49_152 for prompt in prompts)


def test_one_stream() -> None:
    """Time to first token counts from the request, decode from the first token."""
    case = Case("alone 41", (Arrival(tuple(range(41)), 3),))
    found = figures(case, [served(1.0, 1.5, 1.6, 1.7)])
    assert found["first@41"] == [0.5]
    assert found["prefill@41"] == [82.0]
    assert found["decode@41"] == [pytest.approx(10.0)]


def test_several_streams() -> None:
    """The total is over all the time, what all decode together only over the time when all do."""
    case = Case("streams 2", (Arrival((1,), 4), Arrival((2,), 4, after=1)))
    found = figures(case, [served(0.0, 1.0, 2.0, 3.0, 4.0), served(1.0, 2.0, 3.0, 4.0, 5.0)])
    assert found == {"total x2": [8 / 5], "together x2": [4 / 2]}


def test_gaps_while_a_long_prompt_is_computed() -> None:
    """A gap is quiet if it ended before the prompt came, and busy if it overlaps with it; others count as neither."""
    running = served(0.0, 1.0, 2.0, 3.0, 7.0, 8.0, 9.0)
    long = served(3.5, 8.5, 8.6)
    assert gaps([running, long]) == ([1.0, 1.0], [4.0, 1.0, 1.0])


def test_ratios_are_of_rounds() -> None:
    """A machine that slows down in one round slows both, and the ratio stays."""
    assert ratio({"decode@41": [10.0, 100.0, 50.0]}, {"decode@41": [5.0, 50.0, 25.0]}, "decode@41") == 2.0


def test_the_99th_percentile_is_one_of_the_values() -> None:
    """Of a hundred it is the largest; of few it is the largest too."""
    assert p99([float(value) for value in range(1, 101)]) == 100.0
    assert p99([3.0]) == 3.0


def system(speed: float, **changes: list[float]) -> dict[str, Any]:
    """Figures of a system that does everything at `speed`."""
    rates: Figures = {f"{kind}@{n}": [speed] for kind in ("first", "prefill", "decode") for n in (41, 656, 2048)}
    rates |= {f"{kind} x{n}": [speed] for kind in ("total", "together") for n in (1, 2, 4, 8)}
    return {
        "weights_bytes": 1_000_000,
        "kv_bytes_per_token": 100,
        "kld": None,
        "load_s": [1.0],
        "peak_bytes_alone": 1_000_000,
        "peak_bytes": 2_000_000,
        "versions": {},
        "figures": rates | {"gaps quiet": [0.01], "gaps busy": [0.03]} | changes,
    }


def test_targets_say_whether_they_are_reached() -> None:
    """At least for ratios of speeds, at most for gaps; only between systems that were measured."""
    fast, slow = system(130.0)["figures"], system(100.0)["figures"]
    found = {target.what: target.reached for target in targets({"ours": fast, "llama-q4_0": slow})}
    assert found.pop("8 streams (together x8) against llama-q4_0") is False
    assert found.pop("8 streams (total x8) against llama-q4_0") is False
    assert set(found.values()) == {True}
    assert not any("genai" in what or "grpc" in what for what in found)
    [stalled] = targets({"ours": system(1.0, **{"gaps busy": [0.05]})["figures"]})
    assert not stalled.reached


def test_the_page_has_every_system_and_every_target() -> None:
    """A system that serves one stream at a time has dashes where several run; what is not reached is in bold."""
    alone = system(50.0)
    alone["figures"] = {name: values for name, values in alone["figures"].items() if "@" in name}
    systems = {"ours": system(100.0), "llama-q4_0": system(100.0), "genai-default": alone}
    model = {"bandwidth_bytes_s": 1e9, "idle_cpu_share": 0.0, "systems": systems}
    model |= {"date": "2026-01-01", "threads": 2, "rounds": 1, "quick": False}
    page = report({"machine": "a board", "models": {"qwen2.5-0.5b": model}})
    assert "a board." in page
    assert "2026-01-01, 2 threads, 1 round." in page
    assert "| onnxruntime-genai, its default | - | - | - | - |" in page
    assert "| decode, one stream (decode@41) against llama-q4_0 | at least 1.15 | 1.00 | **no** |" in page
    assert "| edgeqwen, in process | 1.0 MB | - | 1 MB | 2 MB | 1.00 s |" in page
