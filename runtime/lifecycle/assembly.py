"""The daemon in one piece: models, services and ways in, from the configuration to their end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..access.address import Address
from ..access.clients import Clients
from ..access.entrance import Entrance
from ..configuration.config import Config
from ..configuration.served import watched_folders
from ..errors import EdgeQwenError
from ..health.battery import battery_percent
from ..health.caretaker import DEFAULT_LIMIT_C, Caretaker, PowerMode, hottest_c
from ..health.checks import Check
from ..health.health import Health
from ..memory import trim_after_load
from ..memory_limits import available_bytes
from ..models.model import Model, footprint_of_loaded, load_model
from ..models.registry import Loader, Models
from ..models.repository import Repository
from ..package import Package, variants_of
from ..rollout.boot import Boot, hold
from ..rollout.canary import Canary, Pause
from ..rollout.gate import Terms
from ..rollout.rollouts import Rollouts
from ..sensing.board import Board
from ..store.store import Step, Store
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
        rollouts: Rollouts | None = None,
        held: ExitStack | None = None,
    ) -> None:
        self._models = models
        self._rollouts = rollouts
        self._held = held or ExitStack()
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
        """Loads the packages; nothing listens yet. Raises PackageError, ConfigError, SessionError or StoreError."""
        clients = Clients(config.limits.book)
        packages = Packages(config, startup, clients, observability)
        with packages.hold() as held:
            models = packages.models()
            board = Board(folders=watched_folders(config))
            caretaker = _make_caretaker(models, config)
            rollouts = packages.rollouts(models, caretaker)
            services = make_services(
                models,
                config.max_message_bytes,
                entrance,
                clients,
                board,
                caretaker,
                rollouts,
                interceptors=observability.interceptors,
            )
            trim_after_load()
            return cls(models, entrance, services, observability, http, rollouts, held.pop_all())

    @property
    def summary(self) -> dict[str, str | int]:
        """Of the default model."""
        names = ("precision", "provider", "variant", "prefill_threads", "decode_threads", "threads_from", "slots_from")
        model, *others = self._models.ready
        summary = {name: getattr(model.facts, name) for name in names} | {"slots": model.engine.stats().slots}
        more = {"more_models": ", ".join(each.name for each in others)} if others else {}
        return {"model": model.name, **summary, **more}

    @property
    def lost(self) -> asyncio.Event:
        """Set when only another start can serve what should be served."""
        return self._rollouts.lost if self._rollouts is not None else asyncio.Event()

    def follow(self, config: Config) -> None:
        """Takes what of `config` may change while it runs."""
        self._services.caretaker.set_bounds(config.stall_timeout_s, config.low_power_battery_percent)
        self._services.clients.follow(config.limits.book)

    async def listen(self, addresses: Sequence[Address]) -> list[str]:
        """Starts the servers; returns where they listen. What keeps them from it is no fault of a package on trial."""
        try:
            return await self._listen(addresses)
        except EdgeQwenError:
            await self._excuse()
            raise

    async def _listen(self, addresses: Sequence[Address]) -> list[str]:
        listen = [address.bind(self._entrance.add_port) for address in addresses]
        await self._services.caretaker.start()
        await self._services.server.start()
        self._entrance.start()
        if self._http is not None:
            listen.append(f"HTTP {await self._http.start(self._models)}")
        await self._observability.start(self._services.telemetry.snapshot, self._models)
        if self._rollouts is not None:
            await self._rollouts.start()
        return listen

    async def _excuse(self) -> None:
        if self._rollouts is not None:
            await self._rollouts.stop()

    def alive(self) -> bool:
        """Whether every engine that has work gets on. Never blocks."""
        return self._services.caretaker.alive()

    def set_power_mode(self, mode: PowerMode) -> None:
        """Saves power, or no longer, as a signal says."""
        self._services.caretaker.set_power_mode(mode, by="signal")

    async def drain(self, timeout_s: float, at_once: asyncio.Event) -> bool:
        """Refuses new requests and waits for the running ones; True if all of them ended."""
        await self._services.caretaker.drain()
        _, drained = await asyncio.gather(self._excuse(), self._models.drain(timeout_s, at_once))
        return drained

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
        self._held.close()


class Packages:
    """What the configuration has served: packages that it names, or the active one of a store."""

    def __init__(self, config: Config, startup: Startup, clients: Clients, observability: Observability) -> None:
        self._config = config
        self._startup = startup
        self._clients = clients
        self._observability = observability
        self._store = Store(config.store.path) if config.store is not None else None
        self._unnoted: Sequence[Step] = ()

    def hold(self) -> ExitStack:
        """The store, if there is one, until it is closed. Raises StoreBusy."""
        return ExitStack() if self._store is None else hold(self._store)

    def models(self) -> Models:
        """Those that are loaded, and what may come later."""
        config = self._config
        named = [path for path in (config.package, *config.more_packages) if path is not None]
        folder = config.packages_dir or (config.package.parent if config.package is not None else None)
        loader = Loader(self._open, self._load, lambda package: footprint_of_loaded(package, config), available_bytes)
        models = Models(Repository(folder, named), loader, config.drain_timeout_s)
        if self._store is not None:
            boot = Boot(self._store, self._load_at_start, self._try_at_start)
            models.add(boot.model(), started=True)
            self._unnoted = boot.unnoted
        for path in named:
            package = self._open_at_start(path)
            models.require_room_for(package)
            models.add(self._load(package))
        return models

    def rollouts(self, models: Models, caretaker: Caretaker) -> Rollouts | None:
        """Changes of what is served; None without a store."""
        if self._store is None or self._config.store is None:
            return None
        said = self._config.store
        terms = Terms(said.commit_after_s, said.commit_after_calls)
        return Rollouts(
            self._store,
            models,
            self._canary(),
            terms,
            stalled=caretaker.stalled,
            unnoted=self._unnoted,
            budget_bytes=said.budget_bytes,
        )

    def _open(self, path: Path, variant: str | None, progress: Callable[[int], None] = lambda _: None) -> Package:
        if variant is None and self._config.variant in variants_of(path):
            variant = self._config.variant
        package = Package.open(path, variant, verify=self._config.verify, progress=progress)
        package.require_this_machine(simulate=self._config.simulate)
        return package

    def _load(self, package: Package) -> Model:
        adapters_dir = self._config.adapters_dir if self._is_first(package.root) else None
        model = load_model(package, self._config, adapters_dir, clients=self._clients)
        self._observability.observe(model)
        return model

    def _open_at_start(self, path: Path) -> Package:
        package = self._open(
            path, self._config.variant if path == self._config.package else None, self._startup.checked
        )
        self._startup.loading(package.build.memory.weights_bytes)
        return package

    def _load_at_start(self, path: Path) -> Model:
        return self._load(self._open_at_start(path))

    def _try_at_start(self, model: Model) -> list[Check]:
        self._startup.trying()
        return self._canary().try_at_start(model)

    def _is_first(self, root: Path) -> bool:
        """Whether the package is the one that the daemon is there for, which alone has adapters beside its own."""
        return root == self._config.package or (self._store is not None and root.parent == self._store.packages)

    def _canary(self) -> Canary:
        def celsius(model: Model) -> float | None:
            return hottest_c(Board(sensors=model.sensors).read())

        def limit_c(model: Model) -> float:
            return DEFAULT_LIMIT_C if model.limit_c is None else model.limit_c

        return Canary(celsius, limit_c, self._config.stall_timeout_s, Pause())


def _make_caretaker(models: Models, config: Config) -> Caretaker:

    sensors = [pattern for model in models.ready for pattern in model.sensors]
    return Caretaker(
        models,
        Health(),
        Board(sensors=sensors, folders=watched_folders(config)).read,
        stall_timeout_s=config.stall_timeout_s,
        battery=battery_percent,
        low_power_battery_percent=config.low_power_battery_percent,
    )
