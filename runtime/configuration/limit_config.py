"""The part of the configuration that limits clients."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..access.limits import LimitBook, Limits
from ..validation import StrictModel
from .access_settings import OneClient, caller_name

_Count = Annotated[int, Field(ge=1, le=1 << 31)]


class ClientLimits(StrictModel):
    """See `Limits`. What a client's own limits leave out is that of the default; null lifts it."""

    requests_per_minute: _Count | None = None
    tokens_per_minute: _Count | None = None
    concurrent_requests: _Count | None = None
    prompt_tokens: _Count | None = None
    output_tokens: _Count | None = None


class LimitConfig(StrictModel):
    """Limits of every client that is not named, and of those that are."""

    default: ClientLimits = ClientLimits()
    clients: dict[OneClient, ClientLimits] = Field(default_factory=dict)

    @property
    def book(self) -> LimitBook:
        """With the defaults filled in, and by the names that clients have when they call."""
        default = self.default.model_dump()
        named = {
            caller_name(client): Limits(**(default | its.model_dump(exclude_unset=True)))
            for client, its in self.clients.items()
        }
        return LimitBook(Limits(**default), named)
