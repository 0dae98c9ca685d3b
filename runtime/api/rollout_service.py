"""`edgeqwen.v1.Rollout` on gRPC: which package of the store serves, and changes of that."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc.aio

from edgeqwen.v1 import health_pb2, rollout_pb2_grpc
from edgeqwen.v1 import rollout_pb2 as pb

from ..access.caller import current
from ..errors import EdgeQwenError, Fault, NoStore, RequestError
from ..health.checks import Check
from ..models.registry import Phase
from ..rollout.rollouts import Outcome, Rollouts
from ..rollout.standing import Standing
from ..store.state import Entry, Installed, State
from .replies import abort

MAX_TEXT = 200
MAX_HISTORY = 50

_PHASES: dict[Phase, pb.ActivationPhase] = {
    "verifying": pb.ACTIVATION_PHASE_VERIFYING,
    "waiting": pb.ACTIVATION_PHASE_WAITING,
    "loading": pb.ACTIVATION_PHASE_LOADING,
    "checking": pb.ACTIVATION_PHASE_CHECKING,
    "draining": pb.ACTIVATION_PHASE_DRAINING,
}


class RolloutService(rollout_pb2_grpc.RolloutServicer):
    """Changes what `rollouts` serve; None on a daemon without a store."""

    def __init__(self, rollouts: Rollouts | None) -> None:
        self._found = rollouts

    async def Activate(  # noqa: N802 - the name is the contract's
        self, request: pb.ActivateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.ActivateResponse]:
        told: asyncio.Queue[pb.ActivateResponse | None] = asyncio.Queue()
        activation = asyncio.create_task(self._activate(request, told))
        try:
            while message := await told.get():
                yield message
            done = await activation
        except EdgeQwenError as error:
            await abort(context, error)
        finally:
            activation.cancel()  # what it waits for goes on
        yield pb.ActivateResponse(
            phase=pb.ACTIVATION_PHASE_DONE, active=self._installed(done.active), changed=done.changed
        )

    async def RollBack(  # noqa: N802 - the name is the contract's
        self, request: pb.RollBackRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.RollBackResponse:
        try:
            done = await self._rollouts.roll_back(by=current().name, why=_text("why", request.why))
        except EdgeQwenError as error:
            await abort(context, error)
        return pb.RollBackResponse(active=self._installed(done.active), changed=done.changed)

    async def Commit(  # noqa: N802 - the name is the contract's
        self, request: pb.CommitRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.CommitResponse:
        try:
            done = await self._rollouts.commit(by=current().name, why=_text("why", request.why))
        except EdgeQwenError as error:
            await abort(context, error)
        return pb.CommitResponse(active=self._installed(done.active), changed=done.changed)

    async def GetRollout(  # noqa: N802 - the name is the contract's
        self, request: pb.GetRolloutRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetRolloutResponse:
        try:
            standing = await self._rollouts.refresh()
        except EdgeQwenError as error:
            await abort(context, error)
        state = standing.state
        return pb.GetRolloutResponse(
            active=_installed(state, state.active_package),
            previous=_installed(state, state.previous_package),
            trial=_trial(standing),
            committed=state.committed,
            history=map(_event, state.history[-MAX_HISTORY:]),
        )

    @property
    def _rollouts(self) -> Rollouts:
        if self._found is None:
            raise NoStore("this daemon serves the package that its configuration names: give it a `store`")
        return self._found

    def _installed(self, package: Installed) -> pb.InstalledPackage | None:
        return _installed(self._rollouts.standing.state, package)

    async def _activate(self, request: pb.ActivateRequest, told: asyncio.Queue[pb.ActivateResponse | None]) -> Outcome:
        def report(phase: Phase, checks: Sequence[Check]) -> None:
            told.put_nowait(pb.ActivateResponse(phase=_PHASES[phase], checks=map(_check, checks)))

        try:
            return await self._rollouts.activate(
                _text("package", request.package),
                by=current().name,
                allow_downgrade=request.allow_downgrade,
                report=report,
            )
        finally:
            told.put_nowait(None)


def _text(field: str, text: str) -> str:
    """What comes from outside and goes into the history. Raises RequestError."""
    if len(text) > MAX_TEXT or not text.isprintable():
        raise RequestError([Fault(field, f"must be at most {MAX_TEXT} printable characters")])
    return text


def _check(check: Check) -> health_pb2.Check:
    return health_pb2.Check(**dataclasses.asdict(check))


def _installed(state: State, package: Installed | None) -> pb.InstalledPackage | None:
    if package is None:
        return None
    return pb.InstalledPackage(
        folder=package.folder,
        name=package.name,
        version=package.version,
        variant=package.variant,
        digest=package.digest,
        signer=package.signer,
        slot=next((slot for slot in ("a", "b") if state.slots[slot] == package.folder), ""),
    )


def _trial(standing: Standing) -> pb.Trial | None:
    trial, gate = standing.state.trial, standing.gate
    if trial is None:
        return None
    return pb.Trial(
        since_unix_ms=_unix_ms(trial.since_s),
        starts=trial.starts,
        healthy_s=gate.healthy_s if gate else 0.0,
        calls=gate.last.calls if gate else 0,
        commit_after_s=standing.terms.commit_after_s,
        commit_after_calls=standing.terms.commit_after_calls,
        fault=gate.last.fault if gate else "",
    )


def _event(entry: Entry) -> pb.RolloutEvent:
    return pb.RolloutEvent(
        time_unix_ms=_unix_ms(entry.time_s),
        event=entry.event,
        package=entry.package,
        version=entry.version,
        digest=entry.digest,
        slot=entry.slot or "",
        why=entry.why,
        by=entry.by,
    )


def _unix_ms(seconds: float) -> int:
    return max(0, round(1e3 * seconds))
