"""`edgeqwen fleet status`: how many boards are, whatever some of them do."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from unit.edgeqwen.fleet.fake_boards import (
    HOT,
    STUCK,
    WELL,
    FakeBoard,
    Together,
    a_snapshot,
    gone,
    online,
    silent,
)

from edgeqwen.cli import main
from edgeqwen.connection import Connection
from edgeqwen.fleet.board import Board
from edgeqwen.fleet.finding import Finding, State, Totals, worst_first
from edgeqwen.fleet.survey import survey
from edgeqwen.fleet.view import changes, printable, table
from edgeqwen.v1 import telemetry_pb2 as pb

LONG_S = 60.0


def run(folder: Path, targets: Sequence[str], *arguments: str) -> Result:
    """With boards b1, b2 and so on."""
    file = folder / "boards.txt"
    file.write_text("".join(f"b{number} {target}\n" for number, target in enumerate(targets, 1)))
    return CliRunner().invoke(main, ["fleet", "status", "-i", str(file), *arguments])


async def found(targets: Sequence[str], *, parallel: int = 64, timeout_s: float = LONG_S) -> list[Finding]:
    boards = [Board(f"b{number}", Connection(target)) for number, target in enumerate(targets, 1)]
    return [finding async for finding in survey(boards, parallel=parallel, timeout_s=timeout_s)]


def test_a_fleet_that_is_well_is_0(tmp_path: Path) -> None:
    """A row a board, and the line for all."""
    with online([FakeBoard(), FakeBoard()]) as targets:
        done = run(tmp_path, targets)
    assert done.exit_code == 0
    head, *rows, _, totals = done.stdout.splitlines()
    assert " ".join(head.split()) == "BOARD GROUP STATE PACKAGE SLOT TEMP TOKENS/S RUN WAIT FREE UP DAEMON WHY"
    figures = "serving qwen 1.2.0 50 C 12.5 1 3 3.0 GB 2 h 0 min 0.1.0"
    assert [" ".join(row.split()) for row in rows] == [f"b1 {figures}", f"b2 {figures}"]
    assert totals == "2 serving; qwen 1.2.0 on 2"


def test_the_worst_is_first_and_says_why(tmp_path: Path) -> None:
    """Each state once, and exit status 1."""
    boards = [
        FakeBoard(),
        FakeBoard(checks=[HOT, WELL]),
        FakeBoard(checks=[STUCK], serving=False),
        FakeBoard(refusal=grpc.StatusCode.PERMISSION_DENIED),
        FakeBoard(checks=[HOT, STUCK], snapshot=a_snapshot("1.1.0")),
    ]
    with online(boards) as targets, gone() as nowhere:
        done = run(tmp_path, [*targets, nowhere])
        as_json = run(tmp_path, [*targets, nowhere], "--json")
        problems = run(tmp_path, [*targets, nowhere], "--problems")
    assert (done.exit_code, as_json.exit_code, problems.exit_code) == (1, 1, 1)
    rows = done.stdout.splitlines()[1:-2]
    assert [row.split()[0] for row in rows] == ["b6", "b3", "b4", "b5", "b2", "b1"]
    assert f"nothing listens at {nowhere}" in rows[0]
    assert "not serving" in rows[1]
    assert "engine of qwen: No step ends." in rows[1]
    assert "not for you" in rows[2]
    assert "engine of qwen: No step ends.; temperature: 81.0 C" in rows[3]
    assert done.stdout.splitlines()[-1] == (
        "1 serving, 2 degraded, 1 unknown, 1 not serving, 1 unreachable; qwen 1.2.0 on 3, qwen 1.1.0 on 1"
    )
    assert [row.split()[0] for row in problems.stdout.splitlines()[1:-2]] == ["b6", "b3", "b4", "b5", "b2"]
    assert problems.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]
    told = json.loads(as_json.stdout)
    assert told["summary"] == {
        "boards": 6,
        "serving": 1,
        "degraded": 2,
        "unknown": 1,
        "not_serving": 1,
        "unreachable": 1,
    }
    assert told["packages"] == {"qwen 1.2.0": 3, "qwen 1.1.0": 1}
    assert [board["board"] for board in told["boards"]] == ["b6", "b3", "b4", "b5", "b2", "b1"]
    away, well = told["boards"][0], told["boards"][-1]
    assert away["state"] == "unreachable"
    assert {away[name] for name in ("temperature_c", "tokens_per_second", "uptime_s", "daemon_version")} == {None}
    assert (well["state"], well["reason"], well["temperature_c"], well["waiting"]) == ("serving", None, 50.0, 3)
    assert well["models"] == [
        {"name": "qwen", "package_version": "1.2.0", "variant": "pi", "build_digest": ""},
    ]


def test_a_trial_is_shown_and_is_no_fault(tmp_path: Path) -> None:
    """With its slot; a board without a store has none."""
    on_trial, committed = a_snapshot("1.3.0"), a_snapshot()
    on_trial.served.CopyFrom(pb.ServedPackage(model="qwen", version="1.3.0", slot="b", trial=True))
    committed.served.CopyFrom(pb.ServedPackage(model="qwen", version="1.2.0", slot="a"))
    with online([FakeBoard(snapshot=its) for its in (on_trial, committed, a_snapshot())]) as targets:
        done = run(tmp_path, targets)
        told = json.loads(run(tmp_path, targets, "--json").stdout)
    assert done.exit_code == 0
    rows = [" ".join(row.split()[2:8]) for row in done.stdout.splitlines()[1:4]]
    assert rows == ["qwen 1.3.0 b trial 50 C", "qwen 1.2.0 a 50 C 12.5", "qwen 1.2.0 50 C 12.5 1"]
    assert done.stdout.splitlines()[-1] == "3 serving; qwen 1.2.0 on 2, qwen 1.3.0 on 1; 1 on trial"
    assert told["on_trial"] == 1
    slots = [(board["slot"], board["trial"]) for board in told["boards"]]
    assert slots == [("b", True), ("a", False), (None, None)]


async def test_a_board_that_takes_its_time_holds_up_no_other() -> None:
    """The slow one answers when all others have been found, and not before."""
    others_found = threading.Event()
    slow = FakeBoard(meanwhile=lambda: others_found.wait(LONG_S))
    with online([slow, *(FakeBoard() for _ in range(20))]) as targets:
        boards = [Board(f"b{number}", Connection(target)) for number, target in enumerate(targets)]
        names = []
        async for finding in survey(boards, parallel=2, timeout_s=LONG_S):
            assert finding.state is State.SERVING
            names.append(finding.board.name)
            if len(names) == 20:
                others_found.set()
    assert names[-1] == "b0"
    assert len(names) == 21


async def test_a_board_that_says_nothing_is_left_after_the_timeout() -> None:
    with silent() as nowhere:
        [finding] = await found([nowhere], timeout_s=0.2)
    assert (finding.state, finding.reason) == (State.UNREACHABLE, "no answer within 0.2 s")


async def test_two_hundred_boards_are_asked_at_once_and_no_more_than_allowed() -> None:
    """Each once; 16 at a time."""
    together = Together()

    def meanwhile() -> None:
        with together:
            pass

    with online([FakeBoard(meanwhile=meanwhile) for _ in range(200)]) as targets:
        findings = await found(targets, parallel=16)
    assert {finding.state for finding in findings} == {State.SERVING}
    assert {finding.board.name for finding in findings} == {f"b{number}" for number in range(1, 201)}
    assert together.total == 200
    assert 1 <= together.most <= 16


async def test_who_leaves_early_leaves_nothing_behind() -> None:
    """No task goes on when the survey is closed."""
    with silent() as nowhere, online([FakeBoard()]) as targets:
        boards = [Board(target, Connection(target)) for target in (*targets, nowhere)]
        asking = survey(boards, parallel=2, timeout_s=LONG_S)
        async for _ in asking:
            break
        await asking.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("code", [grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN])
async def test_what_is_no_daemon_of_ours_is_unknown(code: grpc.StatusCode) -> None:
    """Another server at that port, or one that is broken."""
    with online([FakeBoard(refusal=code)]) as targets:
        [finding] = await found(targets)
    assert finding.state is State.UNKNOWN
    assert code.name in finding.reason


def test_no_board_hides_the_others(tmp_path: Path) -> None:
    """Bytes that are no message, statuses that are none, states that nobody knows: each is its own board's reason."""
    garbled = [FakeBoard(garbled=method) for method in ("Check", "GetSnapshot", "GetHealthReport")]
    codes = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.ABORTED, grpc.StatusCode.INVALID_ARGUMENT)
    odd = [FakeBoard(refusal=code, details=b"\xff" * 9) for code in codes]
    with online([*garbled, *odd, FakeBoard()]) as targets:
        done = run(tmp_path, targets)
    assert done.exit_code == 1
    assert done.stderr == ""
    rows = done.stdout.splitlines()[1:-2]
    assert [row.split()[1] for row in rows] == ["unknown"] * 6 + ["serving"]
    assert all("answers what cannot be read" in row for row in rows[:3])
    assert all("not for you" in row for row in rows[3:6])


