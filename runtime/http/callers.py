"""Who asks over HTTP, and whether it may: the rules are those of gRPC, the paths stand in their table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import structlog
from starlette.requests import HTTPConnection

from ..access import caller
from ..access.rules import Evidence, Rules
from ..access.seldom import Seldom
from ..errors import PermissionDenied, Unauthenticated
from ..otel import context as trace

_NAMES = ("URI", "DNS", "email")  # of a certificate, as gRPC's gate has them; the first that there is counts


class Callers:
    """Lets callers in. Each request is asked about by the rules that count then."""

    def __init__(self, rules: Callable[[], Rules]) -> None:
        self._rules = rules
        self._log = structlog.get_logger()
        self._seldom = Seldom()

    def admit(self, connection: HTTPConnection, path: str) -> None:
        """From here on the task answers who is at the other end, and belongs to the caller's trace.

        Raises Unauthenticated or PermissionDenied.
        """
        evidence = evidence_of(connection)
        try:
            caller.enter(self._rules().admit(path, evidence))
        except Unauthenticated as error:
            self._refused(path, evidence.address or "unix", error)
            raise
        except PermissionDenied as error:
            self._refused(path, error.caller, error)
            raise
        trace.enter(trace.context_of(connection.headers.items()))

    def _refused(self, path: str, caller: str, error: Exception) -> None:
        silent = self._seldom.passes()
        if silent is not None:
            more = {"silent_before": silent} if silent else {}
            self._log.warning("call refused", reason=type(error).__name__, method=path, caller=caller, **more)


def evidence_of(connection: HTTPConnection) -> Evidence:
    """What shows who asks."""
    state = connection.scope["state"]
    if state["uid"] is not None:
        return Evidence(uid=state["uid"])
    encrypted = connection.scope["scheme"] == "https"
    return Evidence(
        certificate=next(_names(state["certificate"] or {}), None) if encrypted else None,
        address=connection.client.host if connection.client else None,
        encrypted=encrypted,
        authorization=tuple(connection.headers.getlist("authorization")),
    )


def _names(certificate: Mapping[str, Any]) -> Iterator[str]:
    """As `ssl.SSLSocket.getpeercert` lays it out."""
    others = certificate.get("subjectAltName", ())
    for kind in _NAMES:
        yield from (name for each, name in others if each == kind)
    for part in certificate.get("subject", ()):
        yield from (name for each, name in part if each == "commonName")
