"""The build: checkpoint -> calibration text -> Olive -> serving graph, KV scales -> fidelity -> package.

Every result is kept in the cache under a key of all that it was made from, and appears there only when it is whole. So
a build that was stopped goes on from what is done, and profiles that need the same model share it, as do builds that
run at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import onnx

from runtime.adapters import read_adapter
from runtime.errors import AdapterError, BuildError
from runtime.package import (
    ADAPTER_SUFFIX,
    PROJECTIONS,
    AdapterBuild,
    Build,
    Fidelity,
    Golden,
    Memory,
    Needs,
    Package,
    Source,
    file_digest,
    variants_of,
)
from runtime.presets import Presets
from runtime.profile import Profile

from . import adapters, calibrate, evaluate
from .adapters import PeftAdapter
from .compile import load_olive, run_olive
from .kvscales import Scales, calibration_tokens, measure_scales
from .package import WEIGHTS, VariantInput, write_package
from .presets import read_presets_file
from .progress import Reporter
from .recipe import Precision, Recipe, plan, plan_calibration_writer
from .sources import Checkpoint, resolve
from .surgery import SERVING_GRAPH, adapter_sites, make_adapter_graph, make_serving_graph

_TOOLS = ("olive-ai", "onnxruntime", "onnxruntime-genai", "torch", "transformers")


@dataclass(frozen=True)
class Options:
    """What to build.

    Args:
        source: hub id, folder, GGUF file or `reference`.
        precision: for all profiles; None takes each profile's own.
        calibration: the user's own text; None lets the model write it.
        presets: for prompts, by name.
        merge_adapter: a PEFT adapter to put into the weights before all else.
        adapters: PEFT adapters to put into the package, by the name that requests give.
        adapter_targets: projections that adapters may change, beside those that `adapters` do.
    """

    source: str
    profiles: tuple[Profile, ...]
    out: Path
    cache: Path
    revision: str | None = None
    precision: Precision | None = None
    calibration: Path | None = None
    presets: Presets = field(default_factory=read_presets_file)
    merge_adapter: Path | None = None
    adapters: Mapping[str, Path] = field(default_factory=dict)
    adapter_targets: tuple[str, ...] = ()


def build(options: Options, report: Reporter) -> tuple[Path, list[Build]]:
    """Builds one package with a variant per profile; returns where it is and what is in it."""
    load_olive()
    with _alone(options.cache, "checkpoint", report), report.stage("checkpoint"):
        checkpoint = resolve(options.source, revision=options.revision, cache=options.cache)
        if options.merge_adapter:
            checkpoint = adapters.merge(checkpoint, options.merge_adapter, options.cache)
        peft = {name: adapters.read_peft(path) for name, path in sorted(options.adapters.items())}
        for adapter in peft.values():
            adapters.require_same_shape(adapter, checkpoint.geometry)
    variants = [_variant(checkpoint, profile, peft, options, report) for profile in options.profiles]
    with report.stage("package"):
        package = write_package(options.out, checkpoint.folder, variants, options.presets)
    return package, [variant.build for variant in variants]


def convert_for(root: Path, variant: str | None, folder: Path, out: Path) -> None:
    """Writes the PEFT adapter in `folder` to `out`, for the package at `root`."""
    package = Package.open(root, variant or next(iter(variants_of(root)), None), verify=False)
    if package.adapter_graph is None:
        raise AdapterError(f"{root.name} takes no adapters: build it with --adapter or --adapter-targets")
    build, peft = package.build, adapters.read_peft(folder)
    adapters.require_same_shape(peft, build.model)
    out.parent.mkdir(parents=True, exist_ok=True)
    adapters.convert(peft, adapter_sites(package.adapter_graph), build.model, build.source.digest, out)


@contextmanager
def _alone(cache: Path, entry: str, report: Reporter) -> Iterator[None]:
    """Keeps other builds from an entry of the cache while this one looks for it or makes it."""
    locks = cache / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / entry).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with report.stage("waiting for the build that makes the same"):
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _variant(
    checkpoint: Checkpoint, profile: Profile, peft: Mapping[str, PeftAdapter], options: Options, report: Reporter
) -> VariantInput:
    precision = options.precision or profile.quantization.precision
    recipe = plan(profile, precision, checkpoint.geometry.hidden_size)
    int8_kv = profile.runtime.kv_cache.dtype == "int8"
    calibration = _calibration(checkpoint, options, report) if recipe.needs_calibration or int8_kv else None
    model_dir = _compiled(checkpoint, recipe, calibration if recipe.needs_calibration else None, options.cache, report)
    serving_graph = model_dir / SERVING_GRAPH
    with _alone(options.cache, model_dir.name, report):
        if int8_kv and calibration is not None:
            serving_graph = make_serving_graph(model_dir, _kv_scales(checkpoint, serving_graph, calibration, report))
        fidelity, golden = _evaluated(checkpoint, serving_graph, report)
        taking = _taking_adapters(checkpoint, serving_graph, peft, options.adapter_targets, report)
    geometry = checkpoint.geometry
    return VariantInput(
        model_dir,
        serving_graph,
        Build(
            name=f"{checkpoint.name}-{precision}",
            variant=profile.name,
            precision=precision,
            source=Source(
                kind=checkpoint.kind, id=checkpoint.id, revision=checkpoint.revision, digest=checkpoint.digest
            ),
            profile=profile,
            recipe=recipe.passes,
            tools={name: version(name) for name in _TOOLS},
            model=geometry,
            sampling=checkpoint.sampling,
            fidelity=fidelity,
            golden=golden,
            needs=Needs(
                provider=profile.execution.provider,
                arch=profile.device.arch,
                isa=profile.device.isa,
                contrib_ops=_contrib_ops(serving_graph),
                onnxruntime_min=".".join(version("onnxruntime").split(".")[:2]),
            ),
            memory=Memory(
                weights_bytes=(model_dir / WEIGHTS).stat().st_size,
                kv_bytes_per_token=2 * geometry.layers * geometry.kv_heads * geometry.head_dim * profile.kv_itemsize,
            ),
            adapter_targets=taking.targets,
            adapters=taking.builds,
            files={},
        ),
        taking.graph,
        taking.files,
    )


@dataclass(frozen=True)
class _Taking:
    """What a variant has so that it takes adapters: nothing, where there are no targets."""

    targets: list[str] = field(default_factory=list)
    graph: Path | None = None
    files: dict[str, Path] = field(default_factory=dict)
    builds: dict[str, AdapterBuild] = field(default_factory=dict)


@dataclass(frozen=True)
class _Converted:
    """An adapter as PEFT has it, and its file for the graph."""

    name: str
    peft: PeftAdapter
    file: Path


def _taking_adapters(
    checkpoint: Checkpoint, graph: Path, peft: Mapping[str, PeftAdapter], targets: Sequence[str], report: Reporter
) -> _Taking:
    wanted = {*targets, *(target for adapter in peft.values() for target in adapter.targets)}
    if not wanted:
        return _Taking()
    in_order = [name for name in PROJECTIONS if name in wanted]
    taking = _Taking(in_order, make_adapter_graph(graph, in_order))
    assert taking.graph is not None
    sites = adapter_sites(taking.graph)
    for name, adapter in peft.items():
        file = graph.parent / f"adapter-{adapter.digest[:16]}{ADAPTER_SUFFIX}"
        adapters.convert(adapter, sites, checkpoint.geometry, checkpoint.digest, file)
        fidelity, golden = _evaluated(checkpoint, taking.graph, report, _Converted(name, adapter, file))
        taking.files[name] = file
        taking.builds[name] = AdapterBuild(
            id=adapter.id,
            digest=adapter.digest,
            rank=adapter.rank,
            alpha=adapter.alpha,
            targets=list(adapter.targets),
            fidelity=fidelity,
            golden=golden,
        )
    return taking


def _calibration(checkpoint: Checkpoint, options: Options, report: Reporter) -> Path:
    """The calibration text, the user's or the model's own, as JSON lines in the cache."""
    if options.calibration is not None:
        out = options.cache / "calibration" / f"user-{_key(str(options.calibration.resolve()))[:16]}.jsonl"
        with _alone(options.cache, out.stem, report):
            calibrate.read_calibration(options.calibration, out)
        return out
    recipe = plan_calibration_writer(checkpoint.geometry.hidden_size)
    key = _key(checkpoint.digest, recipe.key, calibrate.calibration_key())[:16]
    out = options.cache / "calibration" / f"{key}.jsonl"
    with _alone(options.cache, out.stem, report):
        if not out.exists():
            model_dir = _compiled(checkpoint, recipe, None, options.cache, report)
            with report.stage("calibration text") as stage:
                session = calibrate.open_writer(model_dir / SERVING_GRAPH, threads=_cores())
                calibrate.write_calibration(session, checkpoint.folder, out, on_tokens=stage.update)
    return out


def _compiled(checkpoint: Checkpoint, recipe: Recipe, calibration: Path | None, cache: Path, report: Reporter) -> Path:
    """Olive's model folder with the serving graph in it."""
    text = file_digest(calibration) if calibration else ""
    key = _key(checkpoint.digest, recipe.key, text, *(version(name) for name in _TOOLS))[:16]
    out, work = cache / "compiled" / key, cache / "work" / key
    log = cache / "logs" / f"{key}.log"
    log.parent.mkdir(exist_ok=True)
    with _alone(cache, key, report):
        if not out.is_dir():
            with report.stage("Olive") as stage:
                run_olive(
                    checkpoint.folder,
                    recipe,
                    calibration,
                    out,
                    work=work,
                    log=log,
                    on_progress=lambda part, done, total: stage.update(done, total, part),
                )
            shutil.rmtree(work, ignore_errors=True)
        make_serving_graph(out)
    return out