@pytest.mark.parametrize("figure", [float("nan"), float("inf"), -float("inf"), 1e300])
def test_figures_that_are_no_numbers_are_not_known(tmp_path: Path, figure: float) -> None:
    """JSON has no word for them, so one board would make it unreadable for all."""
    snapshot = a_snapshot(celsius=figure)
    snapshot.uptime_s = figure
    snapshot.models[0].engine.completion_tokens_per_second = figure
    with online([FakeBoard(snapshot=snapshot)]) as targets:
        done = run(tmp_path, targets)
        told = run(tmp_path, targets, "--json").stdout
    assert (done.exit_code, len(done.stdout.splitlines())) == (0, 4)
    [board] = json.loads(told, parse_constant=pytest.fail)["boards"]
    figures = {board[name] for name in ("temperature_c", "uptime_s", "tokens_per_second")}
    assert figures == {figure if figure == 1e300 else None}


def test_what_a_board_says_moves_no_cursor(tmp_path: Path) -> None:
    """Escapes in names are from a board, not from us; long texts end."""
    nasty = a_snapshot(name="\x1b[2Jq\nb\x9b2J\u202e", version="9" * 1000)
    with online([FakeBoard(snapshot=nasty)]) as targets:
        done = run(tmp_path, targets)
        told = run(tmp_path, targets, "--json").stdout
    assert done.stdout.replace("\n", "").isprintable()
    assert told.isascii()
    assert told.removesuffix("\n").isprintable()
    assert len(done.stdout.splitlines()) == 4
    assert max(map(len, done.stdout.splitlines())) < 500


