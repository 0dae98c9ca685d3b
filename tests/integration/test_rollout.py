"""Packages of a store in real daemons: switched while clients talk, tried, given up, and cut off in the middle."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from integration.cgroups import memory_cgroup
from integration.daemons import Daemon, start
from integration.packages import build_package, small_checkpoint
from integration.stores import NAME, activate, history, install

from edgeqwen.cli import main
from edgeqwen.client import Client, ClientError, Options, Refused
from edgeqwen.v1 import health_pb2, rollout_pb2
from runtime.package import Package
from runtime.store.store import Store

pytestmark = pytest.mark.slow

DRAWN = Options(temperature=2.0, seed=7, max_tokens=24, ignore_eos=True, deterministic=True)
LONG = Options(temperature=2.0, seed=7, max_tokens=200, ignore_eos=True, deterministic=True)
PROMPT = "One, two,"


@pytest.fixture(scope="module")
def other_package(build_cache: Path) -> Path:
    """Other weights than `small_package` has, in the same vocabulary."""
    cache = build_cache / "small"
    return build_package("float32", "generic-x86_64", cache=cache, source=str(small_checkpoint("qwen3", cache)))


@pytest.fixture
def store(tmp_path: Path, small_package: Path, other_package: Path) -> Store:
    """1.0.0 is committed, and 2.0.0, another model, is installed."""
    store = Store(tmp_path / "store")
    activate(store, install(store, small_package, "1.0.0"), commit=True)
    install(store, other_package, "2.0.0")
    return store


@contextmanager
def serving(store: Store, *flags: str, **more: object) -> Iterator[Daemon]:
    with start(None, "--store", str(store.folder), "--no-verify", *flags, **more) as daemon:  # type: ignore[arg-type]
        yield daemon


def version(client: Client) -> str:
    """Of the package that serves, by all who tell it."""
    snapshot = client.snapshot()
    [model] = [each.model for each in snapshot.models]
    assert model.package_version == snapshot.served.version == client.rollout().active.version
    return model.package_version


def answers(client: Client) -> tuple[int, ...]:
    return client.complete(PROMPT, options=DRAWN).token_ids


def rollout_check(client: Client) -> health_pb2.Check:
    [check] = [check for check in client.health_report().checks if check.name == "rollout"]
    return check


def activation(
    client: Client, package: str = "", at: Callable[[str], None] = lambda phase: None
) -> tuple[dict[str, list[health_pb2.Check]], ClientError | None]:
    """What was found in each phase, and how it ended if not well; `at` hears of each phase as it comes.

    Once more, while other programs keep this machine too busy for the canary to tell how fast a model is.
    """
    while True:
        told, error = activation_once(client, package, at)
        if not re.search("failed its canary: (speed|first token)", str(error)):
            return told, error


def activation_once(
    client: Client, package: str, at: Callable[[str], None]
) -> tuple[dict[str, list[health_pb2.Check]], ClientError | None]:
    told: dict[str, list[health_pb2.Check]] = {}
    try:
        for reply in client.activate(package):
            phase = rollout_pb2.ActivationPhase.Name(reply.phase).removeprefix("ACTIVATION_PHASE_")
            told.setdefault(phase, []).extend(reply.checks)
            at(phase)
    except ClientError as error:
        return told, error
    return told, None


def test_a_switch_loses_no_answer(store: Store) -> None:
    """Clients that ask all the time get whole answers, of one package and then of the other; who streams across the
    switch gets his to the end. Then the new one is on trial, says so, and is kept or undone as the operator wants."""
    faults: list[ClientError] = []
    said: list[tuple[int, ...]] = []
    over = threading.Event()

    def ask() -> None:
        with Client(daemon.target) as client:
            while not over.is_set():
                try:
                    said.append(answers(client))
                except ClientError as error:
                    faults.append(error)
                    return

    with serving(store) as daemon, Client(daemon.target) as client:
        old, whole = answers(client), client.complete(PROMPT, options=LONG).token_ids
        stream = client.generate(prompt=PROMPT, options=LONG)
        started = next(stream)
        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        told, refusal = activation(client)
        across = [token for event in stream for token in getattr(event, "token_ids", ())]
        new = answers(client)
        over.set()
        for thread in threads:
            thread.join()
        assert faults == []
        assert old != new
        assert {old, new} >= set(said)
        assert (getattr(started, "model", ""), tuple(across)) == (NAME, whole)
        assert (refusal, list(told)[-1], version(client)) == (None, "DONE", "2.0.0")
        assert f"{NAME} 2.0.0 is on trial" in rollout_check(client).summary
        status = CliRunner().invoke(main, ["--target", daemon.target, "status"]).stdout
        assert f"{NAME} 2.0.0, slot b, on trial" in status
        assert client.rollout().trial.commit_after_calls == 200
        assert client.roll_back("as a test").changed
        assert (answers(client), version(client)) == (old, "1.0.0")
        assert activation(client)[1] is None
        assert client.commit("it is good").changed
        assert (answers(client), dict(client.rollout().committed)) == (new, {NAME: "2.0.0"})
        assert rollout_check(client).summary == f"{NAME} 2.0.0 is committed."
    kept = [event for event in history(store) if not event.startswith("refused")]  # by a machine that was too busy
    assert kept[-4:] == ["activated 2.0.0", "rolled_back 2.0.0", "activated 2.0.0", "committed 2.0.0"]


def test_a_package_that_says_something_else_does_not_serve(store: Store, small_package: Path) -> None:
    """Its transcript is not what its weights say: the caller hears what was found, and nobody else notices."""
    wrong = [1 + token % 500 for token in Package.open(small_package, verify=False).build.golden.greedy_ids]
    install(store, small_package, "3.0.0", golden=wrong)
    with serving(store) as daemon, Client(daemon.target) as client:
        before = answers(client)
        told, refusal = activation(client)
        assert isinstance(refusal, Refused)
        assert refusal.reason == "CANARY_FAILED"
        assert "failed its canary: golden transcript: " in str(refusal)
        assert told["CHECKING"][-1].status == health_pb2.CHECK_STATUS_FAILED
        assert (answers(client), version(client), client.health()) == (before, "1.0.0", "SERVING")
    assert history(store)[-1] == "refused 3.0.0"


def test_a_second_daemon_of_a_store_leaves(store: Store) -> None:
    """Each would switch and judge beneath the other; systemd tries again, as the first may be at its end."""
    with serving(store), serving(store, wait=False) as second:
        assert second.process.wait(timeout=60) == 75
        assert f"an edgeqwend has {store.folder}" in second.log.read_text()
    assert not store.is_served


def test_one_that_was_activated_while_no_daemon_ran_is_tried_at_the_start(store: Store, small_package: Path) -> None:
    """And the package before it serves from that very start."""
    wrong = install(store, small_package, "3.0.0", golden=[5, 6, 7, 8])
    activate(store, wrong)
    with serving(store) as daemon, Client(daemon.target) as client:
        assert version(client) == "1.0.0"
        check = rollout_check(client)
        assert check.status == health_pb2.CHECK_STATUS_DEGRADED
        assert f"{NAME} 3.0.0 was rolled back" in check.summary
    assert history(store)[-1] == "rolled_back 3.0.0"


def test_a_trial_that_goes_well_is_committed(store: Store, tmp_path: Path) -> None:
    """By itself, after the time that the configuration asks for; a stop in the middle is no failed start."""
    config = tmp_path / "edgeqwend.yaml"
    config.write_text(yaml.safe_dump({"store": {"path": str(store.folder), "commit_after_s": 3600}}))
    with start(None, "--config", str(config), "--no-verify") as daemon, Client(daemon.target) as client:
        activation(client)
        assert client.rollout().HasField("trial")
        daemon.process.terminate()
        assert daemon.process.wait(timeout=60) == 0
    trial = store.read().trial
    assert trial is not None
    assert trial.starts == 0
    config.write_text(yaml.safe_dump({"store": {"path": str(store.folder), "commit_after_s": 1}}))
    with start(None, "--config", str(config), "--no-verify") as daemon, Client(daemon.target) as client:
        while client.rollout().HasField("trial"):
            assert daemon.process.poll() is None
        assert (version(client), client.rollout().HasField("trial")) == ("2.0.0", False)
    assert history(store)[-1] == "committed 2.0.0"


KILLED_WHILE_IT_LOADS = """
import os, signal, sys, threading
from pathlib import Path
from runtime.daemon import main
from runtime.store.store import Store

