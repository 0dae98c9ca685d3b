"""The ledger of slots, warm rows and promised tokens."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.engine.kvcache import Clear, Copy, KVCache
from runtime.engine.sequence import Request, Sequence

MINE, OTHERS = b"mine", b"others"


def sequence(prompt: int = 3, max_tokens: int = 4) -> Sequence:
    return Sequence(0, Request(prompt=(1,) * prompt, max_tokens=max_tokens))


def asks(*prompt: int, max_tokens: int = 4, scope: bytes | None = MINE, adapter: str | None = None) -> Sequence:
    return Sequence(0, Request(prompt, max_tokens, scope=scope, adapter=adapter))


def run(kv: KVCache, sequence: Sequence, *output: int) -> None:
    """Admits `sequence` and has it say `output`, of which the last token is not computed."""
    kv.admit(sequence)
    sequence.output += output
    sequence.computed = sequence.prompt_tokens + len(output) - 1


def test_rows_stay_together() -> None:
    """The slot in or next to the running rows is given, where the range of rows is shortest."""
    kv = KVCache(slots=4, budget_tokens=100)
    first, second, third, fourth = (sequence() for _ in range(4))
    for each in (first, second, third):
        kv.admit(each)
    kv.release(second)
    kv.admit(fourth)
    assert (first.slot, third.slot, fourth.slot) == (0, 2, 1)


def test_a_promise_never_exceeds_the_budget() -> None:
    """A sequence fits only while everything promised, its own last token aside, is within the budget."""
    kv = KVCache(slots=8, budget_tokens=12)
    kv.admit(sequence(prompt=3, max_tokens=4))
    assert kv.reserved_tokens == 6
    assert kv.fits(sequence(prompt=3, max_tokens=4))
    assert not kv.fits(sequence(prompt=3, max_tokens=5))


def test_no_more_run_than_may() -> None:
    kv = KVCache(slots=4, budget_tokens=100, max_running=1)
    kv.admit(sequence())
    assert not kv.fits(sequence())


def test_the_next_turn_takes_over_the_row_of_the_last() -> None:
    """Nothing is copied when nothing is lost by it."""
    kv = KVCache(slots=2, budget_tokens=100)
    first = asks(1, 2, 3)
    run(kv, first, 4, 5)
    kv.release(first)
    assert kv.warm_tokens == 4
    assert kv.take_clears() == (Clear(0, 4),)
    second = asks(1, 2, 3, 4, 5, 6)
    assert kv.admit(second) is None
    assert (second.slot, second.cached, second.computed, kv.warm_tokens) == (0, 4, 4, 0)


def test_a_row_that_goes_on_otherwise_is_copied_and_stays() -> None:
    """So do the rows of running sequences. The last prompt token is always computed: its logits are wanted."""
    kv = KVCache(slots=4, budget_tokens=100)
    first = asks(1, 2, 3, 4)
    run(kv, first, 5)
    assert kv.admit(asks(1, 2, 9)) == Copy(source=0, target=1, tokens=2)
    kv.release(first)
    again = asks(1, 2, 3, 4)
    assert kv.admit(again) == Copy(source=0, target=2, tokens=3)
    assert (again.cached, kv.warm_tokens) == (3, 4)


def test_without_room_beside_it_a_row_is_taken_over_and_cut() -> None:
    kv = KVCache(slots=4, budget_tokens=8)
    first = asks(1, 2, 3, 4)
    run(kv, first, 5)
    kv.release(first)
    kv.take_clears()
    second = asks(1, 2, 9, max_tokens=4)
    assert kv.admit(second) is None
    assert (second.slot, second.cached, kv.warm_tokens) == (0, 2, 0)
    assert kv.take_clears() == (Clear(0, 2),)


def test_under_a_limit_warm_rows_go_first_and_the_running_stay() -> None:
    """What a sequence leaves above the limit goes too; afterwards the whole budget counts again."""
    kv = KVCache(slots=4, budget_tokens=40)
    old, running = asks(1, 2, 3), asks(7, 8, 9)
    run(kv, old, 4, 5)
    run(kv, running, 10, 11)
    kv.release(old)
    kv.take_clears()
    kv.limit(6)
    assert (kv.warm_tokens, kv.reserved_tokens, kv.take_clears()) == (0, 6, (Clear(0),))
    assert not kv.fits(sequence(prompt=1, max_tokens=1))
    kv.limit(3)
    assert kv.running == [running]
    kv.release(running)
    assert (kv.warm_tokens, kv.take_clears()) == (0, (Clear(1, 4), Clear(1)))
    kv.limit(100)
    assert kv.limit_tokens == 40


def test_one_may_always_run() -> None:
    """Whatever the limit, so that nobody waits for memory that never comes back."""
    kv = KVCache(slots=4, budget_tokens=12)
    kv.limit(0)
    assert kv.fits(sequence(prompt=9, max_tokens=4))
    kv.admit(sequence(prompt=3, max_tokens=4))
    assert not kv.fits(sequence(prompt=3, max_tokens=4))


def test_nobody_starts_from_what_others_left() -> None:
    kv = KVCache(slots=4, budget_tokens=100)
    for scope in (OTHERS, None):
        other = asks(1, 2, 3, scope=scope)
        run(kv, other, 4)
        kv.release(other)
        for mine in (asks(1, 2, 3), asks(1, 2, 3, scope=None)):
            kv.admit(mine)
            assert mine.cached == 0
            kv.release(mine, keep=False)


def test_nothing_starts_from_the_kv_of_another_adapter() -> None:
    """Warm or running: only a request with the same adapter starts there."""
    kv = KVCache(slots=6, budget_tokens=100)
    left, goes_on = asks(1, 2, 3, adapter="one"), asks(1, 2, 3, adapter="two")
    for each in (left, goes_on):
        run(kv, each, 4)
    kv.release(left)
    for adapter, cached in ((None, 0), ("three", 0), ("two", 2), ("one", 2)):
        mine = asks(1, 2, 3, adapter=adapter)
        kv.admit(mine)
        assert mine.cached == cached
        kv.release(mine, keep=False)


def test_the_warm_row_not_used_for_longest_makes_way() -> None:
    """For a slot or for the budget; a use counts as well as the making."""
    kv = KVCache(slots=3, budget_tokens=20)
    for first_token in (1, 2, 3):
        left = asks(first_token, 0, 0, 0)
        run(kv, left, 7)
        kv.release(left)
    kv.admit(asks(1, 0, 9, max_tokens=1))
    assert kv.warm_tokens == 8, "one made way for a slot: that of 2"
    kv.admit(asks(8, 8, 8, max_tokens=11))
    assert kv.warm_tokens == 4, "and that of 3 for the budget"
    probe = asks(1, 0, 0, max_tokens=1)
    kv.release(kv.running[-1])
    kv.admit(probe)
    assert probe.cached == 2


def test_repr_reads_like_a_status_line() -> None:
    kv = KVCache(slots=2, budget_tokens=50)
    kv.admit(sequence())
    assert repr(kv) == "<KVCache 1/2 running, 0 used + 6 promised + 0 warm of 50 tokens>"


@given(st.data())
def test_rows_are_owned_once_and_hold_what_the_ledger_says(data: st.DataObject) -> None:
    """Whatever is admitted, computed and released, in whatever order, scope and with whatever adapter: the budget
    holds, every clear and copy finds the rows as they are, and what a sequence starts from is its own prompt, computed
    with its own adapter."""
    slots = data.draw(st.integers(1, 6))
    kv = KVCache(slots, budget_tokens=30, max_running=data.draw(st.integers(1, slots)))
    memory: list[tuple[int, ...]] = [()] * slots
    adapters = {None: 0, "one": 10, "two": 20}  # what each adds to a token as it is computed
    tokens = st.lists(st.integers(1, 2), min_size=1, max_size=8)
    for _ in range(data.draw(st.integers(0, 40))):
        prompt, scope = data.draw(tokens), data.draw(st.sampled_from((MINE, OTHERS, None)))
        name = data.draw(st.sampled_from((None, "one", "two")))
        new = asks(*prompt, max_tokens=data.draw(st.integers(1, 4)), scope=scope, adapter=name)
        if kv.running and (data.draw(st.booleans()) or not kv.fits(new)):
            kv.release(data.draw(st.sampled_from(kv.running)), keep=data.draw(st.booleans()))
        elif kv.fits(new):
            apply(memory, kv, kv.admit(new))
            assert memory[new.slot_in_use] == kv_of(new, adapters)
            new.output += data.draw(st.lists(st.integers(1, 2), min_size=1, max_size=new.request.max_tokens))
            new.computed = new.prompt_tokens + len(new.output) - 1
            memory[new.slot_in_use] = kv_of(new, adapters)
        assert kv.reserved_tokens + kv.warm_tokens <= kv.budget_tokens
        assert len(kv.running) <= kv.max_running
        assert all(memory[each.slot_in_use] == kv_of(each, adapters) for each in kv.running)
    apply(memory, kv, None)
    kv.forget_warm()
    for each in kv.running:
        kv.release(each, keep=False)
    apply(memory, kv, None)
    assert memory == [()] * slots


def kv_of(sequence: Sequence, adapters: dict[str | None, int]) -> tuple[int, ...]:
    """What the slot of `sequence` has to hold."""
    return tuple(token + adapters[sequence.request.adapter] for token in sequence.computed_tokens)


def apply(memory: list[tuple[int, ...]], kv: KVCache, copy: Copy | None) -> None:
    """Does to `memory`, a row of tokens per slot, what a session does to its KV."""
    for clear in kv.take_clears():
        assert len(memory[clear.slot]) >= clear.keep
        memory[clear.slot] = memory[clear.slot][: clear.keep]
    if copy:
        assert memory[copy.target] == ()
        assert len(memory[copy.source]) >= copy.tokens > 0
        memory[copy.target] = memory[copy.source][: copy.tokens]


def test_fewer_may_run_and_those_that_do_go_on() -> None:
    """Nobody is evicted by the limit, nobody is admitted above it, and lifting it gives all slots back."""
    cache = KVCache(3, 1000)
    running = [Sequence(number, Request((1, 2, 3), 4)) for number in range(2)]
    for each in running:
        cache.admit(each)
    cache.limit_running(1)
    assert (cache.free_slots, len(cache.running)) == (0, 2)
    cache.release(running[0])
    assert not cache.fits(Sequence(7, Request((1,), 1)))
    cache.release(running[1])
    assert cache.free_slots == 1
    cache.limit_running(9)
    assert cache.free_slots == 3
