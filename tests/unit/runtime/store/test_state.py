"""Any sequence of what can happen to a device's packages: something known serves, and nothing is forgotten."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from runtime.errors import DowngradeRefused, NothingToRollBackTo, PackageNotInstalled, StateNewer
from runtime.store.state import (
    MAX_HISTORY,
    Cause,
    Installed,
    State,
    activate,
    attempt,
    attempt_over,
    became_healthy,
    booted,
    commit,
    forget,
    install,
    interrupted,
    rebuilt,
    refuse,
    require_no_downgrade,
    roll_back,
    stopped,
    version_order,
    without,
)
from runtime.store.state_file import decoded, encoded

BY = Cause(1.0, "somebody", "because")


def package(version: str, name: str = "qwen", digest: str = "0") -> Installed:
    whole = digest * 64
    return Installed(f"{name}-{version}-{whole[:12]}.ortpackage", name, version, "board", whole, "key", 1.0)


POOL = [package(version, name, digest) for name in ("qwen", "other") for version in ("1.9.0", "1.10.0", "2.0.0")
        for digest in "ab"]  # fmt: skip
some_package = st.sampled_from(POOL)


class States(RuleBasedStateMachine):
    """The state machine, with what it must remember kept beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State()
        self.proved: set[str] = set()
        self.marks: dict[str, str] = {}
        self.serves: str | None = None

    def take(self, step: Callable[[State], State]) -> bool:
        """Whether it changed anything. Twice is once."""
        before = self.state
        self.state = step(before)
        assert len(self.state.history) - len(before.history) in (0, 1) or len(before.history) == MAX_HISTORY
        return self.state is not before

    def take_once(self, step: Callable[[State], State]) -> bool:
        changed = self.take(step)
        assert step(self.state) is self.state
        return changed

    @rule(which=some_package)
    def install(self, which: Installed) -> None:
        known = which.folder in self.state.packages
        assert self.take_once(lambda state: install(state, which, BY)) is not known

    @rule(which=some_package, forced=st.booleans())
    def activate(self, which: Installed, forced: bool) -> None:
        before = self.state
        try:
            changed = self.take_once(lambda state: activate(state, which.folder, BY, allow_downgrade=forced))
        except PackageNotInstalled:
            assert which.folder not in before.packages
            return
        except DowngradeRefused:
            assert not forced
            assert version_order(which.version) < version_order(before.committed[which.name])
            return
        assert self.state.active_package == which
        if changed:
            ended = before.trial is not None and before.previous_package == which
            assert (self.state.trial is None) is ended
            # what has proved itself before is still what a rollback goes back to
            if before.trial is None and not ended:
                assert self.state.previous_package == before.active_package
            elif not ended:
                assert self.state.previous_package == before.previous_package

    @rule()
    def commit(self) -> None:
        trial = self.state.trial
        assert self.take_once(lambda state: commit(state, BY)) is (trial is not None)
        assert self.state.trial is None
        if self.state.active_package:
            self.proved.add(self.state.active_package.folder)

    @rule()
    def roll_back(self) -> None:
        before = self.state
        try:
            self.take(lambda state: roll_back(state, BY))
        except NothingToRollBackTo:
            assert before.trial is not None
            assert before.previous_package is None
            return
        if before.previous_package is not None:
            assert self.state.active_package == before.previous_package
            assert self.state.previous_package is None  # never back to what failed
            assert roll_back(self.state, BY) is self.state
        assert self.state.trial is None

    @rule()
    def start(self) -> None:
        starts = self.state.trial.starts if self.state.trial else None
        assert self.take(booted) is (starts is not None)
        assert self.state.trial is None or self.state.trial.starts == (starts or 0) + 1

    @rule()
    def settle(self) -> None:
        self.take_once(became_healthy)
        assert self.state.trial is None or (self.state.trial.healthy and self.state.trial.starts == 0)

    @rule()
    def stop(self) -> None:
        self.take(stopped)
        assert self.state.attempt is None
        assert self.state.trial is None or self.state.trial.starts >= 0

    @rule(which=some_package)
    def refuse(self, which: Installed) -> None:
        before = self.state
        if which.folder in before.packages:
            self.take(lambda state: refuse(state, which.folder, BY))
            assert replace(self.state, history=before.history) == attempt_over(before, which.folder)

    @rule(which=some_package)
    def attempt(self, which: Installed) -> None:
        if which.folder in self.state.packages:
            self.take(lambda state: attempt(state, which.folder))
            assert self.state.attempt == which.folder

    @rule(which=some_package)
    def live_through_an_attempt(self, which: Installed) -> None:
        changed = self.state.attempt == which.folder
        assert self.take_once(lambda state: attempt_over(state, which.folder)) is changed

    @rule()
    def die_in_an_attempt(self) -> None:
        before = self.state
        assert self.take_once(lambda state: interrupted(state, BY)) is (before.attempt is not None)
        assert replace(self.state, history=before.history) == replace(before, attempt=None)

    @rule(which=some_package)
    def forget(self, which: Installed) -> None:
        if which.folder in self.state.packages:
            named = which.folder in self.state.in_use
            assert self.take(lambda state: forget(state, which.folder, BY)) is not named
            assert (which.folder in self.state.packages) is named

    @rule(missing=st.sets(st.sampled_from([each.folder for each in POOL])))
    @precondition(lambda self: self.state.active is not None)
    def lose(self, missing: set[str]) -> None:
        """Packages vanish from the disk: what is left of the two slots serves."""
        had = [each for each in (self.state.active_package, self.state.previous_package) if each]
        self.take(lambda state: without(state, missing, BY))
        left = [each for each in had if each.folder not in missing]
        assert self.state.active_package == (left[0] if left else None)

    @invariant()
    def what_a_rollback_goes_back_to_was_committed(self) -> None:
        previous = self.state.previous_package
        assert previous is None or previous.folder in self.proved
        if self.state.trial is None and self.state.active_package is not None:
            assert self.state.active_package.folder in self.proved

    @invariant()
    def marks_never_fall(self) -> None:
        for name, mark in self.marks.items():
            assert version_order(self.state.committed[name]) >= version_order(mark)
        self.marks = dict(self.state.committed)

    @invariant()
    def history_says_what_serves(self) -> None:
        """Whoever reads only the history knows the active package."""
        for entry in self.state.history[-1:]:
            if entry.event in ("activated", "rolled_back", "recovered"):
                self.serves = self.state.active_package.folder if self.state.active_package else None
            if entry.event == "activated":
                assert self.serves == f"{entry.package}-{entry.version}-{entry.digest}.ortpackage"
        active = self.state.active_package
        assert self.serves == (active.folder if active else None)

    @invariant()
    def it_is_read_as_it_was_written(self) -> None:
        assert decoded(encoded(self.state)) == self.state


