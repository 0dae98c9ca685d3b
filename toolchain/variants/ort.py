"""A variant for ONNX Runtime: Olive's graph, the serving graph over the same weights, and adapters where asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runtime.package import (
    ADAPTER_GRAPH,
    ADAPTER_SUFFIX,
    ADAPTERS,
    PROJECTIONS,
    SMOOTHING_FILE,
    AdapterBuild,
    file_digest,
)
from runtime.package import SERVING_GRAPH as PACKAGED_GRAPH
from runtime.profile import Profile
from runtime.sessions.adapters import read_adapter

from ..cache import alone, keep
from ..checkpoints import adapters
from ..checkpoints.adapters import PeftAdapter
from ..checkpoints.smoothing import Smoothing
from ..evaluation import packaged
from ..graphs.kvscales import MAX_TEXT_TOKENS, Scales, calibration_tokens, measure_scales
from ..graphs.surgery import (
    SERVING_GRAPH,
    STOCK_GRAPH,
    adapter_sites,
    contrib_ops,
    make_adapter_graph,
    make_serving_graph,
)
from ..host import cores
from ..recipes.recipe import Precision, plan
from ..variant import VariantParts
from .stages import Stages

_WEIGHTS = f"{STOCK_GRAPH}.data"


def make_variant(
    stages: Stages,
    profile: Profile,
    precision: Precision,
    *,
    peft: Mapping[str, PeftAdapter],
    adapter_targets: Sequence[str],
) -> VariantParts:
    """Compiles the checkpoint of `stages` for `profile`, a CPU's or CUDA's, and measures what that cost."""
    packed = profile.execution.backend == "ort"
    recipe = plan(profile, precision, stages.checkpoint.row_divisor)
    int8_kv = profile.runtime.kv_cache.dtype == "int8"
    calibration = stages.calibration() if recipe.needs_calibration or int8_kv else None
    model_dir = stages.serving_model(recipe, calibration if recipe.needs_calibration else None, packed=packed)
    graph = model_dir / SERVING_GRAPH
    with alone(stages.cache, model_dir.name, stages.report):
        if int8_kv and calibration is not None:
            scales = _kv_scales(stages, graph, calibration, packed=packed)
            graph = make_serving_graph(model_dir, scales, packed=packed)
        fidelity, golden = stages.evaluated(
            graph.parent, [graph], lambda: packaged.open_session(graph, threads=cores(), packed=packed)
        )
        taking = _taking_adapters(stages, graph, peft, adapter_targets)
    return VariantParts(
        stock=tuple(model_dir / name for name in (STOCK_GRAPH, _WEIGHTS, "genai_config.json")),
        ours={PACKAGED_GRAPH: graph, **taking.files},
        recipe=recipe.passes,
        weights_bytes=(model_dir / _WEIGHTS).stat().st_size,
        contrib_ops=contrib_ops(graph),
        fidelity=fidelity,
        golden=golden,
        adapter_targets=taking.targets,
        adapters=taking.builds,
    )


@dataclass(frozen=True)
class _Taking:
    """What a variant has so that it takes adapters: nothing, where there are no targets."""

    targets: list[str] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)
    builds: dict[str, AdapterBuild] = field(default_factory=dict)


def _taking_adapters(
    stages: Stages, serving_graph: Path, peft: Mapping[str, PeftAdapter], targets: Sequence[str]
) -> _Taking:
    wanted = {*targets, *(target for adapter in peft.values() for target in adapter.targets)}
    if not wanted:
        return _Taking()
    checkpoint = stages.checkpoint
    in_order = [name for name in PROJECTIONS if name in wanted]
    graph = make_adapter_graph(serving_graph, in_order)
    sites, smoothing = adapter_sites(graph), Smoothing.beside(graph)
    taking = _Taking(in_order, {ADAPTER_GRAPH: graph} | ({SMOOTHING_FILE: smoothing.file} if smoothing.file else {}))
    for name, adapter in peft.items():
        file = graph.parent / f"adapter-{adapter.digest[:16]}{ADAPTER_SUFFIX}"
        adapters.convert(adapter, sites, smoothing, checkpoint.geometry, checkpoint.digest, file)
        loaded = read_adapter(name, file)
        fidelity, golden = stages.evaluated(
            graph.parent,
            [graph, file],
            lambda loaded=loaded: packaged.open_session(graph, threads=cores(), adapter=loaded),  # type: ignore[misc]
            adapter=name,
            peft=adapter.folder,
        )
        taking.files[str(ADAPTERS / f"{name}{ADAPTER_SUFFIX}")] = file
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


def _kv_scales(stages: Stages, graph: Path, calibration: Path, *, packed: bool) -> Scales:
    """Measured once per compiled model and calibration text."""
    kept = graph.parent / f"kv-scales-{file_digest(calibration)[:16]}.json"
    if not kept.exists():
        texts = calibration_tokens(calibration, stages.checkpoint.folder / "tokenizer.json")
        with stages.report.stage("KV scales") as stage:
            session = packaged.open_session(graph, threads=cores(), context_tokens=MAX_TEXT_TOKENS, packed=packed)
            keep(kept, measure_scales(session, texts, on_text=stage.update))
    scales: Scales = json.loads(kept.read_text())
    return scales
