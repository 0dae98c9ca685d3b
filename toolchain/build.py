"""The build: a checkpoint becomes a package with a variant for each profile."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

from runtime.errors import AdapterError
from runtime.footprint import megabytes
from runtime.package import FIRST_VERSION, Build, Memory, Needs, Npu, Package, Source, variants_of
from runtime.presets import Presets
from runtime.profile import Backend, Profile

from .cache import alone
from .checkpoints import adapters
from .checkpoints.adapters import PeftAdapter
from .checkpoints.smoothing import Smoothing
from .checkpoints.sources import Checkpoint, resolve
from .compile import load_olive
from .evaluation.fidelity_gate import above_gate, require_fidelity
from .exhaustion import said
from .graphs.surgery import adapter_sites
from .package import VariantInput, write_package
from .presets import read_presets_file
from .progress import Reporter
from .recipes.context import fitted_contexts
from .recipes.recipe import Precision
from .sizing.budget import Budget, Candidate, Choice, choose, require_recipes
from .sizing.sizes import shape_of
from .variant import Exporter, VariantParts
from .variants import openvino, optimum, ort, qnn
from .variants.stages import Stages

_MAKERS: dict[Backend, Callable[[Stages, Profile, Precision], VariantParts]] = {
    "qnn": qnn.make_variant,
    "openvino": openvino.make_variant,
}


@dataclass(frozen=True)
class Options:
    """What to build.

    Args:
        source: hub id, folder, GGUF file or `reference`.
        version: of the package, MAJOR.MINOR.PATCH.
        precision: for all profiles; None takes each profile's own.
        calibration: the user's own text; None lets the model write it.
        presets: for prompts, by name.
        merge_adapter: a PEFT adapter to put into the weights before all else.
        adapters: PEFT adapters to put into the package, by the name that requests give.
        adapter_targets: projections that adapters may change, beside those that `adapters` do.
        exporter: what writes the graph, for ONNX Runtime on a CPU.
        allow_low_fidelity: whether a package is written that is above its profile's fidelity gate.
        budget: what decides on the recipe instead of the profile, of that precision if one is given.
    """

    source: str
    profiles: tuple[Profile, ...]
    out: Path
    cache: Path
    version: str = FIRST_VERSION
    revision: str | None = None
    precision: Precision | None = None
    calibration: Path | None = None
    presets: Presets = field(default_factory=read_presets_file)
    merge_adapter: Path | None = None
    adapters: Mapping[str, Path] = field(default_factory=dict)
    adapter_targets: tuple[str, ...] = ()
    exporter: Exporter = "model_builder"
    allow_low_fidelity: bool = False
    budget: Budget = field(default_factory=Budget)


def build(options: Options, report: Reporter) -> tuple[Path, list[Build]]:
    """Builds one package with a variant per profile; returns where it is and what is in it.

    Raises BuildError, and writes none, if a variant is above its profile's fidelity gate and that is not allowed.
    """
    with said([options.cache, options.out]):
        return make(options, find(options, report), report)


@dataclass(frozen=True)
class Found:
    """What a package is made from: the checkpoint, an adapter merged into it where that was asked for, and adapters."""

    checkpoint: Checkpoint
    peft: Mapping[str, PeftAdapter]


def find(options: Options, report: Reporter) -> Found:
    """Looks for all that `options` name. Refuses what can be seen at once not to go together."""
    if options.adapters or options.adapter_targets:
        _require_adapters_run(options.profiles)
        optimum.require_no_adapters(options.exporter == "optimum")
    if options.budget:
        require_recipes(options.profiles)
    if any(profile.execution.backend == "qnn" for profile in options.profiles):
        qnn.require_tools()
    with alone(options.cache, "checkpoint", report), report.stage("checkpoint"):
        checkpoint = resolve(options.source, revision=options.revision, cache=options.cache)
        if options.merge_adapter:
            checkpoint = adapters.merge(checkpoint, options.merge_adapter, options.cache)
        peft = {name: adapters.read_peft(path) for name, path in sorted(options.adapters.items())}
        for adapter in peft.values():
            adapters.require_same_shape(adapter, checkpoint.geometry)
    if options.exporter == "model_builder":
        optimum.require_model_builder(checkpoint)
    return Found(checkpoint, peft)


def make(options: Options, found: Found, report: Reporter) -> tuple[Path, list[Build]]:
    """Builds the package of what was found; see `build`."""
    load_olive()
    checkpoint = found.checkpoint
    for sentence in fitted_contexts(options.profiles, checkpoint.geometry.context_tokens):
        report.note(sentence)
    stages = Stages(checkpoint, options.cache, options.calibration, report)
    with said([options.cache, options.out], stages.disk_bytes):
        variants = [_variant(stages, profile, found.peft, options) for profile in options.profiles]
        if not options.allow_low_fidelity:
            require_fidelity([variant.build for variant in variants])
        with report.stage("package"):
            package = write_package(options.out, checkpoint.folder, variants, options.presets)
    return package, [variant.build for variant in variants]


def _require_adapters_run(profiles: Sequence[Profile]) -> None:
    if without := [profile.name for profile in profiles if profile.execution.backend != "ort"]:
        raise AdapterError(
            f"{', '.join(without)}: requests can choose adapters on CPUs only so far; put one into the weights with"
            " --merge-adapter"
        )


def convert_for(root: Path, variant: str | None, folder: Path, out: Path) -> None:
    """Writes the PEFT adapter in `folder` to `out`, for the package at `root`."""
    if variant is None and len({Package.open(root, each, verify=False).adapter_base for each in variants_of(root)}) > 1:
        names = ", ".join(variants_of(root))
        raise AdapterError(f"{root.name} takes other adapters in each variant: name one with --variant, of {names}")
    package = Package.open(root, variant or next(iter(variants_of(root)), None), verify=False)
    if package.adapter_graph is None:
        raise AdapterError(f"{root.name} takes no adapters: build it with --adapter or --adapter-targets")
    build, peft = package.build, adapters.read_peft(folder)
    adapters.require_same_shape(peft, build.model)
    out.parent.mkdir(parents=True, exist_ok=True)
    sites, smoothing = adapter_sites(package.adapter_graph), Smoothing.beside(package.adapter_graph)
    adapters.convert(peft, sites, smoothing, build.model, build.source.digest, out)


def _variant(stages: Stages, profile: Profile, peft: Mapping[str, PeftAdapter], options: Options) -> VariantInput:
    precision = options.precision or profile.quantization.precision
    choice = _chosen(stages, profile, options) if options.budget else None
    if choice:
        profile, precision = choice.candidate.profile, choice.candidate.precision
    if options.exporter == "optimum":
        parts = optimum.make_variant(stages, profile, precision)
    elif make := _MAKERS.get(profile.execution.backend):
        parts = make(stages, profile, precision)
    else:
        parts = ort.make_variant(stages, profile, precision, peft=peft, adapter_targets=options.adapter_targets)
    if choice:
        parts = replace(parts, recipe=parts.recipe | {"budget": {"limits": str(options.budget), "why": choice.why}})
    build = _build_of(stages, profile, precision, parts)
    return VariantInput(parts, build.model_copy(update={"version": options.version, "low_fidelity": above_gate(build)}))


def _chosen(stages: Stages, profile: Profile, options: Options) -> Choice:
    """The recipe for the budget. What is tried on the way stays in the cache."""

    def measure(candidate: Candidate) -> VariantParts:
        size = megabytes(candidate.weights_bytes)
        stages.report.note(f"{profile.name}: trying {candidate.name}, with at most {size} of weights")
        return ort.make_variant(stages, candidate.profile, candidate.precision, peft={}, adapter_targets=())

    config = json.loads((stages.checkpoint.folder / "config.json").read_bytes())
    return choose(profile, shape_of(config, "config.json"), options.budget, measure, precision=options.precision)


def _build_of(stages: Stages, profile: Profile, precision: Precision, parts: VariantParts) -> Build:
    """All that `build.json` says but the digests of files, which are there once the package is."""
    checkpoint, geometry = stages.checkpoint, stages.checkpoint.geometry
    return Build(
        name=f"{checkpoint.name}-{precision}",
        variant=profile.name,
        precision=precision,
        source=Source(kind=checkpoint.kind, id=checkpoint.id, revision=checkpoint.revision, digest=checkpoint.digest),
        profile=profile,
        recipe=parts.recipe,
        tools={name: version(name) for name in parts.tools},
        model=geometry,
        sampling=checkpoint.sampling,
        fidelity=parts.fidelity,
        golden=parts.golden,
        needs=Needs(
            provider=profile.execution.provider,
            arch=profile.device.arch,
            isa=profile.device.isa,
            contrib_ops=parts.contrib_ops,
            onnxruntime_min=_minor("onnxruntime") if parts.for_onnxruntime else None,
            openvino_min=_minor("openvino") if profile.execution.backend == "openvino" else None,
        ),
        memory=Memory(
            weights_bytes=parts.weights_bytes,
            kv_bytes_per_token=parts.kv_bytes_per_token
            or 2 * geometry.layers * geometry.kv_heads * geometry.head_dim * profile.kv_itemsize,
        ),
        exporter=parts.exporter,
        npu=parts.npu,
        adapter_targets=parts.adapter_targets,
        adapters=parts.adapters,
        files={},
    )


def _minor(package: str) -> str:
    """The version that is here, as far as it says what the package can do."""
    return ".".join(version(package).split(".")[:2])


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
        | ({"exporter": build.exporter} if build.exporter != "model_builder" else {})
        | ({"low_fidelity": build.low_fidelity} if build.low_fidelity else {})
        | ({"chosen": build.recipe["budget"]["why"]} if "budget" in build.recipe else {})
        | ({"adapters": _adapter_summary(build)} if build.adapters else {})
        | ({"npu": _npu_summary(build.npu)} if build.npu else {})
        for build in builds
    ]


def _npu_summary(npu: Npu) -> dict[str, object]:
    return {
        "on_cpu": npu.on_cpu,
        "tokens_measured": npu.agreement.tokens,
        "mean_kld_to_cpu": round(npu.agreement.mean_kld, 4),
        "top1_agreement_with_cpu": round(npu.agreement.top1_agreement, 3),
    }


def _adapter_summary(build: Build) -> dict[str, object]:
    return {
        name: adapter.fidelity and {"mean_kld": round(adapter.fidelity.mean_kld, 4)}
        for name, adapter in build.adapters.items()
    }
