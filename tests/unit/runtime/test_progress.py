"""Progress: a line now and then in a log, a bar on a terminal, and nothing on stdout."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.runtime.oci.remotes import Clock

from runtime.progress import Lines, showing_bytes


def test_how_long_the_rest_takes_is_by_what_came(capsys: pytest.CaptureFixture[str]) -> None:
    """What was there at the first is no part of the speed."""
    clock, said = Clock(), list[str]()
    lines = Lines(said.append, clock)
    for done in (500, 600):
        lines.update(done, 1000, f"{done}/1000")
        clock.sleep(60)
    lines.update(600, 1000, "600/1000")
    assert said == ["600/1000, about 240 s left", "600/1000, about 480 s left"]
    assert capsys.readouterr() == ("", "")


@given(steps=st.lists(st.tuples(st.floats(0.001, 30), st.integers(0, 50)), max_size=60))
def test_a_log_is_not_flooded(steps: list[tuple[float, int]]) -> None:
    """Ten seconds are between any two lines."""
    clock, said = Clock(), list[float]()
    lines = Lines(lambda _: said.append(clock.now_s), clock)
    done = 0
    for seconds, came in steps:
        clock.sleep(seconds)
        done += came
        lines.update(done, 5000, "")
    assert all(after - before >= 10 for before, after in zip([Clock().now_s, *said], said, strict=False))


def test_a_terminal_gets_a_bar_of_any_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder of somebody else's may be called like markup."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with showing_bytes("verifying [/x]") as show:
        show(1_500_000, 3_000_000)
    out, err = capsys.readouterr()
    assert out == ""
    assert "verifying [/x]" in err
    assert "1.5/3.0 MB" in err
