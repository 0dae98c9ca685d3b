"""A daemon with a store in this process: real services, real engines, scripted models, and looks without a pause."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc.aio
from unit.runtime.fake_engine import TIMEOUT_S, serving
from unit.runtime.models.test_registry import ask, tokens_of
from unit.runtime.rollout.a_device import Device, NoMeasure

from edgeqwen.v1 import generation_pb2_grpc, rollout_pb2_grpc
from edgeqwen.v1 import rollout_pb2 as pb
from runtime.api.generator import Generator
from runtime.api.open_calls import OpenCalls
from runtime.api.rollout_service import RolloutService
from runtime.api.service import GenerationService
from runtime.models.registry import Models
from runtime.rollout.boot import Boot
from runtime.rollout.gate import Terms
from runtime.rollout.rollouts import Rollouts

NEVER = Terms(commit_after_s=1e9, commit_after_calls=1_000_000)


class Clock:
    """Each look is a second after the one before, however fast they come."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


@dataclass
class Running:
    """A daemon's rollouts, and those who call."""

    device: Device
    models: Models
    rollouts: Rollouts
    channel: grpc.aio.Channel
    stalled: set[str]

    @property
    def stub(self) -> rollout_pb2_grpc.RolloutStub:
        return rollout_pb2_grpc.RolloutStub(self.channel)

    async def activate(
        self, package: str = "", *, told: list[pb.ActivateResponse] | None = None, **more: bool
    ) -> list[pb.ActivateResponse]:
        """What is told, also into `told` as it comes."""
        replies = [] if told is None else told
        async for reply in self.stub.Activate(pb.ActivateRequest(package=package, **more)):
            replies.append(reply)
        return replies

    async def says(self) -> str:
        """The version that answers."""
        said = set(await tokens_of(ask(self.channel)))
        return next(version for version, token in self.device.says.items() if {token} == said)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while not condition():
                await asyncio.sleep(0.001)

    def committed(self) -> bool:
        return self.device.store.read().trial is None


@asynccontextmanager
async def daemon(
    device: Device,
    terms: Terms = NEVER,
    *,
    idle_s: float = 1e9,
    killed: bool = False,
    budget_bytes: int | None = None,
    listen: str | None = None,
) -> AsyncIterator[Running]:
    """One that has started from the store of `device` and is at `listen`, too; `killed`, nobody tells it to end."""
    models, stalled = device.models(), set[str]()
    boot = Boot(device.store, device.load_at, device.canary().try_at_start)
    models.add(boot.model(), started=True)

    def stalls(engine: object) -> bool:
        return any(model.engine is engine and model.facts.package_version in stalled for model in models.loaded)

    rollouts = Rollouts(
        device.store,
        models,
        device.canary(NoMeasure),
        terms,
        stalled=stalls,
        unnoted=boot.unnoted,
        budget_bytes=budget_bytes,
        now=lambda: 9.0,
        clock=Clock(),
        period_s=0.001,  # not 0: a loop that never rests leaves other threads no time
        idle_s=idle_s,
    )
    await rollouts.start()

    def add(server: grpc.aio.Server) -> None:
        if listen is not None:
            server.add_insecure_port(listen)
        service = GenerationService(models, Generator(models), OpenCalls())
        generation_pb2_grpc.add_GenerationServicer_to_server(service, server)
        rollout_pb2_grpc.add_RolloutServicer_to_server(RolloutService(rollouts), server)

    async with serving(add) as channel:
        try:
            yield Running(device, models, rollouts, channel, stalled)
        finally:
            if not killed:
                await rollouts.stop()
            await models.close()
