"""LoRA adapters as PEFT saves them: read, converted for the adapter graph, or merged into their checkpoint.

What a conversion cannot hold is refused by name: the graph adds `x @ A @ B` behind linear projections, nothing else.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.errors import AdapterError
from runtime.package import PROJECTIONS, Geometry, file_digest
from runtime.sessions.adapters import LORA_A, LORA_B, write_adapter

from ..cache import whole
from ..graphs.surgery import Site
from .smoothing import Smoothing
from .sources import Checkpoint, package_name, resolve, scratch_in

Matrix = NDArray[np.float32]

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_TENSOR = re.compile(rf"base_model\.model\.model\.layers\.(\d+)\.\w+\.({'|'.join(PROJECTIONS)})\.lora_([AB])\.weight")

# Settings of PEFT's LoraConfig that make an adapter more than A and B, or scale it otherwise, where they are set.
_UNSUPPORTED = (
    "alora_invocation_tokens",
    "alpha_pattern",
    "arrow_config",
    "fan_in_fan_out",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "trainable_token_indices",
)
_CHANGES_THE_BASE = ("corda", "loftq", "lora_ga", "olora", "pissa")


@dataclass(frozen=True)
class PeftAdapter:
    """A PEFT adapter. `pairs` has, by layer and projection, A `[rank, in]` and B `[out, rank]`, scaled already."""

    folder: Path
    digest: str
    alpha: float
    pairs: Mapping[tuple[int, str], tuple[Matrix, Matrix]]

    @property
    def id(self) -> str:
        return self.folder.resolve().name

    @property
    def rank(self) -> int:
        """The highest of all its pairs."""
        return max(len(down) for down, _ in self.pairs.values())

    @property
    def targets(self) -> tuple[str, ...]:
        """The projections that it changes, as a layer has them in order."""
        changed = {projection for _, projection in self.pairs}
        return tuple(name for name in PROJECTIONS if name in changed)


def read_peft(folder: Path) -> PeftAdapter:
    """Reads `adapter_config.json` and `adapter_model.safetensors`. Raises AdapterError with every reason against it."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = _read_config(folder)
    if faults := _unsupported(config):
        reasons = "; ".join(faults)
        raise AdapterError(f"the adapter {folder} is not plain LoRA ({reasons}): merge it with --merge-adapter")
    try:
        weights = load_file(folder / _WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{folder / _WEIGHTS} cannot be read: {error}") from error
    parts: dict[tuple[int, str, str], Matrix] = {}
    for name, weight in weights.items():
        match = _TENSOR.fullmatch(name)
        if match is None:
            raise AdapterError(
                f"the adapter {folder} changes {name}; those that can be changed apart are {', '.join(PROJECTIONS)}"
            )
        parts[int(match[1]), match[2], match[3]] = weight.float().numpy()
    pairs = {}
    for layer, projection in sorted({key[:2] for key in parts}):
        down, up = parts.get((layer, projection, "A")), parts.get((layer, projection, "B"))
        if down is None or up is None or down.shape[0] != up.shape[1]:
            raise AdapterError(f"the adapter {folder} has no pair of A and B for {projection} of layer {layer}")
        if not (np.isfinite(down).all() and np.isfinite(up).all()):
            raise AdapterError(f"the adapter {folder} has values that are no numbers in {projection} of layer {layer}")
        pairs[layer, projection] = down, up * np.float32(_scale(config, len(down)))
    if not pairs:
        raise AdapterError(f"the adapter {folder} changes nothing: {_WEIGHTS} is empty")
    return PeftAdapter(folder, _digest(folder), float(str(config["lora_alpha"])), pairs)


def require_same_shape(adapter: PeftAdapter, geometry: Geometry) -> None:
    """Raises AdapterError if `adapter` was trained on a model of another shape, as far as `geometry` tells."""
    kv_size = geometry.kv_heads * geometry.head_dim
    inputs = dict.fromkeys(("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"), geometry.hidden_size)
    outputs = {"k_proj": kv_size, "v_proj": kv_size, "o_proj": geometry.hidden_size, "down_proj": geometry.hidden_size}
    for (layer, name), (down, up) in adapter.pairs.items():
        wanted = (inputs.get(name, down.shape[1]), outputs.get(name, up.shape[0]))
        if layer >= geometry.layers or (down.shape[1], up.shape[0]) != wanted:
            raise AdapterError(
                f"the adapter {adapter.folder} was trained on another model: {name} of layer {layer} is"
                f" {down.shape[1]} to {up.shape[0]} in it, which this checkpoint of {geometry.layers} layers has not"
            )


def convert(
    adapter: PeftAdapter,
    sites: Sequence[Site],
    smoothing: Smoothing,
    geometry: Geometry,
    checkpoint_digest: str,
    out: Path,
) -> None:
    """Writes `adapter` to `out` for a graph of `sites` over a model with this `smoothing`.

    Raises AdapterError if one of its pairs has no place there.
    """
    tensors: dict[str, Matrix] = {}
    left = set(adapter.pairs)
    for site in sites:
        layer = int(site.name.split(".")[2])
        taken = [(layer, name) for name in site.projections if (layer, name) in adapter.pairs]
        if taken:
            tensors[site.name + LORA_A], tensors[site.name + LORA_B] = _side_by_side(
                adapter, site, taken, smoothing, geometry
            )
            left.difference_update(taken)
    if left:
        allowed = sorted({name for site in sites for name in site.projections}, key=PROJECTIONS.index)
        layer, name = min(left)
        raise AdapterError(
            f"the adapter {adapter.folder} changes {name} of layer {layer}, and the package takes only"
            f" {', '.join(allowed)}: build it with --adapter-targets {','.join(adapter.targets)}"
        )
    with whole(out) as unfinished:
        write_adapter(unfinished, tensors, smoothing.base(checkpoint_digest))


def merge(checkpoint: Checkpoint, folder: Path, cache: Path) -> Checkpoint:
    """The checkpoint with the adapter in its weights, which are float32; kept in `cache`.

    Its digest is that of what it was made from: the last bits of its weights depend on the machine that added them.
    Raises AdapterError if PEFT cannot do it.
    """
    _read_config(folder)
    digest = hashlib.sha256(f"{checkpoint.digest}+{_digest(folder)}".encode()).hexdigest()
    target = cache / "checkpoints" / f"merged-{digest[:16]}"
    if not target.is_dir():
        _merge(checkpoint.folder, folder, target)
    merged = resolve(str(target), revision=None, cache=cache)
    return replace(
        merged,
        name=merged_name(checkpoint.name, folder),
        kind=checkpoint.kind,
        id=f"{checkpoint.id}+{folder.resolve().name}",
        revision=checkpoint.revision,
        digest=digest,
    )


def merged_name(checkpoint: str, folder: Path) -> str:
    """What packages of the checkpoint of that name are called once the adapter in `folder` is in it."""
    return f"{checkpoint}-{package_name(folder.resolve().name)}"


def _merge(checkpoint: Path, folder: Path, target: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*missing adapter keys.*")
            merged = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    except (OSError, RuntimeError, UserWarning, ValueError, TypeError, KeyError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise AdapterError(f"the adapter {folder} cannot be merged into {checkpoint.name}: {reason}") from error
    with scratch_in(target.parent) as made:
        merged.save_pretrained(made)
        for path in checkpoint.iterdir():
            described = path.suffix in (".json", ".jinja", ".txt") and not path.name.endswith(".index.json")
            if described and not (Path(made) / path.name).exists():
                shutil.copyfile(path, Path(made) / path.name)
        Path(made).replace(target)
        Path(made).mkdir()  # for the scratch folder's own removal


def _side_by_side(
    adapter: PeftAdapter, site: Site, taken: Sequence[tuple[int, str]], smoothing: Smoothing, geometry: Geometry
) -> tuple[Matrix, Matrix]:
    """A `[in, rank]` and B `[rank, out]` of a site: ranks add up, and each projection's B stands in its own columns."""
    kv_size = geometry.kv_heads * geometry.head_dim
    sizes = dict.fromkeys(site.projections, site.outputs)
    if len(site.projections) > 1:
        sizes = {"q_proj": site.outputs - 2 * kv_size, "k_proj": kv_size, "v_proj": kv_size}
    ranks = sum(len(adapter.pairs[key][0]) for key in taken)
    down, up = np.zeros((site.inputs, ranks), np.float32), np.zeros((ranks, site.outputs), np.float32)
    first_column = first_rank = 0
    for name in site.projections:
        key = (taken[0][0], name)
        if key in adapter.pairs:
            its_down, its_up = adapter.pairs[key]
            rank, end = len(its_down), first_rank + len(its_down)
            if its_down.shape != (rank, site.inputs) or its_up.shape != (sizes[name], rank):
                raise AdapterError(
                    f"the adapter {adapter.folder} was trained on another model: {name} is {site.inputs} to"
                    f" {sizes[name]} here, and {its_down.shape[1]} to {its_up.shape[0]} there"
                )
            down[:, first_rank:end] = (its_down * smoothing.of_input(*key)).T
            up[first_rank:end, first_column : first_column + sizes[name]] = its_up.T / smoothing.of_output(*key)
            first_rank = end
        first_column += sizes[name]
    return down, up


def _read_config(folder: Path) -> dict[str, object]:
    for name in (_CONFIG, _WEIGHTS):
        if not (folder / name).is_file():
            raise AdapterError(f"{folder} has no {name}: is it a PEFT adapter, saved as safetensors?")
    try:
        config = json.loads((folder / _CONFIG).read_bytes())
    except (OSError, ValueError) as error:
        raise AdapterError(f"{folder / _CONFIG} cannot be read: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise AdapterError(f"the adapter {folder} is of type {kind}; edgeqwen takes LORA")
    return config


def _unsupported(config: Mapping[str, object]) -> list[str]:
    variants = [name for name in config if name.startswith("use_") and name != "use_rslora"]  # DoRA and the like
    faults = [f"{name} is set" for name in (*_UNSUPPORTED, *sorted(variants)) if config.get(name)]
    if config.get("bias", "none") != "none":
        faults.append(f"bias is {config['bias']}")
    if str(config.get("init_lora_weights")).startswith(_CHANGES_THE_BASE):
        faults.append(f"init_lora_weights is {config['init_lora_weights']}")
    if not isinstance(config.get("lora_alpha"), int | float):
        faults.append("lora_alpha is no number")
    return faults


def _scale(config: Mapping[str, object], rank: int) -> float:
    """What B @ A counts: alpha over the rank, or over its square root (rank-stabilized LoRA, arXiv:2312.03732)."""
    return float(str(config["lora_alpha"])) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _digest(folder: Path) -> str:
    """SHA-256 over the adapter's files."""
    return hashlib.sha256("\n".join(file_digest(folder / name) for name in (_CONFIG, _WEIGHTS)).encode()).hexdigest()
