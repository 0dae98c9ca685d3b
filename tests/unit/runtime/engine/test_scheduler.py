"""Continuous batching, without a model."""

from __future__ import annotations

from collections import Counter
from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from runtime.engine.kvcache import Clear, KVCache
from runtime.engine.scheduler import Decode, Scheduler, Step
from runtime.engine.sequence import Request, Sequence


def make(slots: int = 2, budget: int = 1000, queue: int = 4, chunk: int = 4) -> Scheduler:
    return Scheduler(KVCache(slots, budget), queue_limit=queue, prefill_chunk_tokens=chunk)


def sequence(
    number: int, prompt: int = 3, max_tokens: int = 4, adapter: str | None = None, client: str = ""
) -> Sequence:
    return Sequence(number, Request(prompt=(1,) * prompt, max_tokens=max_tokens, adapter=adapter, client=client))


def commit(step: Step) -> None:
    """What the engine does after a run."""
    if step.prefill:
        step.prefill.sequence.computed += step.prefill.tokens
        if step.prefill.last:
            step.prefill.sequence.output.append(0)
    for row in step.decode:
        row.sequence.computed += 1
        row.sequence.output.append(0)


def test_a_long_prompt_comes_in_chunks_between_which_the_others_decode() -> None:
    """A running stream gets a token in every step while another prompt is prefilled."""
    scheduler = make(chunk=4)
    short, long = sequence(1, prompt=2), sequence(2, prompt=10)
    scheduler.add(short)
    commit(scheduler.schedule())
    scheduler.add(long)
    chunks = []
    for _ in range(3):
        step = scheduler.schedule()
        assert step.decode == (Decode(short, 0),)
        assert step.prefill is not None
        chunks.append((step.prefill.start, step.prefill.tokens, step.prefill.last))
        commit(step)
    assert chunks == [(0, 4, False), (4, 4, False), (8, 2, True)]
    assert scheduler.schedule().decode == (Decode(short, 0), Decode(long, 1))


@given(st.integers(1, 400), st.integers(4, 64), st.integers(0, 6))
def test_a_token_of_a_prompt_is_never_alone(prompt: int, chunk: int, decoding: int) -> None:
    """However many decode beside it: each is computed with others of its row, unless the prompt has no other."""
    scheduler = make(slots=8, budget=100_000, queue=8, chunk=chunk)
    for number in range(decoding):
        scheduler.add(sequence(number, prompt=2, max_tokens=1000))
        commit(scheduler.schedule())
    scheduler.add(long := sequence(9, prompt=prompt))
    sizes = []
    while long.in_prefill:
        step = scheduler.schedule()
        if step.prefill:
            sizes.append(step.prefill.tokens)
        commit(step)
    assert sum(sizes) == prompt
    assert all(1 < size <= chunk for size in sizes[:-1])
    assert sizes[-1] <= chunk + 1
    assert sizes[-1] > 1 or prompt == 1


def test_a_chunk_is_the_shorter_the_fewer_it_would_hold_up() -> None:
    """One stream has quick steps, many have steps that take longer anyway; with none there is nothing to hold up."""
    sizes = []
    for decoding in (0, 1, 4, 8):
        scheduler = make(slots=10, budget=10_000, queue=10, chunk=64)
        for number in range(decoding):
            scheduler.add(sequence(number, prompt=2, max_tokens=100))
            commit(scheduler.schedule())
        scheduler.add(sequence(9, prompt=200))
        step = scheduler.schedule()
        assert step.prefill is not None
        sizes.append(step.prefill.tokens)
    assert sizes == [64, 13, 20, 30]


def test_rows_with_different_adapters_run_apart_in_the_same_step() -> None:
    """Nobody waits for a turn: the runs of a step, one an adapter, have every row that can decode."""
    scheduler = make(slots=5)
    rows = [sequence(number, adapter=name) for number, name in enumerate(("b", None, "a", "b", None))]
    for row in rows:
        scheduler.add(row)
    while any(row.in_prefill for row in rows):
        commit(scheduler.schedule())
    step = scheduler.schedule()
    runs = [[row.sequence.request.adapter for row in run] for run in step.runs]
    assert runs == [[None, None], ["a"], ["b", "b"]]
    assert all([row.slot for row in run] == sorted(row.slot for row in run) for run in step.runs)


