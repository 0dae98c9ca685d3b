"""Who is calling: set where a call comes in, and read by what answers it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

Role = Literal["generate", "observe", "admin"]
"""`generate` asks the model, `observe` reads health and telemetry, `admin` changes what the daemon does."""

EVERY_ROLE: frozenset[Role] = frozenset({"generate", "observe", "admin"})


@dataclass(frozen=True)
class Caller:
    """A client that was told apart from others. `name` is for logs, limits and fairness: never a secret."""

    name: str
    roles: frozenset[Role]


_CALLER: ContextVar[Caller] = ContextVar("caller", default=Caller("local", EVERY_ROLE))  # noqa: B039 - it is frozen


def current() -> Caller:
    """The caller of the call that this task answers; in no call, this process itself."""
    return _CALLER.get()


def enter(caller: Caller) -> None:
    """From here on, this task answers `caller`."""
    _CALLER.set(caller)
