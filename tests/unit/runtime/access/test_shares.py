"""Shares of connections: of one client, of all, and of those whom a flood must not keep out."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.access.shares import LOOPBACK, Shares, client_at

MOST, MOST_OF_ONE = 6, 2
CLIENTS = ("uid:0", "uid:7", "address:192.0.2.1", "address:192.0.2.2", "address:192.0.2.3", LOOPBACK)


@given(st.lists(st.tuples(st.sampled_from(CLIENTS), st.booleans())))
def test_nobody_has_more_than_may_be(comings: list[tuple[str, bool]]) -> None:
    """Whoever comes and goes; who has none and finds no room is kept out by all others together, and root by nobody."""
    shares, held = Shares(MOST, MOST_OF_ONE, frozenset({"uid:0"})), Counter[str]()
    for client, comes in comings:
        if not comes:
            if held[client]:
                shares.leave(client)
                held[client] -= 1
            continue
        others = sum(count for each, count in held.items() if each != "uid:0")
        entered = shares.enter(client)
        most = MOST if client == LOOPBACK else MOST_OF_ONE
        assert entered == (held[client] < most and (client == "uid:0" or others < MOST))
        held[client] += entered
        assert shares.of(client) == held[client]


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.7", "address:192.0.2.7"),
        ("::ffff:192.0.2.7", "address:192.0.2.7"),
        ("2001:db8:1:2::5", "address:2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::5", "address:2001:db8:1:2::/64"),
        ("fe80::1%eth0", "address:fe80::/64"),
        ("127.0.0.1", LOOPBACK),
        ("127.8.8.8", LOOPBACK),
        ("::1", LOOPBACK),
        ("::ffff:127.0.0.1", LOOPBACK),
    ],
)
def test_a_client_is_an_address_or_a_network(address: str, client: str) -> None:
    """One machine has any number of addresses of IPv6; programs on this one are not told apart."""
    assert client_at(address) == client
