"""How many calls are open, so that whoever ends the server can wait for the last word of each."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio


class OpenCalls:
    """Counts calls from `add` until gRPC is done with each."""

    def __init__(self) -> None:
        self._open = 0
        self._none = asyncio.Event()
        self._none.set()

    def add(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """The call of `context` is open until its status is on its way."""
        self._open += 1
        self._none.clear()
        context.add_done_callback(self._ended)  # type: ignore[arg-type]  # the stubs ask for a class of their own

    async def wait_none(self) -> None:
        """Returns when no call is open: the last messages and the status of each are on their way."""
        await self._none.wait()

    def _ended(self, _: object) -> None:
        self._open -= 1
        if self._open == 0:
            self._none.set()