TestStates = States.TestCase
TestStates.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_the_first_package_has_nothing_behind_it() -> None:
    """A rollback of it is refused, and another one takes its place."""
    state = activate(install(State(), package("1.0.0"), BY), package("1.0.0").folder, BY)
    with pytest.raises(NothingToRollBackTo, match=r"qwen 1\.0\.0 is the first"):
        roll_back(state, BY)
    second = package("1.1.0")
    state = activate(install(state, second, BY), second.folder, BY)
    assert state.active_package == second
    assert state.previous_package is None


@given(st.lists(st.tuples(*[st.integers(0, 999_999)] * 3)))
def test_versions_are_ordered_as_numbers(numbers: list[tuple[int, int, int]]) -> None:
    """1.10.0 is after 1.9.0."""
    versions = [".".join(map(str, parts)) for parts in numbers]
    assert list(map(version_order, sorted(versions, key=version_order))) == sorted(numbers)


def test_a_downgrade_is_by_numbers() -> None:
    """1.10.0 is above 1.9.0, and what is not below the highest is none of a downgrade."""
    state = replace(State(), committed={"qwen": "1.10.0"})
    with pytest.raises(DowngradeRefused, match="--allow-downgrade"):
        require_no_downgrade(state, "qwen", "1.9.0")
    for version in ("1.10.0", "1.11.0", "2.0.0"):
        require_no_downgrade(state, "qwen", version)
    require_no_downgrade(state, "other", "0.0.1")


