"""Recipes compared on one checkpoint: what each costs in bytes, in fidelity and in decode speed.

Compiling takes minutes and is cached, as are fidelities: a sweep that was stopped goes on from what is done. Speeds are
measured at the end, several rounds through all recipes, since a machine is not as fast from one minute to the next.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

from runtime.errors import EdgeQwenError
from runtime.package import SERVING_GRAPH
from runtime.profile import Profile
from runtime.sessions.session import Chunk

from ..evaluation import packaged
from ..host import cores
from ..recipes.recipe import plan
from ..variants import ort
from ..variants.stages import Stages
from .candidates import Candidate

ROUNDS = 5
_PROMPT, _WARM, _TOKENS = 64, 4, 32


@dataclass(frozen=True)
class Result:
    """What a recipe gave.

    Args:
        weights_bytes: of the weights file.
        decode_speed: tokens/s of one stream on this machine; None where it was not measured.
    """

    candidate: Candidate
    weights_bytes: int
    mean_kld: float
    p99_kld: float
    top1_agreement: float
    perplexity: float
    graph: Path
    decode_speed: float | None = None

    def as_row(self) -> dict[str, object]:
        """For scripts: everything but where it lies."""
        row = {key: value for key, value in asdict(self).items() if key not in ("candidate", "graph")}
        return asdict(self.candidate) | row


@dataclass(frozen=True)
class Sweep:
    """All that was tried: results, smallest first; `failed` and `left_out` say by name why something has none."""

    results: list[Result]
    failed: dict[str, str]
    left_out: dict[str, str]

    def front(self) -> list[Result]:
        """Those that no other beats in bytes and in fidelity, smallest first."""
        best: list[Result] = []
        for result in self.results:
            if not best or result.mean_kld < best[-1].mean_kld:
                best.append(result)
        return best


def run_sweep(
    stages: Stages,
    profile: Profile,
    tried: Sequence[Candidate],
    *,
    max_bytes: int | None = None,
    max_seconds: float | None = None,
) -> Sweep:
    """Compiles and measures each of `tried` for `profile`, a CPU's or CUDA's.

    Args:
        max_bytes: results with larger weights files are dropped.
        max_seconds: no other recipe is begun once so much time has passed.
    """
    began_s = time.monotonic()
    sweep = Sweep([], {}, {})
    tried_keys: dict[str, str] = {}
    for number, candidate in enumerate(tried, 1):
        board = candidate.applied_to(profile)
        key = plan(board, candidate.precision, stages.checkpoint.row_divisor).key
        if key in tried_keys:
            sweep.left_out[candidate.name] = f"for this model it is the same as {tried_keys[key]}"
            continue
        tried_keys[key] = candidate.name
        if max_seconds is not None and time.monotonic() - began_s > max_seconds:
            sweep.left_out[candidate.name] = "the time was up"
            continue
        stages.report.note(f"{candidate.name} ({number} of {len(tried)})")
        try:
            result = _try(stages, board, candidate)
        except EdgeQwenError as error:
            sweep.failed[candidate.name] = str(error)
            stages.report.note(f"{candidate.name}: {error}")
            continue
        if max_bytes is not None and result.weights_bytes > max_bytes:
            sweep.left_out[candidate.name] = f"{result.weights_bytes / 1e6:.1f} MB is too large"
        else:
            sweep.results.append(result)
    sweep.results.sort(key=lambda each: (each.weights_bytes, each.mean_kld))
    if profile.execution.backend == "ort":
        sweep.results[:] = _with_speeds(stages, sweep.results)
    return sweep


def _try(stages: Stages, profile: Profile, candidate: Candidate) -> Result:
    parts = ort.make_variant(stages, profile, candidate.precision, peft={}, adapter_targets=())
    assert parts.fidelity is not None
    return Result(
        candidate,
        parts.weights_bytes,
        parts.fidelity.mean_kld,
        parts.fidelity.p99_kld,
        parts.fidelity.top1_agreement,
        parts.fidelity.perplexity,
        parts.ours[SERVING_GRAPH],
    )


def _with_speeds(stages: Stages, results: Sequence[Result]) -> list[Result]:
    speeds: list[list[float]] = [[] for _ in results]
    with stages.report.stage("speed") as stage:
        for turn in range(ROUNDS):
            for at, result in enumerate(results):
                speeds[at].append(_decode_speed(result.graph))
                stage.update(turn * len(results) + at + 1, ROUNDS * len(results))
    return [replace(result, decode_speed=median(its)) for result, its in zip(results, speeds, strict=True)]


def _decode_speed(graph: Path) -> float:
    """Tokens/s of one stream behind a short prompt."""
    session = packaged.open_session(graph, threads=cores())
    session.run([Chunk(0, range(1, _PROMPT + 1), 0)])
    for step in range(_WARM + _TOKENS):
        if step == _WARM:
            began_s = time.perf_counter()
        session.run([Chunk(0, [step + 1], _PROMPT + step)])
    return _TOKENS / (time.perf_counter() - began_s)
