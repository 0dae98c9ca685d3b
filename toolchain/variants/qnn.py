"""A variant for a Qualcomm NPU: a pipeline of static graphs, whose decoder is compiled for one SoC.

It is measured in the simulator that comes with the execution provider, on few tokens: it takes seconds for each window.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import onnx

from runtime.errors import BuildError
from runtime.package import Fidelity, Golden, Npu, file_digest
from runtime.profile import Profile
from runtime.sessions.qnn_pipeline import SINK_FILE, QnnPipeline
from runtime.sessions.static_session import StaticSession

from ..cache import alone, is_sound, keep, key_of, seal
from ..evaluation import packaged
from ..evaluation.divergence import Model
from ..evaluation.float_reference import FloatReference
from ..evaluation.heldout import held_out_text
from ..graphs.activations import settle
from ..graphs.kvscales import calibration_tokens
from ..host import cores
from ..recipes.qnn import PIPELINE, plan_binaries, plan_pipeline
from ..recipes.recipe import Precision
from ..variant import QNN_TOOLS, VariantParts
from .stages import Stages

TEXTS = 24
"""Of the calibration, so many are read for the ranges of activations."""

EXTENT = packaged.Extent(windows=2, window_tokens=128, golden_tokens=8)

_NPU_OPERATOR = "EPContext"


def require_tools() -> None:
    """Raises BuildError where the execution provider, which has compiler and simulator, is not installed."""
    try:
        version("onnxruntime-qnn")
    except PackageNotFoundError as error:
        message = "a Qualcomm NPU needs the extra `qnn` on the build host: pip install 'edgeqwen[toolchain,qnn]'"
        raise BuildError(message) from error


def make_variant(stages: Stages, profile: Profile, precision: Precision) -> VariantParts:
    """Compiles the checkpoint of `stages` for `profile`, and measures what that cost."""
    recipe, binaries = plan_pipeline(profile, precision), plan_binaries(profile)
    sink = _sink(stages)
    pipeline = _settled(stages, stages.compiled(recipe, stages.calibration(), tools=QNN_TOOLS), sink)
    compiled = stages.compiled(binaries, None, source=pipeline, tools=QNN_TOOLS)
    graphs = _graphs(compiled)
    with alone(stages.cache, compiled.name, stages.report):
        fidelity, golden, agreement = _measured(stages, profile, pipeline, compiled, replace(EXTENT, opening=(sink,)))
    operators = _operators(graphs)
    return VariantParts(
        stock=(compiled / PIPELINE, *graphs, *sorted(compiled.glob("*.bin"))),
        # Olive's package takes genai_config.json apart; the session reads it whole.
        ours={SINK_FILE: pipeline / SINK_FILE, PIPELINE: compiled / PIPELINE},
        recipe=recipe.passes | binaries.passes,
        tools=QNN_TOOLS,
        weights_bytes=sum(path.stat().st_size for path in (*graphs, *compiled.glob("*.bin"))),
        contrib_ops=sorted(name for name, domain in operators if domain == "com.microsoft" and name != _NPU_OPERATOR),
        fidelity=fidelity,
        golden=golden,
        npu=Npu(
            on_cpu={name: count for (name, _), count in sorted(operators.items()) if name != _NPU_OPERATOR},
            window_tokens=profile.runtime.prefill_chunk_tokens,
            sink=sink,
            agreement=agreement,
        ),
    )


def _sink(stages: Stages) -> int:
    """The token before every text: what conversations begin with, so that they stay as they are."""
    checkpoint = stages.checkpoint
    opening = packaged.opening_token(checkpoint.folder)
    if opening is not None:
        return opening
    bos = checkpoint.geometry.bos_token_id
    return checkpoint.geometry.eos_token_ids[0] if bos is None else bos


def _settled(stages: Stages, pipeline: Path, sink: int) -> Path:
    """The pipeline with ranges measured behind the sink."""
    text = stages.calibration()
    key = key_of(pipeline.name, file_digest(text), str(sink), str(TEXTS))
    out = stages.cache / "compiled" / key
    with alone(stages.cache, key, stages.report):
        if not is_sound(out):
            shutil.rmtree(out, ignore_errors=True)
            unfinished = out.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            shutil.copytree(pipeline, unfinished)
            texts = calibration_tokens(text, stages.checkpoint.folder / "tokenizer.json")[:TEXTS]
            with stages.report.stage("ranges of activations") as stage:
                settle(unfinished, texts, sink, threads=cores(), on_text=stage.update)
            seal(unfinished)
            unfinished.replace(out)
    return out


def _measured(
    stages: Stages, profile: Profile, pipeline: Path, compiled: Path, extent: packaged.Extent
) -> tuple[Fidelity, Golden, Fidelity]:
    """In the simulator: against the float checkpoint, and against the graphs before they were compiled."""
    text = held_out_text()
    made_from = map(file_digest, sorted(compiled.glob("*.bin")))
    kept = compiled / f"evaluation-{key_of(*made_from, text, str(extent))}.json"
    if not kept.exists():
        size, threads = extent.window_tokens + 1, cores()
        session = StaticSession(
            QnnPipeline(compiled, context_tokens=size, threads=threads, provider_options=profile.execution.options)
        )
        on_cpu = StaticSession(QnnPipeline.on_cpu(pipeline, context_tokens=size, threads=threads))
        with stages.report.stage("golden transcript in the simulator"):
            golden = stages.golden(session, extent=extent)
        model = packaged.SessionModel(session, remember=True)
        references: list[tuple[str, Model]] = [
            ("fidelity in the simulator", FloatReference(stages.checkpoint.folder)),
            ("agreement of simulator and CPU", packaged.SessionModel(on_cpu)),
        ]
        measured = []
        for name, reference in references:
            with stages.report.stage(name) as stage:
                found = stages.fidelity(reference, model, text, extent=extent, on_window=stage.update)
            measured.append(found.model_dump())
        keep(kept, [*measured, golden.model_dump()])
    fidelity, agreement, answer = json.loads(kept.read_text())
    return Fidelity.model_validate(fidelity), Golden.model_validate(answer), Fidelity.model_validate(agreement)


def _graphs(folder: Path) -> list[Path]:
    """Embeddings, decoder for a window, decoder for one token, head."""
    stages = json.loads((folder / PIPELINE).read_text())["model"]["decoder"]["pipeline"][0]
    return [folder / stage["filename"] for stage in stages.values()]


def _operators(graphs: Sequence[Path]) -> Counter[tuple[str, str]]:
    """Of what a step runs: how often each (operator, domain) is there."""
    embeddings, window, _, head = graphs
    nodes = [node for graph in (embeddings, window, head) for node in _nodes(graph)]
    return Counter((node.op_type, node.domain) for node in nodes)


def _nodes(graph: Path) -> list[onnx.NodeProto]:
    return list(onnx.load(str(graph), load_external_data=False).graph.node)
