"""The canary: a model is tried before any request goes to it.

It must say what it said where it was built, and be about as fast as it should be, by what is known of this board and by
the model that serves here. A board that is too hot for its profile is given time to cool down, as it could not tell.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ..bench.bench import Case
from ..errors import CanaryFailed, SessionError, TooHot, Unavailable
from ..health.checks import VERY_SLOW, Check, Status, check_temperature
from ..models.model import Model
from .asking import Heard, ask
from .golden import MOST_TIES, Replay, replay

COOL_S = 120.0
"""How long a board may take to cool down."""
_LOOK_S = 5.0
_AGAIN_S = (1.0, 3.0, 6.0)  # what is too slow is measured again after so long: other programs may be in the way
_CASE = Case(prompt=32, tokens=16, streams=1)
_ENOUGH = 1 / 3  # of the speed before, for weights of the same size: boards have other things to do
_SOON_S, _LATE_S = 1.0, 10.0  # for a first token of so short a prompt: always, and never
_MEND = "Build the package again, on another host or with other versions, and evaluate it there."
_SLOW = "See what else runs here (`top`), and whether the package is built for this board."


class Pause:
    """Waits for so many seconds, unless the daemon is to leave: then it raises Unavailable."""

    def __init__(self) -> None:
        self._leaving = threading.Event()

    def __call__(self, seconds: float) -> None:
        if self._leaving.wait(seconds):
            raise Unavailable("the daemon is shutting down")

    def end(self) -> None:
        """The daemon is to leave."""
        self._leaving.set()


@dataclass(frozen=True)
class Before:
    """The model that served before: which it was, and how fast. It holds no model, whose memory may be wanted."""

    version: str
    weights_bytes: int
    speed: Heard


@dataclass(frozen=True)
class Canary:
    """How models are tried on this board. Its methods block.

    Args:
        celsius: what the hottest sensor says that counts for a model; None where none does.
        limit_c: of that.
        patience_s: how long a token may take.
        pause: what waits for a board to cool down.
        cool_s: how long to wait for a hot board.
    """

    celsius: Callable[[Model], float | None]
    limit_c: Callable[[Model], float]
    patience_s: float
    pause: Pause
    cool_s: float = COOL_S

    def before(self, model: Model | None) -> Before | None:
        """How fast the model that serves is now; None if none does, or it is too busy to tell."""
        if model is None:
            return None
        try:
            return Before(model.facts.package_version, model.facts.weights_bytes, self._measure(model))
        except (SessionError, Unavailable):
            return None

    def try_out(self, model: Model, before: Before | None = None, beside: Model | None = None) -> list[Check]:
        """What is found of `model`, whose engine runs, up to the first check that fails.

        Args:
            before: how fast the model was that served before.
            beside: that model, if it still does: then both are measured at once.

        Raises TooHot, and Unavailable if the daemon is to leave.
        """
        found = [self._temperature(model), *self._goldens(model)]
        return found if failed(found) else [*found, *self._speeds(model, before, beside)]

    def try_at_start(self, model: Model) -> list[Check]:
        """The same where nothing else could serve meanwhile: nobody waits, and a hot board is no reason to fail."""
        found = self._goldens(model)
        celsius, limit_c = self.celsius(model), self.limit_c(model)
        if celsius is not None and celsius >= limit_c:
            reason = f"The board is at {celsius:.1f} C and its limit is {limit_c:g} C: no speed was measured."
            return [*found, Check("temperature", Status.OK, reason, "", celsius, limit_c, "C")]
        return found if failed(found) else [*found, *self._speeds(model, None, None)]

    def _temperature(self, model: Model) -> Check:
        limit_c, left_s = self.limit_c(model), self.cool_s
        while (celsius := self.celsius(model)) is not None and celsius >= limit_c:
            if left_s <= 0:
                raise TooHot(
                    f"the board is at {celsius:.1f} C and its limit is {limit_c:g} C, so no package can be judged: try"
                    " again when it has cooled down"
                )
            self.pause(_LOOK_S)
            left_s -= _LOOK_S
        return check_temperature(celsius, limit_c)

    def _goldens(self, model: Model) -> list[Check]:
        """Of the model, and of each adapter of its package."""
        if model.package is None:
            return []
        build, found = model.package.build, list[Check]()
        transcripts = [("", build.golden), *((name, its.golden) for name, its in build.adapters.items())]
        for adapter, golden in transcripts:
            try:
                done = replay(model.engine, golden, patience_s=self.patience_s, adapter=adapter or None)
            except SessionError as error:
                done = Replay(len(golden.greedy_ids), 0, 0, str(error))
            found.append(_golden_check(done, adapter))
            if done.fault:
                break
        return found

    def _speeds(self, model: Model, before: Before | None, beside: Model | None) -> list[Check]:
        """Time to the first token and tokens a second, of the first round that goes well, else of the last."""
        if lowered := model.engine.throttled.reason:
            return [Check("speed", Status.OK, f"Not measured: the engine is lowered, as {lowered}.")]
        if model.engine.context_tokens < _CASE.prompt + _CASE.tokens:
            return [Check("speed", Status.OK, "Not measured: the context is too short.")]
        try:
            found = self._round(model, before, beside)
            for seconds in _AGAIN_S:
                if not failed(found):
                    break
                self.pause(seconds)
                found = self._round(model, before, beside)
        except SessionError as error:
            return [Check("speed", Status.FAILED, f"It did not answer: {error}.", _MEND)]
        return found

    def _round(self, model: Model, before: Before | None, beside: Model | None) -> list[Check]:
        if beside is None:
            speed = self._measure(model)
        else:  # at the same time, so that each has the other to contend with, and whatever else runs here
            with ThreadPoolExecutor(1) as another:
                its = another.submit(self.before, beside)
                speed, before = self._measure(model), its.result()
        return [_first_token(speed, model, before), _tokens_per_second(speed, model, before)]

    def _measure(self, model: Model) -> Heard:
        prompt = _CASE.prompt_ids(0, model.engine.vocab_size)
        return ask(model.engine, prompt, _CASE.tokens, patience_s=self.patience_s)


def failed(checks: Sequence[Check]) -> list[Check]:
    """Those that keep a model out."""
    return [check for check in checks if check.status is Status.FAILED]


def require_well(package: object, checks: Sequence[Check]) -> None:
    """Raises CanaryFailed, for the first that failed."""
    if bad := failed(checks):
        raise CanaryFailed(f"{package} failed its canary: {bad[0].name}: {bad[0].summary}")


def said_of(checks: Sequence[Check]) -> str:
    """All of it in a line, for the history."""
    return " ".join(f"{check.name}: {check.summary}" for check in checks)


def _golden_check(done: Replay, adapter: str) -> Check:
    name = f"golden transcript of {adapter}" if adapter else "golden transcript"
    summary = f"{done.said} of {done.tokens} tokens are those of the build host"
    if done.ties:
        summary += f", {done.ties} nearly as likely"
    if done.fault:
        summary += f"; {done.fault}"
    status = Status.FAILED if done.fault else Status.OK
    bound = float(done.tokens - max(1, int(MOST_TIES * done.tokens)))
    return Check(name, status, f"{summary}.", _MEND if done.fault else "", float(done.said), bound, "tokens")


def _first_token(speed: Heard, model: Model, before: Before | None) -> Check:
    """By what a prompt of the whole context may take; and by the model before, if that takes more than a moment."""
    bounds = [(1e3 * _LATE_S, "nobody waits longer")]
    if model.expectation is not None:
        bounds.append((model.expectation.first_token_ms, model.expectation.first_token_from))
    if before is not None:
        share = _share(model, before)
        bounds.append(
            (
                1e3 * max(_SOON_S, before.speed.first_token_s / share),
                f"{before.version} takes {1e3 * before.speed.first_token_s:.0f} ms",
            )
        )
    bound_ms, source = min(bounds)
    value_ms = 1e3 * speed.first_token_s
    status = Status.OK if value_ms <= bound_ms else Status.FAILED
    summary = f"{value_ms:.0f} ms for a prompt of {_CASE.prompt} tokens; {bound_ms:.0f} ms are allowed, as {source}."
    return Check("first token", status, summary, _SLOW if status > Status.OK else "", value_ms, bound_ms, "ms")


def _tokens_per_second(speed: Heard, model: Model, before: Before | None) -> Check:
    """By what is expected of this board, and by the model before."""
    value = speed.tokens_per_second
    if value is None:
        return Check("speed", Status.OK, "All tokens came at once.", unit="tokens/s")
    bounds: list[tuple[float, str]] = []
    expected = model.expectation
    if expected is not None and expected.decode_tokens_per_second is not None:
        rate = expected.decode_tokens_per_second
        bounds.append((VERY_SLOW * rate, f"a fifth of {rate:.1f}, which {expected.decode_from}"))
    if before is not None and before.speed.tokens_per_second is not None:
        rate, share = before.speed.tokens_per_second, _share(model, before)
        bounds.append((share * rate, f"{share:.0%} of the {rate:.1f} of {before.version}"))
    if not bounds:
        return Check(
            "speed", Status.OK, f"{value:.1f} tokens/s; what to expect here is not known.", "", value, None, "tokens/s"
        )
    bound, source = max(bounds)
    status = Status.OK if value >= bound else Status.FAILED
    summary = f"{value:.1f} tokens/s; at least {bound:.1f} are asked for, {source}."
    return Check("speed", status, summary, _SLOW if status > Status.OK else "", value, bound, "tokens/s")


def _share(model: Model, before: Before) -> float:
    """Of the speed before, that is enough: less for more weights, as each token reads all of them."""
    return _ENOUGH * min(1.0, before.weights_bytes / max(1, model.facts.weights_bytes))
