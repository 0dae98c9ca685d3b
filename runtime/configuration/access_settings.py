"""Settings of who may call: their forms, and what of them does not go together."""

from __future__ import annotations

import pwd
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from ..access.caller import Role
from ..access.tokens import NAME, is_digest
from ..errors import ConfigError, Fault
from ..validation import StrictModel

TokenName = Annotated[str, Field(pattern=f"^{NAME}$")]
Identity = Annotated[str, Field(pattern=r"^(uid:(\d{1,10}|\*)|user:[^:*]+|(certificate|token|address):.+)$")]
OneClient = Annotated[str, Field(pattern=r"^(uid:\d{1,10}|user:[^:*]+|(certificate|token|address):[^*]+)$")]
"""An identity that no more than one client has."""
_PathSetting = Annotated[Path, Field(strict=False)]


def _digest(text: str) -> str:
    """Somebody may have put the token itself here, so what it is must not be shown."""
    if not is_digest(text):
        raise ValueError(
            "must be `sha256:` and 64 hexadecimal digits, as `edgeqwen token` prints them (not shown here)"
        )
    return text


TokenDigest = Annotated[str, AfterValidator(_digest)]


class Tls(StrictModel):
    """PEM files. They are read again when they change."""

    certificate: _PathSetting = Field(description="Of this daemon, with those that lead to its root behind it.")
    key: _PathSetting = Field(description="Its private key, without a password.")
    client_ca: _PathSetting | None = Field(
        default=None, description="Who signs certificates of clients; with it, every TCP client must have one."
    )


def roles_of(clients: Mapping[str, Sequence[Role]]) -> dict[str, frozenset[Role]]:
    """`clients`, with the ids of users for their names. Raises KeyError for a user that there is not."""
    return {caller_name(client): frozenset(roles) for client, roles in clients.items()}


def caller_name(client: str) -> str:
    """What a client of the configuration is called when it calls. Raises KeyError for a user that there is not."""
    kind, _, name = client.partition(":")
    return f"uid:{pwd.getpwnam(name).pw_uid}" if kind == "user" else client


def require_consistent(
    tls: Tls | None, tokens: Mapping[str, str], clients: Mapping[str, Iterable[str]], *, insecure: bool
) -> None:
    """Raises ConfigError with what is wrong with settings that are right each by itself.

    Args:
        clients: that are named, by the setting that names them.
    """
    faults = []
    if tls is not None and tls.client_ca is None and not tokens:
        faults.append(Fault("tls", "needs `client_ca` or `tokens` beside it: nothing else tells clients apart"))
    if tls is not None and insecure:
        faults.append(Fault("insecure", "is for TCP without TLS: remove it, or `tls`"))
    for setting, named in clients.items():
        faults += _client_faults(setting, named, tokens)
    if faults:
        raise ConfigError(faults, "configuration")


def _client_faults(setting: str, clients: Iterable[str], tokens: Mapping[str, str]) -> Iterator[Fault]:
    seen: dict[str, str] = {}
    for client in clients:
        kind, _, name = client.partition(":")
        if kind == "token" and name not in {"*", *tokens}:
            yield Fault(f"{setting}.{client}", "is no name in `tokens`")
        try:
            other = seen.setdefault(caller_name(client), client)
        except KeyError:
            yield Fault(f"{setting}.{client}", "is no user of this machine")
        else:
            if other != client:
                yield Fault(f"{setting}.{client}", f"is the same user as {other}")
