"""The models that are loaded: which of them a request means, and how they come and go while requests run.

Everything here belongs to the event loop; loading and waiting happen in threads. One change is made at a time.

A model that takes the place of another is loaded beside it where memory allows. Then requests move over at once, and
those of the old one go on to their end. Where both do not fit, the old one ends its requests and leaves first; if the
new one then cannot be loaded, the old one comes back. A check runs on the new model before any request goes to it, and
one that it does not pass was never there.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import structlog

from ..errors import EdgeQwenError, ModelNotFound, NoRoom, SessionError, Unavailable
from ..footprint import Footprint, megabytes
from ..memory import trim_after_unload
from ..package import Package
from .model import Model
from .repository import Repository, package_name

T = TypeVar("T")
Phase = Literal["verifying", "waiting", "loading", "checking", "draining"]
"""How far a model is on its way: its files are checked, those that it replaces leave, it is loaded, it is tried; and it
answers while those that it replaced end their last requests."""
State = Literal["available", "verifying", "waiting", "loading", "checking", "ready", "draining"]
Report = Callable[[Phase], None]
Check = Callable[[Model], Awaitable[None]]
"""Tries a model whose engine runs and to which no request goes yet. Raises EdgeQwenError to keep it out."""


@dataclass(frozen=True)
class Loader:
    """How packages become models; tests bring their own.

    Args:
        open: a package, of which it checks every file, in the variant that is named.
        load: makes a model of it, whose engine is not started.
        footprint: what it will take.
        available_bytes: what there is to take; None where nobody knows.
    """

    open: Callable[[Path, str | None], Package]
    load: Callable[[Package], Model]
    footprint: Callable[[Package], Footprint]
    available_bytes: Callable[[], int | None]


@dataclass(frozen=True)
class Listed:
    """A model or a package, and where it stands. `model` is there from the moment on that it is loaded."""

    name: str
    state: State
    model: Model | None = None


class Models:
    """Loaded models, the default first.

    Args:
        repository: the packages that may be loaded.
        drain_timeout_s: how long the requests of a model that leaves may go on.
    """

    def __init__(self, repository: Repository, loader: Loader, drain_timeout_s: float = 30.0) -> None:
        self._repository = repository
        self._loader = loader
        self._drain_timeout_s = drain_timeout_s
        self._ready: list[Model] = []
        self._leaving: list[Model] = []
        self._trying: list[Model] = []
        self._coming: dict[str, Phase] = {}  # by package
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False
        self.closed = asyncio.Event()
        """Set when the engines stop, for those who would wait for news of them."""
        self._changed: Callable[[], None] = lambda: None

    def when_changed(self, call: Callable[[], None]) -> None:
        """`call` is called, on the event loop, when a model has come or gone."""
        self._changed = call

    @property
    def ready(self) -> tuple[Model, ...]:
        """Those that take requests, the default first."""
        return tuple(self._ready)

    @property
    def loaded(self) -> tuple[Model, ...]:
        """Those, the ones that end their last requests, and one that is being tried."""
        return (*self._ready, *self._leaving, *self._trying)

    def get(self, name: str = "") -> Model:
        """The model of that name; without one, the default. Raises ModelNotFound, or Unavailable if it may come."""
        for model in self._ready:
            if not name or model.name == name:
                return model
        if self._closing:
            raise Unavailable("the daemon is shutting down; send the request to another one")
        if self._coming and (not name or any(name == each.name for each in self._leaving)):
            raise Unavailable("the model is being replaced; send the request again in some seconds")
        have = ", ".join(model.name for model in self._ready) or "none"
        raise ModelNotFound(f"no model of that name is loaded; there are: {have}" if name else "no model is loaded")

    def listed(self) -> list[Listed]:
        """Everything: what is loaded, then what comes, then what could."""
        found = [Listed(model.name, "ready", model) for model in self._ready]
        found += [Listed(model.name, "draining", model) for model in self._leaving]
        found += [Listed(name, phase) for name, phase in self._coming.items()]
        taken = {package_name(each.model.package.root) for each in found if each.model and each.model.package}
        names = (name for name in self._repository.names() if name not in taken | self._coming.keys())
        return [*found, *(Listed(name, "available") for name in names)]

    def add(self, model: Model, *, started: bool = False) -> None:
        """Takes a loaded model in, and starts its engine unless it is."""
        if not started:
            model.engine.start()
        self._put(model, len(self._ready))

    def require_room_for(self, package: Package) -> None:
        """Raises NoRoom if it does not fit beside what is loaded. The first is not measured: let it try."""
        if self._ready:
            self._fits_beside(self._loader.footprint(package), [])

    async def load(
        self,
        package: str | Path,
        variant: str | None = None,
        *,
        replace: str = "",
        default: bool = False,
        report: Report = lambda phase: None,
        check: Check | None = None,
    ) -> Model:
        """Loads a package of the repository, or one at a path; a model of the same name, and `replace`, give way to it.

        With `default`, or where it takes the default's place, it is the default from then on. A package that is loaded
        already is not loaded again, but tried too. Once begun it goes on, even if the caller is cancelled. Raises
        ModelNotFound, PackageError, SessionError, ConfigError, NoRoom or Unavailable, and what `check` raises.
        """
        if replace:
            self.get(replace)
        path = package if isinstance(package, Path) else self._repository.find(package)
        return await self._go_on(self._load(path, variant, replace, default, report, check))

    async def unload(self, name: str) -> None:
        """Takes a model out; its requests go on for `drain_timeout_s` at most. Raises as `get` does."""
        await self._go_on(self._unload(self.get(name).name))

    async def drain(self, timeout_s: float, at_once: asyncio.Event) -> bool:
        """Refuses all new requests and waits for those that run; True if all of them ended."""
        self._closing = True
        engines = [model.engine for model in self.loaded]
        for engine in engines:
            engine.drain()
        idle = [asyncio.create_task(asyncio.to_thread(engine.wait_idle, timeout_s)) for engine in engines]
        hurry = asyncio.create_task(at_once.wait())
        all_idle = asyncio.create_task(_all_true(idle))
        await asyncio.wait({all_idle, hurry}, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        return all_idle.done() and all_idle.result()

    async def close(self) -> None:
        """Stops every engine; requests that have not ended get an error."""
        self._closing = True
        await asyncio.gather(*(asyncio.to_thread(model.engine.stop) for model in self.loaded))
        self.closed.set()

    async def _go_on(self, change: Coroutine[Any, Any, T]) -> T:
        """One change after the other, each to its end: half of one is no state to be in."""

        async def alone() -> T:
            async with self._changing:
                if self._closing:
                    change.close()
                    raise Unavailable("the daemon is shutting down")
                return await change

        task = asyncio.create_task(alone())
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, EdgeQwenError):
            structlog.get_logger().error("a change of models failed", exc_info=error)

    async def _load(
        self, path: Path, variant: str | None, replace: str, default: bool, report: Report, check: Check | None
    ) -> Model:
        package = package_name(path)

        def tell(phase: Phase) -> None:
            if phase == "draining":  # it has come
                self._coming.pop(package, None)
            else:
                self._coming[package] = phase
            report(phase)

        try:
            tell("verifying")
            opened = await asyncio.to_thread(self._loader.open, path, variant)
            model = self._same(opened)
            if model is None:
                model = await self._bring(opened, replace, tell, check)
            else:
                if check is not None:
                    tell("checking")
                    await check(model)
                if replace and replace != model.name:
                    await self._take_place(model, replace, tell)
        finally:
            self._coming.pop(package, None)
        if default:
            self._ready.remove(model)
            self._ready.insert(0, model)
        return model

    def _same(self, package: Package) -> Model | None:
        """The model that this package is already."""
        return next((each for each in self._ready if each.facts.build_digest == package.build_digest), None)

    async def _take_place(self, model: Model, replace: str, tell: Report) -> None:
        """A model that is loaded, of one that gives way to it."""
        old = [self.get(replace)]
        tell("draining")
        self._ready.remove(model)
        self._ready.insert(self._ready.index(old[0]), model)
        await self._let_go(old)

    async def _bring(self, package: Package, replace: str, tell: Report, check: Check | None) -> Model:
        """Loads what was opened, and lets what it replaces go: before that, if there is no room for both."""
        names = {package.build.name, replace}
        old = [model for model in self._ready if model.name in names]
        at = self._ready.index(old[0]) if old else len(self._ready)
        back = [model.package for model in old if model.package]
        in_turn = not self._fits_beside(self._loader.footprint(package), old)
        if in_turn:
            tell("waiting")
            await self._let_go(old)
        tell("loading")
        try:
            model = await self._load_checked(package, tell, check)
        except Exception as error:
            traceback.clear_frames(error.__traceback__)  # the model is in them, and its memory is wanted now
            await asyncio.to_thread(trim_after_unload)
            if in_turn:
                await self._bring_back(back, at, error)
            raise
        self._put(model, at)
        if old:
            tell("draining")
            await self._let_go(old)
        return model

    async def _load_checked(self, package: Package, tell: Report, check: Check | None) -> Model:
        """A model whose engine runs."""
        model = await asyncio.to_thread(self._loader.load, package)
        model.engine.start()
        if check is None:
            return model
        self._trying.append(model)
        self._changed()
        tell("checking")
        try:
            await check(model)
        except BaseException:
            await asyncio.to_thread(model.engine.stop)  # should it hang, the watchdog still sees it
            raise
        finally:
            self._trying.remove(model)
            self._changed()
        return model

    def _fits_beside(self, need: Footprint, old: list[Model]) -> bool:
        """Whether there is room beside what is loaded. Raises NoRoom if there is none in place of `old` either."""
        room = self._loader.available_bytes()
        wanted = need.weights_bytes + need.kv_bytes  # libraries and scratch memory are there for the first already
        if room is None or wanted <= room:
            return True
        freed = sum(model.facts.weights_bytes for model in old)  # of its KV nobody knows how much was ever touched
        if wanted <= room + freed:
            return False
        gives = f", and {megabytes(freed)} more without {', '.join(model.name for model in old)}" if old else ""
        raise NoRoom(
            f"it takes {megabytes(wanted)} of memory, and there are {megabytes(room)}{gives}: unload a model, or name"
            " one to replace"
        )

    async def _bring_back(self, packages: list[Package], at: int, error: Exception) -> NoReturn:
        """Those that had to leave for one that did not come."""
        for place, package in enumerate(packages, at):
            model = await asyncio.to_thread(self._loader.load, package)
            model.engine.start()
            self._put(model, place)
        names = ", ".join(package.build.name for package in packages)
        raise SessionError(f"{error}; {names} answers again") from error

    async def _unload(self, name: str) -> None:
        await self._let_go([self.get(name)])

    def _put(self, model: Model, at: int) -> None:
        """From now on requests go to `model`, whose engine runs, and to none of its name that was there."""
        self._ready.insert(at, model)
        self._changed()

    async def _let_go(self, models: list[Model]) -> None:
        """Takes them out, waits for their last requests, and gives their memory back. `models` is empty then."""
        self._leaving += models
        self._ready = [model for model in self._ready if model not in models]
        self._changed()
        while models:
            await self._end(models.pop())
        await asyncio.to_thread(trim_after_unload)

    async def _end(self, model: Model) -> None:
        model.engine.drain()
        drained = await asyncio.to_thread(model.engine.wait_idle, self._drain_timeout_s)
        await asyncio.to_thread(model.engine.stop, "the model was unloaded before the request had ended")
        self._leaving.remove(model)
        self._changed()
        structlog.get_logger().info("unloaded", model=model.name, drained=drained)


async def _all_true(tasks: list[asyncio.Task[bool]]) -> bool:
    return all([await task for task in tasks])
