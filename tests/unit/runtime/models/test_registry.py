"""Models come, take each other's place and go while requests run, and none of it is seen by those requests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
import pytest
from fakes import ScriptedSession
from unit.runtime.fake_engine import TIMEOUT_S, byte_tokenizer, make_reader, serving

from edgeqwen.v1 import generation_pb2 as pb
from edgeqwen.v1 import generation_pb2_grpc, models_pb2, models_pb2_grpc
from runtime.api.generator import Generator
from runtime.api.models_service import ModelsService
from runtime.api.open_calls import OpenCalls
from runtime.api.service import GenerationService
from runtime.engine.engine import Engine
from runtime.errors import ModelNotFound, NoRoom, PackageCorrupt, SessionError, Unavailable
from runtime.footprint import Footprint
from runtime.models.model import Model, ModelFacts
from runtime.models.registry import Loader, Models
from runtime.models.repository import Repository

MB = 1_000_000


@dataclass(frozen=True)
class _Build:
    name: str


@dataclass(frozen=True)
class _Package:
    """What `Models` looks at."""

    root: Path
    build: _Build
    build_digest: str


@dataclass
class Shelf:
    """Packages of 100 MB each, named MODEL@VERSION, and memory for them. All tokens of one are the same."""

    folder: Path
    free_bytes: int | None = None
    damaged: set[str] = field(default_factory=set)
    failing: set[str] = field(default_factory=set)
    says: dict[str, int] = field(default_factory=dict)
    gate: threading.Semaphore | None = None
    log: list[str] = field(default_factory=list)
    resident: int = 0

    def put(self, *names: str) -> None:
        for name in names:
            (self.folder / f"{name}.ortpackage").mkdir()
            (self.folder / f"{name}.ortpackage/manifest.json").touch()

    def open(self, path: Path, variant: str | None) -> _Package:
        name = path.name.removesuffix(".ortpackage")
        if name in self.damaged:
            raise PackageCorrupt(f"{name} is corrupt")
        return _Package(path, _Build(name.partition("@")[0]), name)

    def load(self, package: _Package) -> Model:
        name = package.build_digest
        self.log.append(f"load {name}")
        if name in self.failing:
            raise SessionError(f"{name} does not run")
        says = self.says.setdefault(name, 1 + len(self.says))
        facts = ModelFacts(package.build.name, build_digest=name, weights_bytes=100 * MB)
        return Model(_Counted(self, name, self._script(says)), make_reader(), facts, (), package)

    def _script(self, says: int):  # type: ignore[no-untyped-def]
        def script(history: tuple[int, ...]) -> int:
            if self.gate and len(history) > 3:  # the first token needs no permission
                assert self.gate.acquire(timeout=TIMEOUT_S)
            return says

        return script

    def footprint(self, package: _Package) -> Footprint:
        return Footprint(100 * MB, 0, 1, 1, 1, 0)

    def available_bytes(self) -> int | None:
        return None if self.free_bytes is None else self.free_bytes - 100 * MB * self.resident

    def models(self, *loaded: str, **more: float) -> Models:
        models = Models(
            Repository(self.folder), Loader(self.open, self.load, self.footprint, self.available_bytes), **more
        )
        for name in loaded:
            models.add(self.load(self.open(self.folder / f"{name}.ortpackage", None)))
        return models


class _Counted(Engine):
    """Knows how many of it run at once."""

    def __init__(self, shelf: Shelf, name: str, script) -> None:  # type: ignore[no-untyped-def]
        limits = {"queue_limit": 64, "prefill_chunk_tokens": 8, "kv_budget_tokens": 1000}
        super().__init__(ScriptedSession(script), byte_tokenizer(), eos_token_ids=frozenset(), **limits)
        self._shelf, self._name = shelf, name

    def start(self) -> None:
        self._shelf.resident += 1
        super().start()

    def stop(self, reason: str = "") -> None:
        if self._shelf.resident and self._thread.is_alive():
            self._shelf.resident -= 1
            self._shelf.log.append(f"stop {self._name}")
        super().stop(reason)


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    shelf = Shelf(tmp_path)
    shelf.put("a@1", "a@2", "b@1")
    return shelf


@asynccontextmanager
async def served(models: Models) -> AsyncIterator[grpc.aio.Channel]:
    def add(server: grpc.aio.Server) -> None:
        service = GenerationService(models, Generator(models), OpenCalls())
        generation_pb2_grpc.add_GenerationServicer_to_server(service, server)
        models_pb2_grpc.add_ModelsServicer_to_server(ModelsService(models), server)

    async with serving(add) as channel:
        try:
            yield channel
        finally:
            await models.close()


def ask(channel: grpc.aio.Channel, model: str = "", tokens: int = 20):  # type: ignore[no-untyped-def]
    stub = generation_pb2_grpc.GenerationStub(channel)
    return stub.Generate(pb.GenerateRequest(prompt="abc", max_tokens=tokens, ignore_eos=True, model=model))


async def tokens_of(call) -> list[int]:  # type: ignore[no-untyped-def]
    """Those that still come."""
    tokens = []
    while isinstance(event := await call.read(), pb.GenerateResponse):
        tokens += event.delta.token_ids
    return tokens


async def load(channel: grpc.aio.Channel, package: str, **more: object) -> list[str]:
    """The states that it tells."""
    stub = models_pb2_grpc.ModelsStub(channel)
    replies = stub.LoadModel(models_pb2.LoadModelRequest(package=package, **more))
    return [models_pb2.ModelState.Name(reply.state).removeprefix("MODEL_STATE_") async for reply in replies]


async def states(channel: grpc.aio.Channel) -> list[str]:
    """Each as `NAME STATE`."""
    listed = await models_pb2_grpc.ModelsStub(channel).ListModels(models_pb2.ListModelsRequest())
    return [f"{each.name} {models_pb2.ModelState.Name(each.state)[len('MODEL_STATE_') :]}" for each in listed.models]


@contextmanager
def refused(code: grpc.StatusCode, words: str) -> Iterator[None]:
    with pytest.raises(grpc.aio.AioRpcError, match=words) as error:
        yield
    assert error.value.code() is code


async def test_each_request_goes_to_the_model_that_it_names(shelf: Shelf) -> None:
    """Without a name to the default, which is the first; for one that is not found the message tells which are."""
    async with served(shelf.models("a@1", "b@1")) as channel:
        assert set(await tokens_of(ask(channel))) == {shelf.says["a@1"]}
        assert set(await tokens_of(ask(channel, "b"))) == {shelf.says["b@1"]}
        with refused(grpc.StatusCode.NOT_FOUND, "there are: a, b"):
            await tokens_of(ask(channel, "c"))
        await load(channel, "b@1", default=True)
        assert set(await tokens_of(ask(channel))) == {shelf.says["b@1"]}
        batch = pb.GenerateBatchRequest(requests=[pb.GenerateRequest(prompt="abc", max_tokens=2)], model="a")
        [reply] = [r async for r in generation_pb2_grpc.GenerationStub(channel).GenerateBatch(batch)]
        assert set(reply.completion.delta.token_ids) == {shelf.says["a@1"]}


async def test_what_is_there_is_listed(shelf: Shelf) -> None:
    """Loaded models by their names, other packages by theirs."""
    async with served(shelf.models("a@1")) as channel:
        assert await states(channel) == ["a READY", "a@2 AVAILABLE", "b@1 AVAILABLE"]
        assert await load(channel, "b@1.ortpackage") == ["VERIFYING", "LOADING", "READY"]
        assert await states(channel) == ["a READY", "b READY", "a@2 AVAILABLE"]
        await models_pb2_grpc.ModelsStub(channel).UnloadModel(models_pb2.UnloadModelRequest(name="a"))
        assert await states(channel) == ["b READY", "a@1 AVAILABLE", "a@2 AVAILABLE"]


async def test_a_swap_refuses_nobody_where_both_fit(shelf: Shelf) -> None:
    """While requests keep coming, each gets an answer of one model alone; those that ran stay with the old one."""
    shelf.gate = threading.Semaphore(0)
    async with served(shelf.models("a@1")) as channel:
        before = ask(channel)
        await before.read()
        swap = asyncio.create_task(load(channel, "a@2"))
        while "a DRAINING" not in await states(channel):
            await asyncio.sleep(0)
        during = [asyncio.create_task(tokens_of(ask(channel))) for _ in range(16)]
        shelf.gate.release(10_000)
        assert set(await tokens_of(before)) == {shelf.says["a@1"]}
        answers = await asyncio.gather(*during)
        assert all(len(answer) == 20 and len(set(answer)) == 1 for answer in answers)
        assert (await swap)[-1] == "READY"
        assert set(await tokens_of(ask(channel, "a"))) == {shelf.says["a@2"]}
    assert shelf.log[:3] == ["load a@1", "load a@2", "stop a@1"]


async def test_where_both_do_not_fit_the_old_one_leaves_first(shelf: Shelf) -> None:
    """Never are both loaded; requests that ran end on the old one, others are told to come again."""
    shelf.gate = threading.Semaphore(0)
    shelf.free_bytes = 150 * MB
    async with served(shelf.models("a@1")) as channel:
        before = ask(channel)
        await before.read()
        swap = asyncio.create_task(load(channel, "a@2"))
        while "a@2 WAITING" not in await states(channel):
            await asyncio.sleep(0)
        with refused(grpc.StatusCode.UNAVAILABLE, "is being replaced"):
            await tokens_of(ask(channel))
        shelf.gate.release(10_000)
        assert set(await tokens_of(before)) == {shelf.says["a@1"]}
        assert await swap == ["VERIFYING", "WAITING", "LOADING", "READY"]
        assert set(await tokens_of(ask(channel))) == {shelf.says["a@2"]}
    assert shelf.log[:3] == ["load a@1", "stop a@1", "load a@2"]


async def test_the_old_one_comes_back_if_the_new_one_does_not_run(shelf: Shelf) -> None:
    """With its place as the default; where both fit it was never away."""
    shelf.failing.add("b@1")
    for free_bytes in (150 * MB, None):
        shelf.free_bytes = free_bytes
        async with served(shelf.models("a@1")) as channel:
            with refused(grpc.StatusCode.INTERNAL, "b@1 does not run" + ("; a answers again" if free_bytes else "")):
                await load(channel, "b@1", replace="a")
            assert set(await tokens_of(ask(channel))) == {shelf.says["a@1"]}


async def test_a_check_decides_before_any_request_goes_to_a_model(shelf: Shelf) -> None:
    """It sees a model that runs and that only the caretaker knows; one that it keeps out was never there."""
    models = shelf.models("a@1")
    seen = []

    async def check(model: Model) -> None:
        seen.append((model.facts.build_digest, model in models.loaded, model in models.ready))
        if model.facts.build_digest == "b@1":
            raise SessionError("not this one")

    with pytest.raises(SessionError, match=r"^not this one$"):
        await models.load("b@1", replace="a", check=check)
    assert [model.name for model in models.loaded] == ["a"]
    assert (await models.load("a@2", check=check)).facts.build_digest == "a@2"
    await models.load("a@2", check=check)
    assert seen == [("b@1", True, False), ("a@2", True, False), ("a@2", True, True)]
    await models.close()
    assert shelf.log == ["load a@1", "load b@1", "stop b@1", "load a@2", "stop a@1", "stop a@2"]


async def test_whatever_a_load_fails_by_the_old_one_comes_back(shelf: Shelf) -> None:
    """Also by what nobody has thought of."""
    shelf.free_bytes = 150 * MB
    models = shelf.models("a@1")

    async def check(model: Model) -> None:
        raise ZeroDivisionError

    with pytest.raises(SessionError, match="a answers again"):
        await models.load("a@2", check=check)
    assert models.get().facts.build_digest == "a@1"
    await models.close()


async def test_what_fits_in_no_way_changes_nothing(shelf: Shelf) -> None:
    """Neither does a package that is damaged, nor one that is not there, nor a way out of the folder."""
    shelf.free_bytes = 150 * MB
    shelf.damaged.add("a@2")
    async with served(shelf.models("a@1")) as channel:
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "it takes 100.0 MB of memory, and there are 50.0 MB: unload"):
            await load(channel, "b@1")
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "corrupt"):
            await load(channel, "a@2")
        for name in ("c", "../a@1", f"{shelf.folder}/a@1", "a@1/../a@1", "."):
            with refused(grpc.StatusCode.NOT_FOUND, "there are: a@1, a@2, b@1"):
                await load(channel, name)
        with refused(grpc.StatusCode.NOT_FOUND, "there are: a"):
            await load(channel, "a@1", replace="nobody")
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "package: is required"):
            await load(channel, "")
        assert await states(channel) == ["a READY", "a@2 AVAILABLE", "b@1 AVAILABLE"]
    assert shelf.log == ["load a@1", "stop a@1"]


async def test_loading_what_is_loaded_does_nothing(shelf: Shelf) -> None:
    """So scripts may say it again; but it can take another's place."""
    async with served(shelf.models("b@1", "a@1")) as channel:
        assert await load(channel, "a@1") == ["VERIFYING", "READY"]
        assert await load(channel, "a@1", replace="a") == ["VERIFYING", "READY"]
        assert await states(channel) == ["b READY", "a READY", "a@2 AVAILABLE"]
        assert await load(channel, "a@1", replace="b") == ["VERIFYING", "DRAINING", "READY"]
        assert await states(channel) == ["a READY", "a@2 AVAILABLE", "b@1 AVAILABLE"]
    assert shelf.log == ["load b@1", "load a@1", "stop b@1", "stop a@1"]