store = Store(Path(sys.argv[sys.argv.index("--store") + 1]))
starts = store.read().trial.starts if store.read().trial else None

def kill():
    # As the kernel or the power does it, as soon as this start has been counted.
    while store.read().trial is not None:
        if store.read().trial.starts > starts:
            os.kill(os.getpid(), signal.SIGKILL)

if starts is not None:
    threading.Thread(target=kill, daemon=True).start()
main()
"""


def test_a_package_that_takes_its_process_with_it_is_given_up_at_the_fourth_start(store: Store) -> None:
    package = next(each for each in store.read().packages.values() if each.version == "2.0.0")
    activate(store, package)
    program = (sys.executable, "-c", KILLED_WHILE_IT_LOADS)
    for start_number in range(1, 4):
        with serving(store, program=program, wait=False) as daemon:
            assert daemon.process.wait(timeout=60) == -signal.SIGKILL
        trial = store.read().trial
        assert trial is not None
        assert trial.starts == start_number
    with serving(store, program=program) as daemon, Client(daemon.target) as client:
        assert version(client) == "1.0.0"
    assert history(store)[-1] == "rolled_back 2.0.0"


@pytest.mark.parametrize("phase", ["VERIFYING", "LOADING", "CHECKING", "DRAINING"])
def test_a_cut_in_the_middle_of_an_activation_leaves_one_that_serves(store: Store, phase: str) -> None:
    """The old one before the state has flipped, the new one after. The history says so, and it can be tried again."""
    with serving(store) as daemon, Client(daemon.target) as client:
        stream = client.generate(prompt=PROMPT, options=LONG)
        next(stream)
        _, cut = activation(client, at=lambda now: daemon.process.kill() if now == phase else None)
        assert cut is not None
        daemon.process.wait()
    expected = store.read().active_package
    assert expected is not None
    if phase != "CHECKING":  # when that is heard of, what was found may be all that is to come
        assert expected.version == ("2.0.0" if phase == "DRAINING" else "1.0.0")
    with serving(store) as daemon, Client(daemon.target) as client:
        assert version(client) == expected.version
        assert history(store)[-1] == f"{'activated' if expected.version == '2.0.0' else 'interrupted'} 2.0.0"
        assert activation(client)[1] is None
        assert version(client) == "2.0.0"


def test_where_memory_has_room_for_one_the_old_one_leaves_first(store: Store, small_package: Path) -> None:
    """It comes back if the new one fails, and never are both in memory."""
    wrong = install(store, small_package, "3.0.0", golden=[5, 6, 7, 8])
    right = next(each for each in store.read().packages.values() if each.version == "2.0.0")
    waits = ("sh", "-c", 'kill -STOP $$; exec "$@"', "sh", sys.executable, "-m", "runtime.daemon")
    flags = ("--slots", "2", "--context-tokens", "256")
    with serving(store, *flags, program=waits, wait=False) as daemon, Client(daemon.target) as client:
        os.waitid(os.P_PID, daemon.process.pid, os.WSTOPPED | os.WNOWAIT)
        with memory_cgroup(daemon.process.pid, 2 << 30) as limit:
            daemon.process.send_signal(signal.SIGCONT)
            client.wait_until_serving(timeout_s=60)
            before, resident = answers(client), client.snapshot().process.rss_bytes
            limit(resident + (64 << 20))
            told, refusal = activation(client, wrong.folder)
            assert "failed its canary" in str(refusal)
            assert "WAITING" in told
            assert (answers(client), version(client)) == (before, "1.0.0")
            told, refusal = activation(client, right.folder)
            assert refusal is None
            assert "WAITING" in told
            assert version(client) == "2.0.0"
            assert client.roll_back().changed
            assert (answers(client), version(client)) == (before, "1.0.0")
            daemon.process.terminate()
            assert daemon.process.wait(timeout=60) == 0