def test_a_chunk_shares_the_run_of_those_with_its_adapter() -> None:
    """With others of its adapter it costs no pass over the weights of its own, and so may be longer."""
    sizes = []
    for name in ("a", None):
        scheduler = make(slots=4, chunk=64)
        for number in range(2):
            scheduler.add(sequence(number, adapter="a"))
            commit(scheduler.schedule())
        scheduler.add(long := sequence(9, prompt=200, adapter=name))
        step = scheduler.schedule()
        assert [[row.sequence for row in run][-1] is long for run in step.runs] == [True] + [False] * (name is None)
        assert step.prefill is not None
        sizes.append(step.prefill.tokens)
    assert sizes == [16, 12]


def test_a_sequence_that_does_not_fit_waits_and_those_behind_it_too() -> None:
    """First come, first served: no small request overtakes a big one for ever."""
    scheduler = make(slots=4, budget=20, chunk=10)
    running, big, small = sequence(1, 3, 4), sequence(2, 10, 8), sequence(3, 1, 1)
    for each in (running, big, small):
        scheduler.add(each)
    for _ in range(2):
        commit(scheduler.schedule())
    assert list(scheduler.waiting) == [big, small]
    scheduler.remove(running)
    for _ in range(2):
        commit(scheduler.schedule())
    assert not scheduler.waiting


def test_clients_take_turns_for_slots() -> None:
    """One that has filled the queue is served as often as one that asks now and then."""
    scheduler = make(slots=1, queue=20)
    for number in range(8):
        scheduler.add(sequence(number, client="many"))
    order = []
    for number in range(8, 12):
        commit(scheduler.schedule())
        [running] = scheduler.kv.running
        order.append(running.request.client)
        if number % 2 == 0:
            scheduler.add(sequence(number, client="few"))
        scheduler.remove(running)
    assert order == ["many", "few", "many", "few"]


def test_who_ends_early_is_charged_for_what_it_took() -> None:
    """Not for the whole of the context that it could have had: with short answers both get every other turn."""
    scheduler = make(slots=1, queue=20)
    for number in range(6):
        scheduler.add(sequence(number, max_tokens=200, client="open"))
        scheduler.add(sequence(10 + number, max_tokens=2, client="exact"))
    order = []
    while scheduler.waiting:
        commit(scheduler.schedule())
        [running] = scheduler.kv.running
        order.append(running.request.client)
        scheduler.remove(running)
    assert order == ["open", "exact"] * 5 + ["open"] + ["exact"] * (len(order) - 11)


def test_what_must_be_computed_at_least_is_what_nobody_leaves() -> None:
    """Prompts of its scope and adapter that wait, run or are kept may leave their beginning; its last token never."""
    scheduler = make(slots=2, budget=1000, queue=200, chunk=64)

    def asked(*prompt: int, scope: bytes | None = b"mine", adapter: str | None = None) -> Request:
        return Request(prompt=prompt, max_tokens=4, scope=scope, adapter=adapter)

    whole = asked(*range(20), 1)
    assert scheduler.new_tokens(whole) == 21
    scheduler.add(first := Sequence(1, asked(*range(20), 2)))
    assert [scheduler.new_tokens(asked(*range(20), 1, scope=scope)) for scope in (b"mine", b"others", None)] == [
        1,
        21,
        21,
    ]
    assert scheduler.new_tokens(asked(*range(20), 1, adapter="pumps")) == 21
    assert scheduler.new_tokens(first.request) == 1
    commit(scheduler.schedule())
    assert scheduler.new_tokens(whole) == 1
    scheduler.remove(first)
    assert scheduler.new_tokens(asked(*range(10), 99, 99)) == 2
    for number in range(2, 100):
        scheduler.add(Sequence(number, asked(number, 0)))
    assert scheduler.new_tokens(asked(*[250] * 9)) == 1, "so many are not compared: it may be all"


def test_a_full_queue_makes_room_for_who_has_less_in_it() -> None:
    """Those that slots take at once are no reason to push anybody out."""
    scheduler = make(slots=2, queue=4)
    for number in range(1, 6):
        scheduler.add(sequence(number, client="many"))
    assert scheduler.giving_way("few", 1) == []
    scheduler.add(last := sequence(6, client="many"))
    assert scheduler.room == 0
    assert scheduler.giving_way("many", 1) is None
    assert scheduler.giving_way("few", 1) == [last]
    scheduler.remove(last)
    scheduler.add(sequence(7, client="few"))
    assert scheduler.room == 0


