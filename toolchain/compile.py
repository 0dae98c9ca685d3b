"""Runs a recipe through Microsoft Olive. The only door to olive.

Olive runs in a child process: what it allocates and logs, and the environment it needs (no hub, no telemetry), stay
there, and a build that is stopped takes it along. Its cache in the work folder makes a second run resume after the
last finished pass.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from runtime.errors import BuildError

from .recipe import CALIBRATION, CALIBRATION_WINDOW_TOKENS, Recipe

OnProgress = Callable[[str, int, int], None]
"""Called with the name of a step, how much of it is done, and how much there is."""

# tqdm's line, such as "Processing layers...:  10%|#   | 3/30 [00:20<03:00, ...".
_BAR = re.compile(r"([A-Z][\w .]*?)\.*:\s+\d+%\|[^|]*\| (\d+)/(\d+) ")

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_RECORDS = ("footprint.json", "model_config.json", "output_footprint.json", "run_history.txt")


def run_olive(
    checkpoint: Path,
    recipe: Recipe,
    calibration: Path | None,
    out: Path,
    *,
    work: Path,
    log: Path,
    on_progress: OnProgress = lambda name, done, total: None,
) -> None:
    """Runs `recipe` on the checkpoint folder; leaves Olive's model folder at `out`, whole or not at all.

    Args:
        calibration: JSON lines with a `text` each; needed if the recipe needs calibration.
        work: Olive's cache and scratch folder; keep it to resume, delete it at will.
        log: everything that Olive prints.

    Raises BuildError, naming `log`, if Olive fails.
    """
    assert calibration is not None or not recipe.needs_calibration
    work.mkdir(parents=True, exist_ok=True)
    unfinished = work / "output"
    shutil.rmtree(unfinished, ignore_errors=True)
    job = work / "job.json"
    job.write_text(json.dumps(_job(checkpoint, recipe, calibration, unfinished, work), indent=1))
    command = [sys.executable, "-m", "toolchain.compile", str(job)]
    with (
        log.open("w") as log_file,
        subprocess.Popen(
            command, env=_environment(work), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as child,
    ):
        try:
            assert child.stdout is not None
            for line in child.stdout:  # universal newlines: each redraw of a bar is a line
                log_file.write(line)
                if bar := _BAR.search(line):
                    on_progress(bar[1], int(bar[2]), int(bar[3]))
            status = child.wait()
        except BaseException:
            child.kill()
            raise
    if status != 0 or not (unfinished / "model.onnx").is_file():
        raise BuildError(f"Olive failed (exit status {status}): {_last_error(log)}; its whole log is {log}")
    for record in _RECORDS:  # they hold times and paths, and nobody reads them
        (unfinished / record).unlink(missing_ok=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(out, ignore_errors=True)
    unfinished.replace(out)


def olive_model_package(sources: Sequence[Path], out: Path, name: str) -> None:
    """Merges model folders into ONNX Runtime's model package layout at `out`, a variant named after each folder."""
    command = [sys.executable, "-m", "olive", "generate-model-package", "--disable_telemetry"]
    for source in sources:
        command += ["-s", str(source)]
    command += ["-o", str(out), "--model_name", name]
    with tempfile.TemporaryDirectory() as work:
        done = subprocess.run(command, env=_environment(Path(work)), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"Olive could not write the package: {(done.stderr or done.stdout).strip()[-300:]}")


def _job(checkpoint: Path, recipe: Recipe, calibration: Path | None, out: Path, work: Path) -> dict[str, object]:
    device = {"device": "cpu", "execution_providers": [recipe.provider]}
    return {
        "input_model": {"type": "HfModel", "model_path": str(checkpoint)},
        "data_configs": [_calibration_data(calibration)] if calibration else [],
        "passes": recipe.passes,
        "systems": {"target": {"type": "LocalSystem", "accelerators": [device]}},
        "target": "target",
        "output_dir": str(out),
        "cache_dir": str(work / "cache"),
        "evaluate_input_model": False,
        "log_severity_level": 1,
    }


def _calibration_data(text: Path) -> dict[str, object]:
    return {
        "name": CALIBRATION,
        "type": "HuggingfaceContainer",
        "load_dataset_config": {"params": {"data_name": "json", "data_files": str(text), "split": "train"}},
        "pre_process_data_config": {
            "params": {
                "strategy": "join",
                "max_seq_len": CALIBRATION_WINDOW_TOKENS,
                "max_samples": 128,
                "text_cols": ["text"],
            }
        },
    }


def _environment(work: Path) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if key != "TQDM_DISABLE"}  # the bars are read here
    return {
        **inherited,
        "HF_HOME": str(work / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "CI": "1",  # without it, Olive 0.13 waits ten seconds for a heartbeat it queued although told not to
        "OLIVE_DISABLE_TELEMETRY": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _last_error(log: Path) -> str:
    """The last line of a traceback, if there is one: the closest to a reason."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (errors or lines or ["it printed nothing"])[-1][:300]


def _child(job: Path) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # also when the parent is killed
    from olive import run

    run(json.loads(job.read_text()))


if __name__ == "__main__":
    _child(Path(sys.argv[1]))
