"""The daemon in one piece: models, services and ways in, from the configuration to their end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..access.address import Address
from ..access.clients import Clients
from ..access.entrance import Entrance
from ..configuration.config import Config
from ..health.battery import battery_percent
from ..health.caretaker import Caretaker, PowerMode
from ..health.health import Health
from ..memory import trim_after_load
from ..memory_limits import available_bytes
from ..models.model import Model, footprint_of_loaded, load_model
from ..models.registry import Loader, Models
from ..models.repository import Repository
from ..package import Package, variants_of
from ..sensing.board import Board
from .observability import Observability
from .services import Services, make_services
from .startup import Startup

if TYPE_CHECKING:
    from ..http.listener import HttpListener

_GOODBYE_S = 1.0  # how long the last messages may take to reach their clients


class Daemon:
    """The loaded models and the server in front of them. `summary` describes the default one in the log."""

    def __init__(
        self,
        models: Models,
        entrance: Entrance,
        services: Services,
        observability: Observability,
        http: HttpListener | None = None,
    ) -> None:
        self._models = models
        self._entrance = entrance
        self._http = http
        self._services = services
        self._observability = observability

    @classmethod
    def load(
        cls,
        config: Config,
        entrance: Entrance,
        startup: Startup,
        observability: Observability,
        http: HttpListener | None = None,
    ) -> Daemon:
        """Loads the packages; nothing listens yet. Raises PackageError, ConfigError or SessionError."""
        clients = Clients(config.limits.book)
        models = _load_models(config, startup, clients, observability)
        board = Board(folders=(config.state_dir, config.package))
        caretaker = _make_caretaker(models, config)
        services = make_services(
            models,
            config.max_message_bytes,
            entrance,
            clients,
            board,
            caretaker,
            interceptors=observability.interceptors,
        )
        trim_after_load()
        return cls(models, entrance, services, observability, http)

    @property
    def summary(self) -> dict[str, str | int]:
        """Of the default model."""
        names = ("precision", "provider", "variant", "prefill_threads", "decode_threads", "threads_from", "slots_from")
        model, *others = self._models.ready
        summary = {name: getattr(model.facts, name) for name in names} | {"slots": model.engine.stats().slots}
        more = {"more_models": ", ".join(each.name for each in others)} if others else {}
        return {"model": model.name, **summary, **more}

    def follow(self, config: Config) -> None:
        """Takes what of `config` may change while it runs."""
        self._services.caretaker.set_bounds(config.stall_timeout_s, config.low_power_battery_percent)

    async def listen(self, addresses: Sequence[Address]) -> list[str]:
        """Starts the servers; returns where they listen."""
        listen = [address.bind(self._entrance.add_port) for address in addresses]
        await self._services.caretaker.start()
        await self._services.server.start()
        self._entrance.start()
        if self._http is not None:
            listen.append(f"HTTP {await self._http.start(self._models)}")
        await self._observability.start(self._services.telemetry.snapshot, self._models)
        return listen

    def alive(self) -> bool:
        """Whether every engine that has work gets on. Never blocks."""
        return self._services.caretaker.alive()

    def set_power_mode(self, mode: PowerMode) -> None:
        """Saves power, or no longer, as a signal says."""
        self._services.caretaker.set_power_mode(mode, by="signal")

    async def drain(self, timeout_s: float, at_once: asyncio.Event) -> bool:
        """Refuses new requests and waits for the running ones; True if all of them ended."""
        await self._services.caretaker.drain()
        return await self._models.drain(timeout_s, at_once)

    async def close(self) -> None:
        """Ends the engines, then the server; requests that have not ended get an error."""
        await self._services.caretaker.stop()
        await self._models.close()
        # A server that is told to stop while a call is open closes the connection right behind the call's end, and a
        # client that is just writing then loses what it has not read. Told afterwards, it waits until the client has.
        with suppress(TimeoutError):
            await asyncio.wait_for(self._services.calls.wait_none(), _GOODBYE_S)
        await self._services.server.stop(_GOODBYE_S)
        await self._entrance.close()
        if self._http is not None:
            await self._http.close()
        await self._observability.close()


def _load_models(config: Config, startup: Startup, clients: Clients, observability: Observability) -> Models:
    """The packages that the configuration names, and what may come later."""

    def open_package(path: Path, variant: str | None, progress: Callable[[int], None] = lambda _: None) -> Package:
        if variant is None and config.variant in variants_of(path):
            variant = config.variant
        package = Package.open(path, variant, verify=config.verify, progress=progress)
        package.require_this_machine(simulate=config.simulate)
        return package

    def load(package: Package) -> Model:
        adapters_dir = config.adapters_dir if package.root == config.package else None
        model = load_model(package, config, adapters_dir, clients=clients)
        observability.observe(model)
        return model

    paths = [config.package, *config.more_packages]
    loader = Loader(open_package, load, lambda package: footprint_of_loaded(package, config), available_bytes)
    models = Models(Repository(config.packages_dir or config.package.parent, paths), loader, config.drain_timeout_s)
    for path in paths:
        package = open_package(path, config.variant if path == config.package else None, startup.checked)
        startup.loading(package.build.memory.weights_bytes)
        models.require_room_for(package)
        models.add(load(package))
    return models


def _make_caretaker(models: Models, config: Config) -> Caretaker:

    sensors = [pattern for model in models.ready for pattern in model.sensors]
    return Caretaker(
        models,
        Health(),
        Board(sensors=sensors, folders=(config.state_dir, config.package)).read,
        stall_timeout_s=config.stall_timeout_s,
        battery=battery_percent,
        low_power_battery_percent=config.low_power_battery_percent,
    )