async def test_a_caller_that_leaves_does_not_stop_a_change(shelf: Shelf) -> None:
    """Half of a swap is no state to be in."""
    shelf.gate, shelf.free_bytes = threading.Semaphore(0), 150 * MB
    async with served(shelf.models("a@1")) as channel:
        before = ask(channel)
        await before.read()
        swap = asyncio.create_task(load(channel, "a@2"))
        while "a@2 WAITING" not in await states(channel):
            await asyncio.sleep(0)
        swap.cancel()
        shelf.gate.release(10_000)
        await tokens_of(before)
        while "a READY" not in await states(channel):
            await asyncio.sleep(0)
        assert set(await tokens_of(ask(channel))) == {shelf.says["a@2"]}


async def test_the_last_requests_of_a_model_have_their_time(shelf: Shelf) -> None:
    """Then they are told to ask again."""
    shelf.gate = threading.Semaphore(0)
    async with served(shelf.models("a@1", "b@1", drain_timeout_s=0)) as channel:
        call = ask(channel)
        await call.read()
        unload = models_pb2_grpc.ModelsStub(channel).UnloadModel(models_pb2.UnloadModelRequest(name="a"))
        while "stop a@1" not in shelf.log:
            await asyncio.sleep(0)
        while not unload.done():  # or it has said all before it hears that it is to stop
            shelf.gate.release()
            await asyncio.sleep(0)
        shelf.gate.release(10_000)
        with refused(grpc.StatusCode.UNAVAILABLE, "the model was unloaded before the request had ended"):
            await tokens_of(call)
        assert set(await tokens_of(ask(channel))) == {shelf.says["b@1"]}


async def test_without_any_model_requests_are_not_found(shelf: Shelf) -> None:
    """And one can be loaded again."""
    models = shelf.models("a@1")
    await models.unload("a")
    with pytest.raises(ModelNotFound, match="no model is loaded"):
        models.get()
    assert (await models.load("b@1")).name == models.get().name == "b"
    await models.close()


async def test_while_the_daemon_leaves_nothing_is_loaded(shelf: Shelf) -> None:
    models = shelf.models("a@1")
    assert await models.drain(TIMEOUT_S, asyncio.Event())
    with pytest.raises(Unavailable):
        await models.load("b@1")
    await models.close()


async def test_room_is_looked_for_before_a_second_model_at_the_start(shelf: Shelf) -> None:
    shelf.free_bytes = 150 * MB
    models = shelf.models("a@1")
    with pytest.raises(NoRoom):
        models.require_room_for(shelf.open(Path("b@1"), None))
    await models.close()