def test_an_inventory_that_cannot_be_used_is_a_usage_error(tmp_path: Path) -> None:
    done = run(tmp_path, ["nowhere"])
    assert done.exit_code == 2
    assert "boards.txt, line 1: a target is unix:PATH or HOST:PORT" in done.stderr
    assert done.stdout == ""


def test_a_group_is_asked_alone_and_hosts_without_a_daemon_are_said(tmp_path: Path) -> None:
    with online([FakeBoard()]) as targets, gone() as nowhere:
        hosts = {"a": {"edgeqwen_target": targets[0]}, "b": {"edgeqwen_target": nowhere}, "registry": {}}
        listed = {"_meta": {"hostvars": hosts}, "pumps": {"hosts": ["a"]}, "valves": {"hosts": ["b"]}}
        (tmp_path / "fleet.json").write_text(json.dumps(listed))
        arguments = ["fleet", "status", "-i", str(tmp_path / "fleet.json"), "--group"]
        done = CliRunner().invoke(main, [*arguments, "pumps", "--json"])
        none = CliRunner().invoke(main, [*arguments, "others"])
    assert done.exit_code == 0
    assert [(board["board"], board["groups"]) for board in json.loads(done.stdout)["boards"]] == [("a", ["pumps"])]
    assert done.stderr == "edgeqwen: 1 hosts have no edgeqwen_target and are left out: registry\n"
    assert none.exit_code == 2
    assert "it has pumps, valves" in none.stderr


