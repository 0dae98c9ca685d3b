"""What is known of each client, and what it is refused."""

from __future__ import annotations

import threading

import pytest

from runtime.access.clients import DAEMON, OTHERS, Clients
from runtime.access.limits import LimitBook, Limits
from runtime.errors import RateLimited


def test_every_step_of_a_request_is_counted_for_its_client() -> None:
    clients = Clients(clock=lambda: 0.0)
    clients.submitted("a", [3, 4], ends_in_s=1.0)
    clients.started("a")
    clients.prefilled("a", 3)
    clients.generated({"a": 2})
    clients.refused("b", 2)
    a, b = clients.stats()
    assert (a.name, a.waiting, a.running, a.requests_total, a.refused_total) == ("a", 1, 1, 2, 0)
    assert (a.prompt_tokens_total, a.completion_tokens_total) == (3, 2)
    assert (b.name, b.requests_total, b.refused_total) == ("b", 0, 2)
    clients.ended("a", started=True)
    clients.ended("a", started=False)
    assert (clients.stats()[0].waiting, clients.stats()[0].running, clients.stats()[0].requests_total) == (0, 0, 2)


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ("requests_per_minute", "a may have 2 requests a minute; try again in 30.0 s"),
        ("tokens_per_minute", "a may have 2 tokens a minute, of prompts and answers together; try again in 30.0 s"),
        ("concurrent_requests", "a may have 2 requests at once, those that wait included; try again in 7.0 s"),
    ],
)
def test_who_is_over_a_limit_hears_which_and_how_long(limit: str, words: str) -> None:
    """What is running decides where the number at once is the limit."""
    clients = Clients(LimitBook(clients={"a": Limits(**{limit: 2})}), clock=lambda: 0.0)
    for client in "aabbb":
        clients.submitted(client, [1], ends_in_s=7.0)
    with pytest.raises(RateLimited) as refusal:
        clients.submitted("a", [1], ends_in_s=7.0)
    assert str(refusal.value) == words
    assert [(its.requests_total, its.refused_total) for its in clients.stats()] == [(2, 1), (3, 0)]


def test_a_limit_is_free_again_when_a_request_ends_however_it_does() -> None:
    clients = Clients(LimitBook(Limits(concurrent_requests=1)), clock=lambda: 0.0)
    for started in (False, True):
        clients.submitted("a", [1], ends_in_s=1.0)
        if started:
            clients.started("a")
        clients.ended("a", started=started)
    clients.submitted("a", [1], ends_in_s=1.0)


def test_figures_are_kept_of_so_many_and_of_the_rest_together() -> None:
    """However many come: limits are each one's own all the same."""
    clients = Clients(LimitBook(Limits(concurrent_requests=1)), max_named=2, clock=lambda: 0.0)
    for client in "abcd":
        clients.submitted(client, [1], ends_in_s=1.0)
    with pytest.raises(RateLimited):
        clients.submitted("d", [1], ends_in_s=1.0)
    stats = clients.stats()
    assert [(its.name, its.waiting, its.refused_total) for its in stats] == [("a", 1, 0), ("b", 1, 0), (OTHERS, 2, 1)]


def test_many_threads_lose_nothing() -> None:
    clients = Clients()

    def work() -> None:
        for _ in range(500):
            clients.submitted("a", [1], ends_in_s=1.0)
            clients.started("a")
            clients.generated({"a": 1})
            clients.ended("a", started=True)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [its] = clients.stats()
    assert (its.waiting, its.running, its.requests_total, its.completion_tokens_total) == (0, 0, 2000, 2000)


def test_new_limits_count_from_the_next_request_on() -> None:
    """And are those that are told; the daemon's own requests have none, before or after."""
    clients = Clients(clock=lambda: 0.0)
    for client in ("a", DAEMON):
        clients.submitted(client, [1], ends_in_s=1.0)
    clients.follow(LimitBook(Limits(concurrent_requests=1, output_tokens=7)))
    assert clients.limits_of("a").output_tokens == 7
    with pytest.raises(RateLimited, match="a may have 1 requests at once"):
        clients.submitted("a", [1], ends_in_s=1.0)
    clients.submitted(DAEMON, [1], ends_in_s=1.0)
    for client in ("a", DAEMON, DAEMON):
        clients.ended(client, started=False)
    clients.submitted("a", [1], ends_in_s=1.0)
    assert [its.limits.concurrent_requests for its in clients.stats()] == [1, 1]
