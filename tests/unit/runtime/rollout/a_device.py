"""A device with a store: real packages with next to no content, whose models say one token again and again."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fakes import ScriptedSession
from unit.runtime.fake_engine import TIMEOUT_S, byte_tokenizer, make_reader
from unit.runtime.tiny_package import edit_build, make_package

from runtime.engine.engine import Engine
from runtime.errors import PackageCorrupt, SessionError
from runtime.footprint import Footprint
from runtime.models.expectation import Expectation
from runtime.models.model import Model, ModelFacts
from runtime.models.registry import Loader, Models
from runtime.models.repository import Repository
from runtime.package import Package
from runtime.rollout.canary import Canary, Pause
from runtime.sessions.session import Chunk, Logits
from runtime.store import state as steps
from runtime.store.state import Cause, Installed, State
from runtime.store.store import Store

MB = 1_000_000
PROMPT = [11, 12, 13]
ANSWER_TOKENS = 8


class NearTies(ScriptedSession):
    """Has for each token a second one, the token after it, that is nearly as likely, by so many nats."""

    def __init__(self, script: Callable[[tuple[int, ...]], int], behind: float) -> None:
        super().__init__(script)
        self._behind = behind

    def run(self, chunks: list[Chunk], *, adapter: str | None = None, deterministic: bool = False) -> Logits:
        logits = super().run(chunks, adapter=adapter, deterministic=deterministic)
        for row in logits:
            best = row.argmax()
            row[best + 1] = row[best] - self._behind
        return logits


def make_engine(session: ScriptedSession) -> Engine:
    return Engine(
        session,
        byte_tokenizer(),
        eos_token_ids=frozenset(),
        queue_limit=64,
        prefill_chunk_tokens=8,
        kv_budget_tokens=1000,
    )


@dataclass
class Device:
    """Its packages weigh 100 MB each. A model says the token that `says` has for its version.

    Args:
        free_bytes: for models; None: as much as they like.
        failing: versions whose models cannot be loaded; `damaged`: whose packages cannot be opened.
        gate: lets each token but the first of a request come.
    """

    folder: Path
    free_bytes: int | None = None
    failing: set[str] = field(default_factory=set)
    damaged: set[str] = field(default_factory=set)
    says: dict[str, int] = field(default_factory=dict)
    sessions: dict[str, ScriptedSession] = field(default_factory=dict)
    expects: Expectation | None = None
    celsius: list[float | None] = field(default_factory=lambda: [None])
    gate: threading.Semaphore | None = None
    log: list[str] = field(default_factory=list)
    resident: int = 0

    def __post_init__(self) -> None:
        self.store = Store(self.folder / "store")
        self.pause = Waits(self)

    def install(self, version: str, *, answer: int | None = None, name: str = "tiny") -> Installed:
        """Into the store. The golden transcript has `answer` where the model says something else."""
        says = self.says.setdefault(version, 20 + len(self.says))
        self.store.change(lambda state: state)  # makes its folders
        root = make_package(self.store.packages / f"{name}-{version}.ortpackage")
        golden = {"prompt_ids": PROMPT, "greedy_ids": [says if answer is None else answer] * ANSWER_TOKENS}
        edit_build(root, {"name": name, "version": version, "golden": golden})
        package = Package.open(root, verify=False)
        digest = package.build_digest
        installed = Installed(root.name, name, version, "board", digest, "", 1.0)
        self.store.change(lambda state: steps.install(state, installed, Cause(1.0, "root")))
        return installed

    def activate(self, package: Installed, *, commit: bool = False, at_s: float = 2.0) -> State:
        """As if somebody had done so while no daemon ran."""
        state = self.store.change(lambda state: steps.activate(state, package.folder, Cause(at_s, "root")))
        return self.store.change(lambda state: steps.commit(state, Cause(at_s, "root"))) if commit else state

    def open(self, path: Path, variant: str | None = None) -> Package:
        package = Package.open(path, variant, verify=False)
        if package.build.version in self.damaged:
            raise PackageCorrupt(f"{package.build.version} is damaged: copy the package again")
        return package

    def load(self, package: Package) -> Model:
        version = package.build.version
        self.log.append(f"load {version}")
        if version in self.failing:
            raise SessionError(f"{version} does not run")
        session = self.sessions.pop(version, None) or ScriptedSession(self._script(self.says[version]))
        facts = ModelFacts(
            package.build.name, build_digest=package.build_digest, weights_bytes=100 * MB, package_version=version
        )
        return Model(_Counted(self, version, session), make_reader(), facts, (), package, expectation=self.expects)

    def _script(self, says: int) -> Callable[[tuple[int, ...]], int]:
        def script(history: tuple[int, ...]) -> int:
            if self.gate and len(history) > 3 and history[0] not in (PROMPT[0], 0):  # of clients' requests
                assert self.gate.acquire(timeout=TIMEOUT_S)
            return says

        return script

    def load_at(self, path: Path) -> Model:
        return self.load(self.open(path))

    def models(self, **more: float) -> Models:
        loader = Loader(self.open, self.load, lambda package: Footprint(100 * MB, 0, 1, 1, 1, 0), self._available)
        return Models(Repository(None), loader, **more)

    def canary(self, kind: type[Canary] = Canary, *, patience_s: float = TIMEOUT_S, cool_s: float = 120.0) -> Canary:
        return kind(lambda model: self.celsius[0], lambda model: 85.0, patience_s, self.pause, cool_s)

    def history(self) -> list[str]:
        """Each as `EVENT VERSION`."""
        return [f"{entry.event} {entry.version}" for entry in self.store.read().history]

    def why(self) -> str:
        """Of what happened last."""
        return self.store.read().history[-1].why

    def _available(self) -> int | None:
        return None if self.free_bytes is None else self.free_bytes - 100 * MB * self.resident


class NoMeasure(Canary):
    """What serves is too busy to be measured. The speed of a scripted model says nothing."""

    def before(self, model: Model | None) -> None:
        return None


class Waits(Pause):
    """Takes no time: each wait is the next temperature."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self._device = device

    def __call__(self, seconds: float) -> None:
        super().__call__(0.0)
        self._device.log.append("wait")
        if len(self._device.celsius) > 1:
            self._device.celsius.pop(0)


class _Counted(Engine):
    """Knows how many of it run at once."""

    def __init__(self, device: Device, version: str, session: ScriptedSession) -> None:
        limits = {"queue_limit": 64, "prefill_chunk_tokens": 8, "kv_budget_tokens": 1000}
        super().__init__(session, byte_tokenizer(), eos_token_ids=frozenset(), **limits)
        self._device, self._version = device, version

    def start(self) -> None:
        self._device.resident += 1
        super().start()

    def stop(self, reason: str = "") -> None:
        if self._thread.is_alive():
            self._device.resident -= 1
            self._device.log.append(f"stop {self._version}")
        super().stop(reason)


def damage(device: Device, package: Installed) -> None:
    """Of its `build.json`, so that it cannot be opened."""
    path = device.store.path(package) / "models/decoder/board/build.json"
    path.write_text(json.dumps({"format": 1}))
