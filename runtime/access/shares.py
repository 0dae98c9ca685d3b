"""How many connections there may be, and how many of them one client may have. Pure.

A client is known as `rules` has it, `uid:1000` or `address:192.0.2.7`, before it has said anything.
"""

from __future__ import annotations

import ipaddress
from collections import Counter

_NETWORK_BITS = 64  # what one client of IPv6 has all addresses of


class Shares:
    """Counts those that are open.

    Args:
        most: of all clients together.
        most_of_one: of each.
        privileged: clients whose connections do not count among those of all: a flood of others keeps none of them out.
    """

    def __init__(self, most: int, most_of_one: int, privileged: frozenset[str] = frozenset()) -> None:
        self._most, self._most_of_one, self._privileged = most, most_of_one, privileged
        self._open: Counter[str] = Counter()

    def enter(self, client: str) -> bool:
        """Whether there is room for one more of `client`, which is then counted until it `leave`s."""
        if self._open[client] >= self._share_of(client) or not (client in self._privileged or self._has_room()):
            return False
        self._open[client] += 1
        return True

    def leave(self, client: str) -> None:
        """One that had entered is closed."""
        self._open[client] -= 1
        if not self._open[client]:
            del self._open[client]

    def of(self, client: str) -> int:
        """How many it has."""
        return self._open[client]

    def _has_room(self) -> bool:
        return sum(count for client, count in self._open.items() if client not in self._privileged) < self._most

    def _share_of(self, client: str) -> int:
        return self._most if client == LOOPBACK else self._most_of_one


LOOPBACK = "address:loopback"
"""All programs on this machine, which no address tells apart."""


def client_at(address: str) -> str:
    """The client at an IP address: of IPv6 its whole network, as one machine has any number of addresses there."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ip.ipv4_mapped or ip
    if ip.is_loopback:
        return LOOPBACK
    if ip.version == 6:
        return f"address:{ipaddress.ip_network((ip, _NETWORK_BITS), strict=False)}"
    return f"address:{ip}"
