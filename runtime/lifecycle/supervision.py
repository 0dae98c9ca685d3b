"""What systemd hears of a daemon that runs, and what it may ask of it: readiness, the watchdog, reloads."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import structlog

from ..notify import extend_timeout, notify, reloading, watchdog_interval_s
from .reload import Reloader
from .watchdog import feed

_LEAVE_S = 5.0  # what leaving may take beside the drain


def tell(*state: str) -> None:
    """`notify`, for those whom it does not stop: whoever started the daemon finds out, and its clients need not."""
    try:
        notify(*state)
    except OSError as error:
        structlog.get_logger().warning("cannot reach NOTIFY_SOCKET", state=state[0], detail=str(error))


def stopping(drain_timeout_s: float) -> None:
    """The daemon leaves, and takes so long."""
    tell("STOPPING=1", extend_timeout(drain_timeout_s + _LEAVE_S))


@asynccontextmanager
async def supervised(alive: Callable[[], bool], reloader: Reloader, *ready: str) -> AsyncIterator[None]:
    """Within, the daemon is ready, its watchdog is fed while `alive` says so, and SIGHUP reloads.

    Args:
        ready: further lines for systemd, such as STATUS=...
    """
    log = structlog.get_logger()
    loop = asyncio.get_running_loop()
    interval_s = watchdog_interval_s()
    watchdog = None
    if interval_s is not None:
        stalled = lambda: log.error("the engine makes no step: the watchdog is no longer fed")  # noqa: E731
        watchdog = asyncio.create_task(feed(alive, lambda: tell("WATCHDOG=1"), interval_s, stalled=stalled))
    loop.add_signal_handler(signal.SIGHUP, reload, reloader)
    try:
        tell("READY=1", *ready)
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        if watchdog is not None:
            watchdog.cancel()
            with suppress(asyncio.CancelledError):
                await watchdog


def reload(reloader: Reloader) -> None:
    """Reads the configuration again; systemd hears of it, and the log what came of it."""
    log = structlog.get_logger()
    tell(*reloading())
    done = reloader.reload()
    for error in done.errors:
        log.error("not reloaded", detail=error)
    if done.need_restart:
        log.warning("not reloaded: these settings differ and wait for a restart", settings=done.need_restart)
    if done.changed or not done.errors:
        log.info("reloaded", changed=done.changed)
    tell("READY=1")
