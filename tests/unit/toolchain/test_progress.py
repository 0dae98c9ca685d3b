"""Progress: readable in a log, with the time that is left."""

from __future__ import annotations

import io
import re

import pytest
from unit.runtime.oci.remotes import Clock

from toolchain.progress import Reporter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables by which a user tells rich what a terminal is."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def test_a_stage_off_a_terminal_is_two_plain_lines() -> None:
    """Its beginning and its duration, without control characters, whatever happens within seconds."""
    stream = io.StringIO()
    with Reporter(stream).stage("Olive") as stage:
        for done in range(1, 100):
            stage.update(done, 100)
    assert re.fullmatch(r"Olive \.\.\.\nOlive: \d+\.\d s\n", stream.getvalue())


def test_a_long_stage_says_how_much_time_is_left() -> None:
    """A quarter done in a minute leaves three, and the part that it is in is named."""
    stream, clock = io.StringIO(), Clock()
    with Reporter(stream, clock).stage("Olive") as stage:
        stage.update(0, 24, "layers")
        clock.sleep(60)
        stage.update(6, 24, "layers")
    assert stream.getvalue().splitlines()[1] == "Olive: layers 6/24, about 180 s left"


def test_lines_are_seconds_apart() -> None:
    """A log is not flooded: one line at most in ten seconds."""
    stream, clock = io.StringIO(), Clock()
    with Reporter(stream, clock).stage("fidelity") as stage:
        for done in range(1, 30):
            clock.sleep(2.001)
            stage.update(done, 30)
    said = [line for line in stream.getvalue().splitlines() if " left" in line]
    assert [line.split(",")[0] for line in said] == [f"fidelity: {done}/30" for done in (5, 10, 15, 20, 25)]
    assert re.fullmatch(r"fidelity: 25/30, about 10 s left", said[-1])


def test_another_part_is_timed_on_its_own() -> None:
    """A slow part before says nothing about a fast one after it."""
    stream, clock = io.StringIO(), Clock()
    with Reporter(stream, clock).stage("Olive") as stage:
        stage.update(0, 2, "slow")
        clock.sleep(1000)
        stage.update(1, 2, "slow")
        stage.update(0, 20, "fast")
        clock.sleep(20)
        stage.update(10, 20, "fast")
    assert [line for line in stream.getvalue().splitlines() if " left" in line] == [
        "Olive: slow 1/2, about 1000 s left",
        "Olive: fast 10/20, about 20 s left",
    ]


def test_no_time_is_promised_before_anything_is_done() -> None:
    """Zero of so many has no speed."""
    stream, clock = io.StringIO(), Clock()
    with Reporter(stream, clock).stage("Olive") as stage:
        stage.update(0, 24)
        clock.sleep(60)
        stage.update(0, 24)
    assert " left" not in stream.getvalue()


def test_a_stage_that_fails_does_not_say_it_is_done() -> None:
    """The error goes on, and no duration is printed for what did not finish."""
    stream = io.StringIO()
    with pytest.raises(RuntimeError, match="boom"), Reporter(stream).stage("Olive"):
        raise RuntimeError("boom")
    assert stream.getvalue() == "Olive ...\n"


def test_a_terminal_gets_a_bar_that_leaves_one_line() -> None:
    """The part it is in and how much is done are shown, and only the duration stays."""
    stream = Terminal()
    with Reporter(stream).stage("Olive") as stage:
        stage.update(3, 7, "layers")
    written = stream.getvalue()
    assert "Olive: layers" in written
    assert "3/7" in written
    assert re.fullmatch(r"Olive: \d+\.\d s", written.splitlines()[-1].rpartition("\x1b[2K")[2])


def test_a_note_is_a_line_of_its_own() -> None:
    """Nothing is added to it."""
    stream = io.StringIO()
    Reporter(stream).note("took the cached model")
    assert stream.getvalue() == "took the cached model\n"


def test_jobs_off_a_terminal_say_what_they_begin_and_how_they_end() -> None:
    """A line for each stage, in whatever order the jobs go on; how many have ended, and the time that is left by those
    that worked."""
    stream = io.StringIO()
    with Reporter(stream).jobs(4) as jobs:
        jobs.doing("first", "Olive", "", 0, 0)
        jobs.doing("second", "Olive", "", 0, 0)
        for done in range(50):
            jobs.doing("first", "Olive", "layers", done, 50)
        jobs.doing("first", "fidelity", "", 0, 0)
        jobs.ended("third", "unchanged", worked=False)
        jobs._started_s -= 60  # type: ignore[attr-defined]
        jobs.ended("first", "built", worked=True)
        jobs.ended("second", "failed", worked=False)
        jobs.note("a note")
        jobs.ended("fourth", "built", worked=True)
    assert stream.getvalue().splitlines() == [
        "first: Olive ...",
        "second: Olive ...",
        "first: fidelity ...",
        "third: unchanged (1 of 4)",
        "first: built (2 of 4, about 120 s left)",
        "second: failed (3 of 4, about 60 s left)",
        "a note",
        "fourth: built (4 of 4)",
    ]


def test_a_long_stage_of_a_job_says_how_far_it_is() -> None:
    """Every ten seconds."""
    stream = io.StringIO()
    with Reporter(stream).jobs(1) as jobs:
        jobs.doing("first", "Olive", "", 0, 0)
        jobs._stages["first"] = ("Olive", jobs._stages["first"][1] - 11)  # type: ignore[attr-defined]
        jobs.doing("first", "Olive", "layers", 3, 30)
        jobs.doing("first", "Olive", "layers", 4, 30)
    assert stream.getvalue().splitlines() == ["first: Olive ...", "first: Olive: layers 3/30"]


def test_a_terminal_shows_all_jobs_at_once() -> None:
    """What each is at, how many have ended, and a line of each that has."""
    stream = Terminal()
    with Reporter(stream).jobs(2) as jobs:
        jobs.doing("first", "Olive", "", 0, 0)
        jobs.doing("second", "fidelity", "", 3, 7)
        jobs.ended("first", "built [here]", worked=True)
    written = stream.getvalue()
    for words in ("first: Olive", "second: fidelity", "3/7", "1/2", "first: built [here]"):
        assert words in written
