"""Runs a recipe through Microsoft Olive. The only door to olive.

Olive runs in child processes: what it allocates and logs, and the environment it needs (no hub, no telemetry), stay
there, and a build that is stopped takes them along. They fork from one process that has imported Olive, which takes
seconds, before it is needed. Olive's cache in the work folder makes a second run resume after the last finished pass.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from runtime.errors import BuildError

from .cache import seal
from .exhaustion import out_of_memory, raise_if_exhausted
from .recipes.recipe import CALIBRATION_DATA, OUR_PASSES, Recipe

OnProgress = Callable[[str, int, int], None]
"""Called with the name of a step, how much of it is done, and how much there is."""

# tqdm's line, such as "Processing layers...:  10%|#   | 3/30 [00:20<03:00, ...".
_BAR = re.compile(r"([A-Z][\w .]*?)\.*:\s+\d+%\|[^|]*\| (\d+)/(\d+) ")

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_M_PERTURB = -6  # malloc.h: each byte of memory that is given out is the complement of what is set

_RECORDS = ("footprint.json", "model_config.json", "output_footprint.json", "run_history.txt")


def run_olive(
    source: Path,
    recipe: Recipe,
    calibration: Path | None,
    out: Path,
    *,
    work: Path,
    log: Path,
    on_progress: OnProgress = lambda name, done, total: None,
) -> None:
    """Runs `recipe` on what is in the folder `source`; leaves Olive's model folder at `out`, whole or not at all.

    Args:
        source: what the recipe takes, a checkpoint or a pipeline.
        calibration: JSON lines with a `text` each; needed if the recipe needs calibration.
        work: Olive's cache and scratch folder; keep it to resume, delete it at will.
        log: everything that Olive prints.

    Raises BuildError, naming `log`, if Olive fails; OutOfDisk or OutOfMemory if that was why.
    """
    assert calibration is not None or not recipe.needs_calibration
    work.mkdir(parents=True, exist_ok=True)
    unfinished = work / "output"
    shutil.rmtree(unfinished, ignore_errors=True)
    job = _job(source, recipe, calibration, unfinished, work)
    with log.open("w") as log_file:

        def on_line(line: str) -> None:
            log_file.write(line)
            if bar := _BAR.search(line):
                on_progress(bar[1], int(bar[2]), int(bar[3]))

        status = _in_child(_run, job, on_line)
    if status == -signal.SIGKILL:
        raise out_of_memory("Olive, which the system killed,")
    if status != 0 or not (unfinished / recipe.makes).is_file():
        raise_if_exhausted(_last_error(log), "Olive", [work])
        raise BuildError(f"Olive failed (exit status {status}): {_last_error(log)}; its whole log is {log}")
    for record in _RECORDS:  # they hold times and paths, and nobody reads them
        (unfinished / record).unlink(missing_ok=True)
    seal(unfinished)
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(out, ignore_errors=True)
    unfinished.replace(out)


def code_digest(recipe: Recipe) -> str:
    """SHA-256 over the modules of ours that `recipe` runs: another version of them makes another model."""
    package = Path(__file__).parents[1]
    files = (package / f"{module.replace('.', '/')}.py" for module in recipe.our_modules)
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def olive_model_package(sources: Sequence[Path], out: Path, name: str, version: str) -> None:
    """Merges model folders into ONNX Runtime's model package layout at `out`, a variant named after each folder."""
    arguments = ["generate-model-package", "--disable_telemetry"]
    for source in sources:
        arguments += ["-s", str(source)]
    arguments += ["-o", str(out), "--model_name", name, "--model_version", version]
    lines: list[str] = []
    if _in_child(_command, arguments, lines.append) != 0:
        raise_if_exhausted("".join(lines), "Olive", [out])
        raise BuildError(f"Olive could not write the package: {''.join(lines).strip()[-300:]}")


def load_olive() -> None:
    """Begins to import Olive, beside whatever comes next. Without it, the first run of Olive begins with that."""
    forkserver.set_forkserver_preload([f"{__package__}.passes.olive_environment"])
    forkserver.ensure_running()


def _in_child(call: Callable[[Any], None], argument: object, on_line: Callable[[str], None]) -> int | None:
    """Makes the call in a process forked from the one that has imported Olive; returns its exit status.

    `on_line` gets each line that it prints. If that raises, the process is killed.
    """
    load_olive()
    reader, writer = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("forkserver").Process(target=_child, args=(writer, call, argument))
    child.start()
    writer.close()
    try:
        with reader, open(reader.fileno(), errors="replace", closefd=False) as output:
            for line in output:  # universal newlines: each redraw of a bar is a line
                on_line(line)
        child.join()
        return child.exitcode
    finally:
        child.kill()
        child.join()