def _kv_scales(checkpoint: Checkpoint, graph: Path, calibration: Path, report: Reporter) -> Scales:
    """Measured once per compiled model and calibration text."""
    kept = graph.parent / f"kv-scales-{file_digest(calibration)[:16]}.json"
    if not kept.exists():
        texts = calibration_tokens(calibration, checkpoint.folder / "tokenizer.json")
        with report.stage("KV scales") as stage:
            _keep(kept, measure_scales(graph, texts, threads=_cores(), on_text=stage.update))
    scales: Scales = json.loads(kept.read_text())
    return scales


def _evaluated(
    checkpoint: Checkpoint, graph: Path, report: Reporter, adapter: _Converted | None = None
) -> tuple[Fidelity, Golden]:
    """Fidelity and golden transcript, measured once per serving graph, adapter and held-out text."""
    text = evaluate.held_out_text()
    made_from = [file_digest(graph), text, *([file_digest(adapter.file)] if adapter else [])]
    kept = graph.parent / f"evaluation-{_key(*made_from)[:16]}.json"
    if not kept.exists():
        with report.stage(f"fidelity of {adapter.name}" if adapter else "fidelity") as stage:
            fidelity, golden = _evaluate(checkpoint, graph, text, adapter, stage.update)
        _keep(kept, [fidelity.model_dump(), golden.model_dump()])
    fidelity_data, golden_data = json.loads(kept.read_text())
    return Fidelity.model_validate(fidelity_data), Golden.model_validate(golden_data)


