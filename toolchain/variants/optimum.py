"""A variant whose graph Optimum wrote: ONNX Runtime runs it on a CPU as it is, one request at a time."""

from __future__ import annotations

from pathlib import Path

from runtime.errors import AdapterError, UnsupportedArchitecture
from runtime.package import PLAIN_GRAPH, Geometry
from runtime.profile import Profile
from runtime.sessions.plain_session import PlainSession

from ..cache import alone, keep
from ..checkpoints.sources import Checkpoint
from ..evaluation.packaged import WINDOW_TOKENS
from ..graphs.surgery import contrib_ops
from ..host import cores
from ..recipes.optimum import plan_optimum
from ..recipes.recipe import Precision
from ..variant import OPTIMUM_TOOLS, VariantParts
from .stages import Stages

_WEIGHTS = f"{PLAIN_GRAPH}.data"
_GENAI_CONFIG = "genai_config.json"
_GENAI_TYPES = {"Qwen2ForCausalLM": "qwen2"}  # to onnxruntime-genai all decoders are alike, and not all are named


def require_model_builder(checkpoint: Checkpoint) -> None:
    """Raises UnsupportedArchitecture for a checkpoint that only Optimum exports."""
    if checkpoint.only_optimum:
        raise UnsupportedArchitecture(
            f"{checkpoint.folder.name} {checkpoint.only_optimum}, for which ModelBuilder has no graph: build it with"
            " --exporter optimum, which makes a slower one"
        )


def require_no_adapters(wanted: bool) -> None:
    """Raises AdapterError if adapters are."""
    if wanted:
        raise AdapterError(
            "requests cannot choose adapters with --exporter optimum: put one into the weights with --merge-adapter"
        )


def _what_it_costs(profile: Profile) -> str:
    """What to know of such a variant, in a sentence."""
    kv = profile.runtime.kv_cache.dtype
    float_kv = "" if kv == "float32" else f", and with a KV cache in float32, not {kv}"
    return f"{profile.name}: Optimum's graph is slower than ModelBuilder's and runs one request at a time{float_kv}"


def make_variant(stages: Stages, profile: Profile, precision: Precision) -> VariantParts:
    """Exports the checkpoint of `stages` for `profile`, a CPU's, and measures what quantizing it cost."""
    geometry = stages.checkpoint.geometry
    recipe = plan_optimum(profile, precision, geometry.layers)
    stages.report.note(_what_it_costs(profile))
    model_dir = stages.compiled(recipe, None, tools=OPTIMUM_TOOLS)
    graph = model_dir / PLAIN_GRAPH
    with alone(stages.cache, model_dir.name, stages.report):
        keep(model_dir / _GENAI_CONFIG, _genai_config(geometry))
        fidelity, golden = stages.evaluated(model_dir, [graph], lambda: _open(graph))
    return VariantParts(
        stock=(graph, model_dir / _WEIGHTS, model_dir / _GENAI_CONFIG),
        ours={},
        recipe=recipe.passes,
        tools=OPTIMUM_TOOLS,
        weights_bytes=(model_dir / _WEIGHTS).stat().st_size,
        kv_bytes_per_token=2 * geometry.layers * geometry.kv_heads * geometry.head_dim * 4,
        contrib_ops=contrib_ops(graph),
        fidelity=fidelity,
        golden=golden,
        exporter="optimum",
    )


def _open(graph: Path) -> PlainSession:
    return PlainSession(graph, context_tokens=WINDOW_TOKENS, threads=cores())


def _genai_config(geometry: Geometry) -> dict[str, object]:
    """What onnxruntime-genai, and Olive's packager, want to know of the graph."""
    caches = {
        f"{when}_{part}_names": f"{prefix}.%d.{part}"
        for when, prefix in (("past", "past_key_values"), ("present", "present"))
        for part in ("key", "value")
    }
    decoder = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": PLAIN_GRAPH,
        "head_size": geometry.head_dim,
        "hidden_size": geometry.hidden_size,
        "num_hidden_layers": geometry.layers,
        "num_key_value_heads": geometry.kv_heads,
        "inputs": {name: name for name in ("input_ids", "attention_mask", "position_ids")}
        | {name: value for name, value in caches.items() if name.startswith("past")},
        "outputs": {"logits": "logits"} | {name: value for name, value in caches.items() if name.startswith("present")},
    }
    return {
        "model": {
            "type": _GENAI_TYPES.get(geometry.architecture, "qwen3"),
            "context_length": geometry.context_tokens,
            "vocab_size": geometry.vocab_size,
            "bos_token_id": geometry.bos_token_id or 0,
            "eos_token_id": geometry.eos_token_ids,
            "pad_token_id": (geometry.eos_token_ids or [0])[0],
            "decoder": decoder,
        },
        "search": {"max_length": geometry.context_tokens, "past_present_share_buffer": False},
    }