def _child(output: Connection, call: Callable[[Any], None], argument: object) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # also when the build is killed
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    output.close()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    call(argument)


def _run(job: dict[str, object]) -> None:
    from olive import run
    from olive.package_config import OlivePackageConfig

    from .passes import rotary_tables  # noqa: F401  Olive knows its surgeons once they are imported

    _teach_qnn()
    known = json.loads(Path(OlivePackageConfig.get_default_config_path()).read_text())
    known["passes"] |= {path.rpartition(".")[2]: {"module_path": path} for path in OUR_PASSES}
    run(job, package_config=known)


def _teach_qnn() -> None:
    """What Olive 0.13 lacks for QNN on Linux, in this process."""
    import olive.systems.local
    from olive.passes.onnx.context_binary import EPContextBinaryGenerator

    # It looks only for providers inside of onnxruntime, and QNN's is a library of its own.
    find_providers = olive.systems.local.get_ort_available_providers
    olive.systems.local.get_ort_available_providers = lambda: ["QNNExecutionProvider", *find_providers()]

    # The path of a graph goes into the names of its parts, and so into the package. So does memory that the vendor's
    # compiler writes without having set it: malloc gives it zeros.
    generate = EPContextBinaryGenerator._generate_context_binary

    def generate_in_its_folder(model_path: str, **rest: object) -> object:
        os.chdir(Path(model_path).parent)
        ctypes.CDLL(None).mallopt(_M_PERTURB, 0xFF)
        return generate(model_path=Path(model_path).name, **rest)

    EPContextBinaryGenerator._generate_context_binary = staticmethod(generate_in_its_folder)


def _command(arguments: list[str]) -> None:
    from olive.cli.launcher import main

    main(arguments)


def _job(source: Path, recipe: Recipe, calibration: Path | None, out: Path, work: Path) -> dict[str, object]:
    device = {"device": recipe.device, "execution_providers": [recipe.provider]}
    return {
        "input_model": _pipeline(source) if recipe.takes == "pipeline" else _checkpoint(source),
        "data_configs": [_data(name, calibration, work) for name in recipe.calibration if calibration],
        "passes": recipe.passes,
        "systems": {"target": {"type": "LocalSystem", "accelerators": [device]}},
        "target": "target",
        "output_dir": str(out),
        "cache_dir": str(work / "cache"),
        "evaluate_input_model": False,
        "log_severity_level": 1,
    }


def _checkpoint(folder: Path) -> dict[str, object]:
    return {"type": "HfModel", "model_path": str(folder)}


def _pipeline(folder: Path) -> dict[str, object]:
    """The graphs that Olive's StaticLLM wrote, as it described them: genai_config.json lists them in order."""
    config = folder / "genai_config.json"
    stages = json.loads(config.read_text())["model"]["decoder"]["pipeline"][0]
    names = list(stages)
    graphs = [
        {"type": "ONNXModel", "config": {"model_path": str(folder), "onnx_file_name": stage["filename"]}}
        for stage in stages.values()
    ]
    parts = {"embeddings": names[0], "context": [names[1]], "iterator": [names[2]], "lm_head": names[3]}
    others = sorted(str(path) for path in folder.iterdir() if path.suffix in {".json", ".jinja", ".npz"})
    return {
        "type": "CompositeModel",
        "config": {
            "model_path": str(folder),
            "model_component_names": names,
            "model_components": graphs,
            "model_attributes": {"llm_pipeline": parts, "additional_files": others},
        },
    }


def _data(name: str, text: Path, work: Path) -> dict[str, object]:
    samples = CALIBRATION_DATA[name]
    return {
        "name": name,
        "type": "HuggingfaceContainer",
        "load_dataset_config": {
            "params": {
                "data_name": "json",
                "data_files": str(text),
                "split": "train",
                "cache_dir": str(work / "datasets"),
            }
        },
        "pre_process_data_config": {
            "params": {
                "strategy": "join",
                "max_seq_len": samples.window_tokens,
                "max_samples": samples.windows,
                "text_cols": ["text"],
            }
        },
    }


def _last_error(log: Path) -> str:
    """The last line of a traceback, if there is one: the closest to a reason."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (errors or lines or ["it printed nothing"])[-1][:300]
