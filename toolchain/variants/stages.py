"""The stages that variants share, whatever backend they are for: calibration text, Olive, and fidelity.

Every result is kept in the cache under a key of all that it was made from. So a build that was stopped goes on from
what is done, and profiles that need the same share it, as do builds that run at once.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from runtime.errors import BuildError
from runtime.package import Fidelity, Golden, file_digest
from runtime.sessions.session import Session

from .. import calibrate
from ..cache import alone, is_sound, keep, key_of
from ..checkpoints.sources import Checkpoint
from ..checkpoints.weights import parameters
from ..compile import code_digest, run_olive
from ..evaluation import packaged
from ..evaluation.divergence import Model, OnWindow, diverge
from ..evaluation.float_reference import FloatReference
from ..evaluation.heldout import HELD_OUT, held_out_text
from ..exhaustion import emptied_when_full, require_room
from ..graphs.surgery import SERVING_GRAPH, make_serving_graph
from ..host import cores
from ..progress import Reporter
from ..recipes.recipe import Recipe, plan_calibration_writer
from ..requirements import DISK_BYTES_PER_PARAMETER
from ..variant import TOOLS


@dataclass(frozen=True)
class Stages:
    """The stages of a build of one checkpoint.

    Args:
        cache: folder of the build cache.
        user_calibration: the user's own text; None lets the model write it.
    """

    checkpoint: Checkpoint
    cache: Path
    user_calibration: Path | None
    report: Reporter

    @cached_property
    def disk_bytes(self) -> int:
        """What Olive writes for it at least, in the cache and in its scratch folder."""
        return DISK_BYTES_PER_PARAMETER * parameters(self.checkpoint.folder)

    def calibration(self) -> Path:
        """The calibration text, the user's or the model's own, as JSON lines in the cache."""
        if self.user_calibration is not None:
            name = key_of(str(self.user_calibration.resolve()))
            out = self.cache / "calibration" / f"user-{name}.jsonl"
            with alone(self.cache, out.stem, self.report):
                calibrate.read_calibration(self.user_calibration, out)
            return out
        checkpoint = self.checkpoint
        recipe = plan_calibration_writer()
        out = self.cache / "calibration" / f"{key_of(checkpoint.digest, recipe.key, calibrate.calibration_key())}.jsonl"
        with alone(self.cache, out.stem, self.report):
            if not out.exists():
                model_dir = self.serving_model(recipe, None)
                with self.report.stage("calibration text") as stage:
                    session = calibrate.open_writer(model_dir / SERVING_GRAPH, threads=cores())
                    calibrate.write_calibration(session, checkpoint.folder, out, on_tokens=stage.update)
        return out

    def serving_model(self, recipe: Recipe, calibration: Path | None, *, packed: bool = True) -> Path:
        """Olive's model folder, with the serving graph in it."""
        model_dir = self.compiled(recipe, calibration)
        with alone(self.cache, model_dir.name, self.report):
            make_serving_graph(model_dir, packed=packed)
        return model_dir

    def compiled(
        self, recipe: Recipe, calibration: Path | None, *, source: Path | None = None, tools: Sequence[str] = TOOLS
    ) -> Path:
        """Olive's model folder, made of the checkpoint, or of `source`, which another recipe made."""
        text = file_digest(calibration) if calibration else ""
        made_by = [code_digest(recipe), *(version(name) for name in tools), *([source.name] if source else [])]
        key = key_of(self.checkpoint.digest, recipe.key, text, *made_by)
        out, work = self.cache / "compiled" / key, self.cache / "work" / key
        log = self.cache / "logs" / f"{key}.log"
        log.parent.mkdir(exist_ok=True)
        with alone(self.cache, key, self.report):
            if not is_sound(out):
                if out.exists():
                    self.report.note(f"{out} is not as it was made, and is made again")
                require_room(self.cache, self.disk_bytes)
                with self.report.stage("Olive") as stage, emptied_when_full(work):
                    run_olive(
                        source or self.checkpoint.folder,
                        recipe,
                        calibration,
                        out,
                        work=work,
                        log=log,
                        on_progress=lambda part, done, total: stage.update(done, total, part),
                    )
                shutil.rmtree(work, ignore_errors=True)
        return out

    def evaluated(
        self,
        kept_in: Path,
        made_from: Sequence[Path],
        open_session: Callable[[], Session],
        *,
        adapter: str | None = None,
        peft: Path | None = None,
    ) -> tuple[Fidelity, Golden]:
        """Fidelity and golden transcript, measured once per model, adapter and held-out text.

        Args:
            kept_in: the folder that keeps them.
            made_from: the files that decide what the session computes, large ones named by others left out.
            open_session: loads the model, if they have to be measured.
            adapter: the name of the one that the session computes with, whose PEFT folder is `peft`.
        """
        text = held_out_text()
        kept = kept_in / f"evaluation-{key_of(*map(file_digest, made_from), text, packaged.GOLDEN_QUESTION)}.json"
        if not kept.exists():
            with self.report.stage(f"fidelity of {adapter}" if adapter else "fidelity") as stage:
                measured = self._evaluate(open_session(), text, adapter, peft, stage.update)
            keep(kept, [part.model_dump() for part in measured])
        fidelity, golden = json.loads(kept.read_text())
        return Fidelity.model_validate(fidelity), Golden.model_validate(golden)

    def _evaluate(
        self, session: Session, text: str, adapter: str | None, peft: Path | None, on_window: OnWindow
    ) -> tuple[Fidelity, Golden]:
        golden = self.golden(session, adapter=adapter)
        reference = FloatReference(self.checkpoint.folder, peft)
        model = packaged.SessionModel(session, adapter=adapter)
        return self.fidelity(reference, model, text, on_window=on_window), golden

    def golden(self, session: Session, *, adapter: str | None = None, extent: packaged.Extent = packaged.ALL) -> Golden:
        """What the session answers to the question that all packages are asked."""
        return packaged.golden_transcript(
            session,
            packaged.golden_prompt(self.checkpoint.folder),
            eos_token_ids=frozenset(self.checkpoint.geometry.eos_token_ids),
            max_tokens=extent.golden_tokens,
            adapter=adapter,
        )

    def fidelity(
        self,
        reference: Model,
        model: Model,
        text: str,
        *,
        extent: packaged.Extent = packaged.ALL,
        on_window: OnWindow,
    ) -> Fidelity:
        """`model` against `reference` on held-out `text`."""
        windows = packaged.windows_of(
            text,
            self.checkpoint.folder / "tokenizer.json",
            limit=extent.windows,
            window_tokens=extent.window_tokens,
        )
        if not windows:
            raise BuildError("the held-out text is too short for this tokenizer")
        windows = [[*extent.opening, *window] for window in windows]
        return diverge(reference, model, windows, on_window=on_window).fidelity(HELD_OUT)
