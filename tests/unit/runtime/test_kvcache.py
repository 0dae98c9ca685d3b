"""The ledger of slots and promised tokens."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.kvcache import KVCache
from runtime.sequence import Request, Sequence


def sequence(prompt: int = 3, max_tokens: int = 4) -> Sequence:
    return Sequence(0, Request(prompt=(1,) * prompt, max_tokens=max_tokens))


def test_the_lowest_free_slot_is_given() -> None:
    """Rows stay packed at the start, where a decode range is shortest."""
    kv = KVCache(slots=3, budget_tokens=100)
    first, second, third = sequence(), sequence(), sequence()
    for each in (first, second):
        kv.admit(each)
    kv.release(first)
    kv.admit(third)
    assert (third.slot, second.slot) == (0, 1)


def test_a_promise_never_exceeds_the_budget() -> None:
    """A sequence fits only while everything promised, its own last token aside, is within the budget."""
    kv = KVCache(slots=8, budget_tokens=12)
    kv.admit(sequence(prompt=3, max_tokens=4))
    assert kv.reserved_tokens == 6
    assert kv.fits(sequence(prompt=3, max_tokens=4))
    assert not kv.fits(sequence(prompt=3, max_tokens=5))


def test_repr_reads_like_a_status_line() -> None:
    kv = KVCache(slots=2, budget_tokens=50)
    kv.admit(sequence())
    assert repr(kv) == "<KVCache 1/2 slots, 0 used + 6 promised of 50 tokens>"


@given(st.lists(st.integers(min_value=0, max_value=9), max_size=60), st.integers(min_value=1, max_value=6))
def test_slots_are_owned_once_and_compaction_closes_every_hole(actions: list[int], slots: int) -> None:
    """Whatever is admitted and released in whatever order: owners and slots agree, and moves end without holes."""
    kv = KVCache(slots=slots, budget_tokens=40)
    running: list[Sequence] = []
    for action in actions:
        new = sequence(max_tokens=1 + action % 3)
        if action < 6 and kv.fits(new):
            kv.admit(new)
            running.append(new)
        elif running:
            kv.release(running.pop(action % len(running)))
        assert kv.owners == sorted(running, key=lambda s: s.slot_in_use)
        assert kv.free_slots == slots - len(running)
        assert kv.reserved_tokens == sum(s.kv_tokens_needed for s in running) <= kv.budget_tokens
    while move := kv.compaction():
        assert move.source > move.target
        assert move.sequence.slot == move.target
    assert [s.slot for s in kv.owners] == list(range(len(running)))