def _keep(path: Path, data: object) -> None:
    """Writes JSON, whole or not at all."""
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(data))
    unfinished.replace(path)


def _evaluate(
    checkpoint: Checkpoint, graph: Path, text: str, adapter: _Converted | None, on_window: evaluate.OnWindow
) -> tuple[Fidelity, Golden]:
    windows = evaluate.windows_of(text, checkpoint.folder / "tokenizer.json")
    if not windows:
        raise BuildError("the held-out text is too short for this tokenizer")
    loaded = read_adapter(adapter.name, adapter.file) if adapter else None
    name = loaded.name if loaded else None
    session = evaluate.open_session(graph, threads=_cores(), adapter=loaded)
    golden = evaluate.golden_transcript(
        session,
        evaluate.golden_prompt(checkpoint.folder),
        eos_token_ids=frozenset(checkpoint.geometry.eos_token_ids),
        adapter=name,
    )
    reference = evaluate.FloatReference(checkpoint.folder, adapter.peft.folder if adapter else None)
    fidelity = evaluate.measure(
        reference, session, windows, text="edgeqwen held-out", adapter=name, on_window=on_window
    )
    return fidelity, golden


def _contrib_ops(graph: Path) -> list[str]:
    nodes = onnx.load(str(graph), load_external_data=False).graph.node
    return sorted({node.op_type for node in nodes if node.domain == "com.microsoft"})


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _cores() -> int:
    """Those that this process may use (taskset, cgroup cpuset)."""
    return len(os.sched_getaffinity(0))


def default_cache() -> Path:
    """EDGEQWEN_CACHE, or the user's cache folder (XDG base directory specification)."""
    if own := os.environ.get("EDGEQWEN_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeqwen"


def summary(builds: Sequence[Build]) -> list[dict[str, object]]:
    """A row per variant, for people and scripts."""
    return [
        {
            "variant": build.variant,
            "precision": build.precision,
            "weights_bytes": build.memory.weights_bytes,
            "mean_kld": build.fidelity and round(build.fidelity.mean_kld, 4),
            "top1_agreement": build.fidelity and round(build.fidelity.top1_agreement, 3),
            "perplexity": build.fidelity and round(build.fidelity.perplexity, 2),
            "perplexity_float": build.fidelity and round(build.fidelity.perplexity_float, 2),
        }
        | ({"adapters": _adapter_summary(build)} if build.adapters else {})
        for build in builds
    ]


def _adapter_summary(build: Build) -> dict[str, object]:
    return {
        name: adapter.fidelity and {"mean_kld": round(adapter.fidelity.mean_kld, 4)}
        for name, adapter in build.adapters.items()
    }
