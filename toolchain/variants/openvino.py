"""A variant for OpenVINO: its IR as Olive writes it, which is what the device runs and what others can run."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from runtime.errors import BuildError
from runtime.package import OPENVINO_MODEL
from runtime.profile import Profile

from ..cache import alone, key_of
from ..evaluation.packaged import WINDOW_TOKENS
from ..host import cores
from ..recipes.openvino import plan_openvino
from ..recipes.recipe import Precision
from ..variant import OPENVINO_TOOLS, VariantParts
from .stages import Stages

# openvino-genai needs them; a tokenizer that OpenVINO cannot express is left out.
_TOKENIZERS = ("openvino_tokenizer", "openvino_detokenizer")


def make_variant(stages: Stages, profile: Profile, precision: Precision) -> VariantParts:
    """Compiles the checkpoint of `stages` for `profile`, and measures on the CPU what that cost."""
    _require_tools(profile)
    from runtime.sessions.openvino_session import open_openvino

    recipe = plan_openvino(profile, precision)
    model = stages.compiled(recipe, None, tools=OPENVINO_TOOLS) / recipe.makes
    session = open_openvino(model, profile, device="CPU", slots=1, context_tokens=WINDOW_TOKENS, threads=cores())
    decides = (profile.execution.one_row, profile.runtime.kv_cache.dtype, profile.quantization.int4.accuracy_level)
    kept_in = model.parent / f"run-{key_of(*map(str, decides))}"
    kept_in.mkdir(exist_ok=True)
    with alone(stages.cache, kept_in.name, stages.report):
        fidelity, golden = stages.evaluated(kept_in, [model], lambda: session)
    return VariantParts(
        stock=_stock(model),
        ours={},
        recipe=recipe.passes,
        tools=OPENVINO_TOOLS,
        weights_bytes=model.with_suffix(".bin").stat().st_size,
        kv_bytes_per_token=session.spec.kv_bytes_per_token,
        contrib_ops=[],
        fidelity=fidelity,
        golden=golden,
    )


def _require_tools(profile: Profile) -> None:
    for name in OPENVINO_TOOLS:
        try:
            version(name)
        except PackageNotFoundError as error:
            raise BuildError(
                f"{profile.name} runs on OpenVINO, and {name} is not installed here:"
                " pip install 'edgeqwen[openvino-toolchain]'"
            ) from error


def _stock(model: Path) -> tuple[Path, ...]:
    """Olive puts all but the model into folders of their own."""
    assert model.name == OPENVINO_MODEL
    tokenizers = (model.parent / name / f"{name}{suffix}" for name in _TOKENIZERS for suffix in (".xml", ".bin"))
    return (model, model.with_suffix(".bin"), *(path for path in tokenizers if path.is_file()))