def test_certificates_of_the_environment_are_for_boards_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fleet's authority in the environment is no reason to refuse the socket of this machine, or a fleet."""
    (tmp_path / "ca.pem").write_text("x")
    monkeypatch.setenv("EDGEQWEN_CA", str(tmp_path / "ca.pem"))
    monkeypatch.delenv("EDGEQWEN_TARGET", raising=False)
    with online([FakeBoard()]) as targets:
        done = run(tmp_path, [f"http://{targets[0]}"])
    assert done.exit_code == 0
    given = CliRunner().invoke(main, ["--ca", str(tmp_path / "ca.pem"), "--target", "unix:/nowhere.sock", "status"])
    assert given.exit_code == 2
    assert "is not TLS" in given.stderr


def finding(name: str, state: State, group: str = "", reason: str = "") -> Finding:
    return Finding(Board(name, Connection("unix:/x"), group=group), state, reason)


FINDINGS = st.builds(finding, st.text("ab1", min_size=1), st.sampled_from(State), st.sampled_from(["", "x", "y"]))


@given(st.lists(FINDINGS))
def test_order_and_totals_lose_nobody(findings: list[Finding]) -> None:
    """The worst first; the totals count each once, and are well only if all are."""
    ordered = worst_first(findings)
    assert sorted(map(id, ordered)) == sorted(map(id, findings))
    assert [each.state for each in ordered] == sorted(each.state for each in findings)
    totals = Totals.of(findings)
    assert totals.boards == len(findings) == sum(totals.states.values())
    assert totals.well == all(each.state is State.SERVING for each in findings)


@given(st.integers(0, 30), st.integers(2, 40))
def test_the_table_fits_where_it_is_to_fit(count: int, rows: int) -> None:
    """With its head; who has no room is counted."""
    findings = [finding(f"b{number}", State.SERVING) for number in range(count)]
    console = Console(width=200)
    with console.capture() as drawn:
        console.print(table(findings, 200, rows))
    lines = drawn.get().splitlines()
    assert len(lines) <= rows
    shown = sum(line.startswith("b") for line in lines)
    more = [int(line.split()[2]) for line in lines if line.startswith("...")]
    assert shown + sum(more) == count


@given(
    width=st.integers(52, 250),
    names=st.lists(st.text("abc-", min_size=1, max_size=40), min_size=1, max_size=4),
    package=st.text("q", max_size=300),
    group=st.text("g", max_size=200),
    reason=st.text("why ", max_size=400),
)
def test_a_narrow_terminal_has_who_how_and_why(
    width: int, names: list[str], package: str, group: str, reason: str
) -> None:
    """Whatever else is long, also of another board: nothing is cut there for columns that say less."""
    snapshot = a_snapshot(name=package, version="1.0.0")
    boards = [Board(name, Connection("unix:/x"), group=group) for name in names]
    findings = [Finding(board, State.DEGRADED, reason, snapshot) for board in boards]
    console = Console(width=width)
    with console.capture() as drawn:
        console.print(table(findings, width))
    lines = drawn.get().splitlines()
    assert max(map(len, lines)) <= width
    assert {"BOARD", "STATE", "WHY"} <= set(lines[0].split())
    if width >= 52 + 27:
        assert [line.split()[0] for line in lines[1:] if "degraded" in line] == names
    assert sum("degraded" in line for line in lines) == len(names)


def test_a_wide_terminal_has_everything() -> None:
    """As much as a pipe."""
    findings = [Finding(Board("b1", Connection("unix:/x")), State.SERVING, "", a_snapshot())]
    console = Console(width=160)
    with console.capture() as wide:
        console.print(table(findings, 160))
    with console.capture() as piped:
        console.print(table(findings))
    assert wide.get().split() == piped.get().split()
    assert "DAEMON" in wide.get()


