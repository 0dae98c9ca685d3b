"""From a configuration to a daemon that serves, and from a signal to its end."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..access.address import Address
from ..configuration.config import Config
from ..errors import SessionError
from ..memory import use_one_heap
from .reload import Reloader

if TYPE_CHECKING:  # loaded late, when there is one heap and gRPC knows what to say
    from ..health.caretaker import PowerMode
    from .assembly import Daemon

_GOODBYE_S = 1.0  # how long the last lines of the log may take to reach their reader
_POWER_SIGNALS: Mapping[signal.Signals, PowerMode] = {signal.SIGUSR1: "low", signal.SIGUSR2: "normal"}


async def serve(read: Callable[[], Config]) -> None:
    """Loads, serves, drains and returns. `read` reads the configuration, again for each reload."""
    config = read()
    faulthandler.enable(2)  # when the watchdog's SIGABRT ends it, the journal has where each thread was, and no values
    for number in _POWER_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # while it loads, they shall not end it
    use_one_heap()
    # gRPC would write lines of its own past the log, such as one for whoever knocks at a TLS port.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # The engine must not wait the default 5 ms while asyncio sends what the last step gave.
    sys.setswitchinterval(0.0005)
    started_s = time.monotonic()
    from ..logs import configure, open_stderr

    stderr = open_stderr(config.log_format)
    configure(config.log_format, config.log_level, stderr)
    try:
        await _serve(read, config, started_s, lambda new: configure(new.log_format, new.log_level, stderr))
    finally:
        stderr.close(_GOODBYE_S)


async def _serve(
    read: Callable[[], Config], config: Config, started_s: float, configure_log: Callable[[Config], None]
) -> None:
    from .assembly import Daemon
    from .listening import make_entrance, make_http, make_rules
    from .observability import Observability
    from .startup import Startup
    from .supervision import tell

    off_loopback = config.tls is not None or config.insecure
    addresses = [Address(listen, off_loopback=off_loopback) for listen in config.listen]
    for address in addresses:
        address.require_free()  # before the load: a second daemon must find out at once
    entrance = make_entrance(config)
    http = make_http(config, lambda: entrance.gate.rules, entrance.errors)
    daemon = Daemon.load(config, entrance, Startup(tell), Observability.open(config, errors=entrance.errors), http)
    reloader = Reloader(read, config, configure_log)
    reloader.add(lambda new: entrance.reload(make_rules(new)))
    if http is not None:
        reloader.add(lambda _: http.reload())
    await run(daemon, addresses, reloader, started_s)


async def run(daemon: Daemon, addresses: Sequence[Address], reloader: Reloader, started_s: float) -> None:
    """Serves until a signal says to leave, then drains. `started_s` is when loading began, on the monotonic clock."""
    import structlog

    from .supervision import stopping, supervised

    log = structlog.get_logger()
    signals = _Signals(daemon.set_power_mode)
    try:
        listen = " ".join(await daemon.listen(addresses))
        log.info("ready", listen=listen, seconds=round(time.monotonic() - started_s, 2), **daemon.summary)
        daemon.follow(reloader.config)
        reloader.add(daemon.follow)
        async with supervised(daemon.alive, reloader, f"STATUS=serving {daemon.summary['model']} at {listen}"):
            lost = await _first_of(daemon.lost, signals.first)
            timeout_s = reloader.config.drain_timeout_s
            stopping(timeout_s)
            log.info("draining", timeout_s=timeout_s)
            drained = await daemon.drain(timeout_s, signals.second)
    finally:
        await daemon.close()
        for address in addresses:
            address.release()
        signals.forget()
    log.info("stopped", drained=drained)
    if lost:
        raise SessionError("what is to serve could not be loaded in this process: another start serves it")


async def _first_of(lost: asyncio.Event, told: asyncio.Event) -> bool:
    """Waits for either; whether it was `lost`."""
    waiting = [asyncio.create_task(event.wait()) for event in (lost, told)]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    return not told.is_set()


class _Signals:
    """The first and the second request to leave. A third gets the system's answer: the process ends on the spot.

    Until then `set_power_mode` hears of those that save power or end that.
    """

    NUMBERS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, set_power_mode: Callable[[PowerMode], None]) -> None:
        self.first, self.second = asyncio.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()
        for number in self.NUMBERS:
            self._loop.add_signal_handler(number, self._received)
        for number, mode in _POWER_SIGNALS.items():
            self._loop.add_signal_handler(number, set_power_mode, mode)

    def _received(self) -> None:
        if not self.first.is_set():
            self.first.set()
            return
        self.second.set()
        self.forget()

    def forget(self) -> None:
        """From now on signals do what the system has them do."""
        for number in (*self.NUMBERS, *_POWER_SIGNALS):
            self._loop.remove_signal_handler(number)