def test_a_prompt_waits_for_the_one_before_whose_beginning_it_may_share() -> None:
    """Two that come together with the same beginning: it is computed once."""
    scheduler = make(slots=4, chunk=4)
    first, second = (
        Sequence(number, Request(prompt=(*range(10), number), max_tokens=4, scope=b"scope")) for number in (91, 92)
    )
    for each in (first, second):
        scheduler.add(each)
    steps = []
    while second.in_prefill:
        steps.append(scheduler.schedule())
        commit(steps[-1])
    computed = [(s.prefill.sequence, s.prefill.start, s.prefill.tokens) for s in steps if s.prefill]
    assert computed == [(first, 0, 4), (first, 4, 4), (first, 8, 3), (second, 10, 1)]


def test_room_counts_also_those_that_free_slots_take() -> None:
    scheduler = make(slots=2, queue=3)
    for number in range(5):
        assert scheduler.room == 5 - number
        scheduler.add(sequence(number))
    assert scheduler.room == 0
    for _ in range(2):
        commit(scheduler.schedule())
    assert len(scheduler.waiting) == 3
    assert scheduler.room == 0


def test_a_removed_sequence_is_gone_wherever_it_was_and_its_slot_is_cleared_once() -> None:
    scheduler = make(slots=2, chunk=2)
    prefilling, decoding, waiting = sequence(1, prompt=8), sequence(2), sequence(3)
    scheduler.add(decoding)
    while decoding.in_prefill:
        commit(scheduler.schedule())
    for each in (prefilling, waiting):
        scheduler.add(each)
    commit(scheduler.schedule())
    kv = "<KVCache 2/2 running, 6 used + 11 promised + 0 warm of 1000 tokens>"
    assert repr(scheduler) == (f"<Scheduler 1/4 waiting, {kv}>")
    for each in (waiting, prefilling, decoding):
        scheduler.remove(each)
    assert not scheduler.idle
    assert scheduler.schedule() == Step(clear=(Clear(1), Clear(0)))
    assert scheduler.idle
    assert scheduler.schedule().empty


@given(st.data())
def test_every_sequence_ends_with_what_it_asked_for(data: st.DataObject) -> None:
    """Any arrivals, adapters and cancellations: prefill covers each prompt once and in order, every row that can decode
    does so in every step, in a run of its own adapter, no slot is shared, and the scheduler comes to rest."""
    scheduler = make(slots=data.draw(st.integers(1, 4)), budget=30, queue=50, chunk=data.draw(st.integers(2, 5)))
    live: list[Sequence] = []
    to_come = data.draw(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 8)), max_size=8))
    for number in range(400):
        if to_come and (not live or data.draw(st.booleans())):
            prompt, max_tokens = to_come.pop()
            live.append(sequence(number, prompt, max_tokens, data.draw(st.sampled_from((None, "a", "b")))))
            scheduler.add(live[-1])
        step = scheduler.schedule()
        slots = [row.slot for row in step.decode]
        assert slots == sorted(set(slots))
        assert {row.sequence for row in step.decode} == {s for s in live if s.slot is not None and not s.in_prefill}
        assert Counter(chain(*step.runs)) == Counter((*step.decode, *filter(None, [step.prefill])))
        adapters = [{row.sequence.request.adapter for row in run} for run in step.runs]
        assert [len(of) for of in adapters] == [1] * len(set().union(*adapters))
        if step.prefill:
            assert step.prefill.start == step.prefill.sequence.computed
            assert step.prefill.slot not in slots
        commit(step)
        for each in [s for s in live if len(s.output) == s.request.max_tokens]:
            assert each.computed == each.kv_tokens_needed
            scheduler.remove(each)
            live.remove(each)
        if live and data.draw(st.integers(0, 9)) == 0:
            scheduler.remove(live.pop())
        if not live and not to_come:
            break
    scheduler.schedule()
    assert scheduler.idle
    assert scheduler.kv.reserved_tokens == 0