def test_a_low_limit_on_open_files_makes_it_slower_and_no_board_unreachable(tmp_path: Path) -> None:
    """Where it cannot be raised, fewer are asked at a time."""
    (tmp_path / "limited.py").write_text(
        "import resource, runpy\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (90, 90))\n"
        "runpy.run_module('edgeqwen.cli', run_name='__main__')\n"
    )
    with online([FakeBoard() for _ in range(120)]) as targets:
        file = tmp_path / "boards.txt"
        file.write_text("\n".join(targets))
        command = [sys.executable, str(tmp_path / "limited.py"), "fleet", "status", "-i", str(file), "--json"]
        command += ["--timeout", str(LONG_S), "--parallel", "120"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["summary"]["serving"] == 120


def test_changes_are_told_once() -> None:
    """Boards that are as they were are not in it."""
    before = [finding("a", State.SERVING), finding("b", State.SERVING)]
    now = [finding("a", State.UNREACHABLE, reason="no answer\nwithin 5 s"), finding("b", State.SERVING)]
    assert list(changes(before, now)) == ["a: serving -> unreachable: no answer within 5 s"]
    assert list(changes([], now)) == []


@given(st.text())
def test_what_is_printable_is_one_line(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable() or shown == ""
    assert len(shown) <= 300


def watching(folder: Path, target: str, *arguments: str, **streams: Any) -> subprocess.Popen[str]:
    """`edgeqwen fleet status --watch`, in a process of its own."""
    (folder / "b.txt").write_text(f"b1 {target}\n")
    command = [sys.executable, "-m", "edgeqwen.cli", "fleet", "status", "-i", str(folder / "b.txt")]
    return subprocess.Popen([*command, "--watch", "--interval", "1", *arguments], text=True, **streams)


def test_watching_into_a_pipe_is_a_line_a_round_and_what_has_changed(tmp_path: Path) -> None:
    """A board that goes away is named once, with the reason; Ctrl-C is a good end."""
    with online([FakeBoard()]) as targets:
        process = watching(tmp_path, targets[0], stdout=subprocess.PIPE)
        assert process.stdout is not None
        first = process.stdout.readline()
    assert first.split(maxsplit=1)[1] == "1 serving; qwen 1.2.0 on 1\n"
    lines: list[str] = []
    while not lines or "1 unreachable" not in lines[-1]:
        lines.append(process.stdout.readline())
    lines.append(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    with process.stdout:
        assert process.wait() == 0
    assert sum("b1: serving -> unreachable: nothing listens" in line for line in lines) == 1


def test_watching_as_json_is_an_object_a_line(tmp_path: Path) -> None:
    with online([FakeBoard()]) as targets:
        process = watching(tmp_path, targets[0], "--json", stdout=subprocess.PIPE)
        assert process.stdout is not None
        with process.stdout:
            rounds = [json.loads(process.stdout.readline()) for _ in range(2)]
            process.send_signal(signal.SIGINT)
            assert process.wait() == 0
    assert [each["summary"]["serving"] for each in rounds] == [1, 1]
    assert rounds[0]["time_unix_ms"] < rounds[1]["time_unix_ms"]


def test_watching_on_a_terminal_fills_it_until_ctrl_c(tmp_path: Path) -> None:
    """With the board, the totals and how to leave; the screen that was there before comes back."""
    ours, theirs = pty.openpty()
    with online([FakeBoard()]) as targets:
        environment = os.environ | {"TERM": "xterm", "COLUMNS": "160", "LINES": "20"}
        process = watching(tmp_path, targets[0], stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)
        seen = b""
        while b"Ctrl-C leaves" not in seen:
            seen += os.read(ours, 65536)
        process.send_signal(signal.SIGINT)
        with suppress(OSError):  # the end of a terminal is an error
            while more := os.read(ours, 65536):
                seen += more
        assert process.wait() == 0
    os.close(ours)
    assert b"b1" in seen
    assert b"1 serving; qwen 1.2.0 on 1" in seen
    assert b"\x1b[?1049h" in seen
    assert b"\x1b[?1049l" in seen