def test_rollbacks_are_counted_past_what_the_history_remembers() -> None:
    """A counter that falls is one that began anew, to those who watch it."""
    first, second = package("1.0.0"), package("1.1.0")
    state = install(install(State(), first, BY), second, BY)
    state = commit(activate(state, first.folder, BY), BY)
    counts = []
    for _ in range(MAX_HISTORY):
        state = roll_back(activate(state, second.folder, BY), BY)
        counts.append(decoded(encoded(state)).rollbacks)
    assert counts == list(range(1, MAX_HISTORY + 1))


def test_the_history_is_bounded() -> None:
    """The last so many entries stay."""
    state = install(State(), package("1.0.0"), BY)
    for number in range(MAX_HISTORY + 5):
        state = refuse(state, package("1.0.0").folder, replace(BY, why=f"{number}" + 5000 * "x"))
    assert len(state.history) == MAX_HISTORY
    assert state.history[-1].why.startswith(f"{MAX_HISTORY + 4}x")
    assert len(encoded(state)) < 1 << 20


@given(st.lists(some_package, unique=True))
def test_a_rebuilt_state_serves_the_newest(found: list[Installed]) -> None:
    """On trial, with the one before it to go back to; and nothing of what is here is below the marks of a name."""
    state = rebuilt(found, BY)
    assert [state.active_package, state.previous_package] == [*found[:2], None, None][:2]
    assert (state.trial is not None) is bool(found)
    for each in found:
        assert version_order(each.version) <= version_order(state.committed[each.name])
    assert state.history[-1].event == "recovered"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"format":1}',
        b'{"format":1,"state":{"active":"a"}}',
        b'{"format":1,"state":{"slots":{"a":"x","b":"x"}}}',
        b'{"format":1,"state":{"slots":{"a":"x","b":null}}}',
        b'{"format":1,"state":{"active":"c"}}',
        b'{"format":1,"state":{"trial":{"since_s":"1"}}}',
        b'{"format":1,"state":{"new":1}}',
        encoded(State()).replace(b"{", b"[", 1),
        encoded(install(State(), package("1.0.0"), BY)).replace(b"qwen-1", b"../qwen-1"),
        encoded(install(State(), package("1.0.0"), BY)).replace(b'"1.0.0"', b'"1.0"'),
        b"[" * 100_000,
    ],
)
def test_what_is_no_state_is_refused(content: bytes) -> None:
    """With what is wrong."""
    with pytest.raises(ValueError, match=r"\S"):
        decoded(content)


@given(st.binary(max_size=200), st.integers(0, 2000))
def test_any_damage_is_refused_or_harmless(noise: bytes, at: int) -> None:
    """Bytes that were overwritten: nothing but a ValueError, or a state that keeps all its rules."""
    whole = encoded(activate(install(State(), package("1.0.0"), BY), package("1.0.0").folder, BY))
    damaged = whole[:at] + noise + whole[at + len(noise) :]
    try:
        state = decoded(damaged)
    except (ValueError, StateNewer):
        return
    assert decoded(encoded(state)) == state


def test_a_newer_state_is_not_guessed_at() -> None:
    """It is told from a damaged one."""
    with pytest.raises(StateNewer, match="format 2 and this edgeqwen knows 1: update edgeqwen"):
        decoded(b'{"format":2,"slots":{"a":"b"}}')
