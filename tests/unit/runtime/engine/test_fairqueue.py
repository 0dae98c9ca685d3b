"""Whose turn it is, and who gives way: without a model, without time."""

from __future__ import annotations

from collections import Counter
from itertools import count, pairwise

from hypothesis import given
from hypothesis import strategies as st

from runtime.engine.fairqueue import FairQueue
from runtime.engine.sequence import Request, Sequence

CLIENTS = st.sampled_from("abcd")
SIZES = st.integers(1, 40)
LARGEST = 40


def sequence(number: int, client: str, tokens: int = 1, group: int | None = None) -> Sequence:
    """One that may take so many tokens of KV."""
    return Sequence(number, Request(prompt=(1,) * tokens, max_tokens=1, client=client), group=group)


def queue_of(asked: list[tuple[str, int]]) -> FairQueue:
    queue = FairQueue()
    for number, (client, tokens) in enumerate(asked, 1):
        queue.add(sequence(number, client, tokens))
    return queue


def take_all(queue: FairQueue) -> list[Sequence]:
    return [queue.take() for _ in range(len(queue))]


def test_one_client_is_served_in_the_order_in_which_it_asked() -> None:
    assert [each.id for each in take_all(queue_of([("a", 9), ("a", 1), ("a", 5)]))] == [1, 2, 3]


def test_a_client_with_many_requests_does_not_keep_another_waiting() -> None:
    """The one request of the other comes after the first of the many."""
    asked = [("many", 4)] * 8 + [("one", 4)]
    assert [each.request.client for each in take_all(queue_of(asked))][:3] == ["many", "one", "many"]


def test_turns_are_counted_in_tokens() -> None:
    """Who asks for a quarter as much at a time is served four times as often."""
    queue = queue_of([("large", 40)] * 3 + [("small", 10)] * 12)
    assert Counter(queue.take().request.client for _ in range(10)) == {"large": 2, "small": 8}


def test_what_was_not_taken_is_given_back() -> None:
    """A client that lets max_tokens be as it may, and gets short answers, is not held for a large one."""
    queue = queue_of([("open", 40)] * 4 + [("exact", 4)] * 4)
    order = []
    for _ in range(8):
        order.append(queue.take().request.client)
        if order[-1] == "open":
            queue.give_back("open", 36)
    assert all(left != right for left, right in pairwise(order))


def test_nobody_saves_turns_up_while_away() -> None:
    """A client that comes late starts beside the others, not with all that they had before."""
    queue = queue_of([("early", 10)] * 20)
    for _ in range(10):
        queue.take()
    for number in range(100, 110):
        queue.add(sequence(number, "late", 10))
    assert [queue.take().request.client for _ in range(4)] == ["late", "early", "late", "early"]


@given(st.lists(st.tuples(CLIENTS, SIZES), max_size=40))
def test_its_order_is_told_before_it_comes(asked: list[tuple[str, int]]) -> None:
    queue = queue_of(asked)
    told = list(queue)
    assert len(told) == len(queue)
    assert told == take_all(queue)


@given(st.lists(st.tuples(st.sampled_from("ab"), SIZES), max_size=60))
def test_those_who_wait_get_the_same_to_within_a_request_of_each(asked: list[tuple[str, int]]) -> None:
    """While two clients both have something waiting, whatever they send: what they are admitted differs by no more than
    the largest request of each."""
    queue = queue_of(asked)
    most = {client: max((tokens for whose, tokens in asked if whose == client), default=0) for client in "ab"}
    admitted = Counter({"a": 0, "b": 0})
    while queue.count_of("a") and queue.count_of("b"):
        taken = queue.take()
        admitted[taken.request.client] += taken.kv_tokens_needed
        assert abs(admitted["a"] - admitted["b"]) <= most["a"] + most["b"]


@given(st.data())
def test_nobody_is_overtaken_for_ever(data: st.DataObject) -> None:
    """Others come, are cancelled, end early and give back as they like: while a request is the next of its client, none
    of them is admitted more often than the largest request has tokens, and once."""
    queue, ids = FairQueue(), count(1)
    for client in data.draw(st.lists(CLIENTS, max_size=10)):
        queue.add(sequence(next(ids), client, data.draw(SIZES)))
    queue.add(waiting := sequence(next(ids), "mine", LARGEST))
    overtook: Counter[str] = Counter()
    for _ in range(400):
        ahead = queue.next
        if ahead is waiting:
            break
        taken = queue.take()
        overtook[taken.request.client] += 1
        queue.give_back(taken.request.client, data.draw(st.integers(0, taken.kv_tokens_needed - 1)))
        queue.add(sequence(next(ids), taken.request.client, data.draw(st.integers(1, 3))))
        if data.draw(st.booleans()):
            queue.add(sequence(next(ids), data.draw(CLIENTS), data.draw(SIZES)))
        if data.draw(st.integers(0, 3)) == 0 and (others := [each for each in queue if each is not waiting]):
            queue.remove(data.draw(st.sampled_from(others)))
    assert queue.next is waiting
    assert all(times <= LARGEST + 1 for times in overtook.values())


def test_the_newest_of_those_with_most_give_way() -> None:
    """Until the newcomer would have as many as they: two that have the same do not push each other out."""
    queue = queue_of([("most", 1)] * 4 + [("few", 1)] * 2)
    assert [each.id for each in queue.giving_way("new", 1, 1) or []] == [4]
    assert [each.id for each in queue.giving_way("new", 2, 2) or []] == [4, 3]
    assert queue.giving_way("new", 3, 3) is None
    assert [each.id for each in queue.giving_way("few", 1, 1) or []] == [4]
    assert queue.giving_way("few", 2, 2) is None
    assert queue.giving_way("most", 1, 1) is None
    assert queue.giving_way("most", 1, 0) == []


def test_those_that_came_together_leave_together_or_stay() -> None:
    queue = FairQueue()
    for number in range(1, 7):
        queue.add(sequence(number, "many", group=1 if number < 4 else 4))
    assert sorted(each.id for each in queue.giving_way("new", 1, 1) or []) == [4, 5, 6]
    assert queue.giving_way("new", 4, 1) is None, "they would leave fewer than the newcomer has"
    queue.remove(queue.next)
    assert sorted(each.id for each in queue.giving_way("new", 1, 1) or []) == [4, 5, 6]
    assert queue.giving_way("new", 2, 4) is None, "the first three have begun"


@given(st.data())
def test_nobody_is_locked_out_of_a_full_queue(data: st.DataObject) -> None:
    """Whoever sends whatever: a client with less than its share of the places is let in, and who gave way had more."""
    limit, queue, ids = data.draw(st.integers(4, 12)), FairQueue(), count(1)
    for client in data.draw(st.lists(st.sampled_from("aaab") | CLIENTS, max_size=60)):
        before = {each: queue.count_of(each) for each in "abcd"}
        going = queue.giving_way(client, 1, 1 + len(queue) - limit)
        if going is None:
            assert before[client] >= limit // 4
            continue
        for each in going:
            assert before[each.request.client] > before[client] + 1
            newest = max(other.id for other in queue if other.request.client == each.request.client)
            assert each.id == newest
            queue.remove(each)
        queue.add(sequence(next(ids), client))
        assert len(queue) <= limit
