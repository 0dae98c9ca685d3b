"""Device profiles: what a board is and how a package for it is built and run. One YAML file each."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from .errors import Fault, ProfileError
from .validation import StrictModel, parse
from .yaml_file import read_yaml

Block = Literal[16, 32, 64, 128, 256]
AccuracyLevel = Literal[0, 1, 4]
MixedPrecision = Literal["fisher", "k_quant_last", "k_quant_down", "k_quant_mixed", "snr_relative", "iqe_relative"]
MaxKld = Annotated[float, Field(gt=0)]
Backend = Literal["ort", "cuda", "qnn", "openvino"]

_BACKENDS: dict[str, Backend] = {
    "CUDAExecutionProvider": "cuda",
    "TensorrtExecutionProvider": "cuda",
    "QNNExecutionProvider": "qnn",
    "OpenVINO": "openvino",
}
OPENVINO_DEVICE = r"^(CPU|GPU|NPU)(\.\d+)?$"
"""What OpenVINO calls a device. AUTO and the like, which would choose one by themselves, are none."""

_MAX_KLD = (
    "The most mean KL divergence to the float checkpoint, on held-out text, with which `build` writes a package: the"
    " fidelity gate."
)


class Device(StrictModel):
    """The board."""

    arch: Literal["x86_64", "aarch64"] = Field(description="Machine architecture, as `uname -m` says it.")
    isa: list[str] = Field(description="Instruction sets that packages may assume, as /proc/cpuinfo names them.")
    cores: Annotated[int, Field(ge=1, le=1024, description="Processor cores.")]
    memory_mb: Annotated[int, Field(ge=256, description="Main memory in MiB.")]
    memory_gb_s: Annotated[
        float | None,
        Field(gt=0, description="Peak bandwidth of the memory that the model is read from, in GB/s; unset: unknown."),
    ] = None


class Execution(StrictModel):
    """Where the model runs."""

    provider: str = Field(
        description="ONNX Runtime execution provider, or OpenVINO; there is no silent fall-back to another."
    )
    options: dict[str, str] = Field(
        default={},
        description="Options of the execution provider. OpenVINO needs `device`: CPU, GPU or NPU; others are its"
        " properties, for a device that is not the CPU.",
    )
    unsupported: Annotated[
        str | None, Field(min_length=1, description="Why no package can be built for this profile; unset: one can.")
    ] = None
    instead: Annotated[
        str | None, Field(min_length=1, description="The profile to use meanwhile, where `unsupported` says why.")
    ] = None

    @property
    def backend(self) -> Backend:
        """What runs it: ONNX Runtime on a CPU, unless the provider wants another form of the model."""
        return _BACKENDS.get(self.provider, "ort")

    @property
    def device(self) -> str | None:
        """Of OpenVINO's devices, the one to run on."""
        return self.options.get("device") if self.backend == "openvino" else None

    @property
    def name(self) -> str:
        """The provider, and the device if it has several."""
        return f"{self.provider} ({self.device})" if self.device else self.provider

    @property
    def one_row(self) -> bool:
        """Whether one request runs at a time."""
        return self.backend == "qnn" or (self.backend == "openvino" and self.device != "CPU")

    @property
    def kv_dtypes(self) -> tuple[str, ...]:
        """What the numbers of the KV cache may be."""
        if self.backend == "openvino":
            return ("float16",) if self.one_row else ("float32", "float16")
        if self.backend == "qnn":
            return ("float32",)  # attention runs on the CPU there
        return ("float16", "int8") if self.backend == "cuda" else ("float32", "int8")


class Int4(StrictModel):
    """The INT4 recipe."""

    algorithm: Literal["gptq", "kquant", "rtn"] = Field(
        default="gptq",
        description="How layers are rounded: gptq by calibration text, kquant with each block's best scale, rtn to the"
        " nearest, which is fast and coarse.",
    )
    block_size: Block = Field(default=32, description="Weights that share a scale in a decoder layer.")
    symmetric: bool = Field(default=False, description="No zero points: smaller, and what some kernels want.")
    mixed_precision: MixedPrecision = Field(
        default="fisher",
        description="Which layers keep 8 bits: those whose rounding is measured to change predictions most (fisher);"
        " only the head (k_quant_last), some down projections by place (k_quant_down), some QKV too (k_quant_mixed);"
        " those whose weights gain most, by signal-to-noise ratio (snr_relative) or largest error (iqe_relative).",
    )
    high_share: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.25, description="The share of layer weights that keep 8 bits, where it is not given by their place."
    )
    rotate: bool = Field(default=False, description="Rotate hidden channels first (QuaRot); head and embedding part.")
    head_bits: Literal[4, 8] = Field(default=8, description="Bits of the tied head and embedding.")
    head_block_size: Block = Field(default=128, description="Weights that share a scale in the head.")
    smooth: bool = Field(default=True, description="Even out channels first, as int8 activations need it.")
    accuracy_level: AccuracyLevel = Field(
        default=4, description="Activations in matrix products: 4 is int8 (fast), 1 is float32."
    )
    max_kld: MaxKld = Field(default=0.3, description=_MAX_KLD)


class Int8(StrictModel):
    """The INT8 recipe: round to nearest."""

    block_size: Block = Field(default=64, description="Weights that share a scale in a decoder layer.")
    symmetric: bool = Field(default=True, description="No zero points: smaller, a little less faithful.")
    head_block_size: Block = Field(default=32, description="Weights that share a scale in the head.")
    smooth: bool = Field(default=True, description="Even out channels first, as int8 activations need it.")
    accuracy_level: AccuracyLevel = Field(
        default=4, description="Activations in matrix products: 4 is int8 (fast), 1 is float32."
    )
    max_kld: MaxKld = Field(default=0.02, description=_MAX_KLD)


class Quantization(StrictModel):
    """How weights are stored."""

    precision: Literal["int4", "int8", "float16", "float32"] = Field(
        default="int4", description="What `build` makes unless --precision says otherwise."
    )
    int4: Int4 = Int4()
    int8: Int8 = Int8()

    def max_kld(self, precision: str) -> float | None:
        """The gate of a package of `precision`; None where nothing is rounded to integers."""
        gates = {"int4": self.int4.max_kld, "int8": self.int8.max_kld}
        return gates.get(precision)


class KVCache(StrictModel):
    """Memory of what was read and written so far."""

    dtype: Literal["float32", "float16", "int8"] = Field(
        default="float32",
        description="Type of its numbers: float32 or int8 on a CPU, float16 or int8 on CUDA, float32 or float16 on"
        " OpenVINO. int8 takes the least memory, decodes long contexts faster, reads long prompts slower.",
    )
    budget_mb: Annotated[int, Field(gt=0, description="The most that all requests together may use, in MiB.")]


class Runtime(StrictModel):
    """How the daemon runs the model, unless its own configuration says otherwise."""

    context_tokens: Annotated[
        int, Field(ge=64, le=131_072, description="The most tokens of a prompt and its answer together.")
    ]
    kv_cache: KVCache
    slots: Annotated[int, Field(ge=1, le=64, description="Requests that decode together (batch rows).")]
    prefill_chunk_tokens: Annotated[
        int,
        Field(ge=8, le=4096, description="The most prompt tokens computed in one step."),
    ]
    threads: Annotated[int, Field(ge=1, le=256, description="Threads that one step of the model runs on.")]


class Limits(StrictModel):
    """What the board must not exceed."""

    temperature_c: Annotated[float, Field(gt=0, le=125, description="Hotter than this is too hot, in degrees Celsius.")]


class Sensors(StrictModel):
    """What to read."""

    thermal_zones: list[str] = Field(
        default=[], description="Names of the sensors that count, * allowed; empty counts all there are."
    )


class Detect(StrictModel):
    """How `edgeqwen detect` knows the board: a pattern of each list that is not empty must fit; * fits all."""

    device_tree: list[Annotated[str, Field(pattern=r"^[^,\s]+,\S+$")]] = Field(
        default=[], description="Patterns of names in /proc/device-tree/compatible."
    )
    pci: list[Annotated[str, Field(pattern=r"^[0-9a-f*?]{1,4}:[0-9a-f*?]{1,4}(:[0-9a-f*?]{1,4})?$")]] = Field(
        default=[], description="Patterns VENDOR:DEVICE or VENDOR:DEVICE:CLASS of PCI devices, as `lspci -nn` has them."
    )


class Profile(StrictModel):
    """A device profile."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="Also the file's name.")]
    description: Annotated[str, Field(min_length=1, max_length=200, description="One line.")]
    device: Device
    execution: Execution
    quantization: Quantization = Quantization()
    runtime: Runtime
    limits: Limits
    sensors: Sensors = Sensors()
    detect: Detect = Detect()

    @model_validator(mode="after")
    def _fits_the_board(self) -> Profile:
        if self.runtime.threads > self.device.cores:
            raise ValueError(
                f"runtime.threads: must be <= device.cores, {self.device.cores} (got {self.runtime.threads})"
            )
        if self.runtime.kv_cache.budget_mb >= self.device.memory_mb:
            raise ValueError(
                f"runtime.kv_cache.budget_mb: must be < device.memory_mb, {self.device.memory_mb}"
                f" (got {self.runtime.kv_cache.budget_mb})"
            )
        return self

    @model_validator(mode="after")
    def _fits_the_backend(self) -> Profile:
        execution, dtype = self.execution, self.runtime.kv_cache.dtype
        if execution.backend == "openvino" and not re.match(OPENVINO_DEVICE, execution.device or ""):
            raise ValueError(f"execution.options.device: must be CPU, GPU or NPU (got {execution.device})")
        if execution.backend == "openvino" and (algorithm := self.quantization.int4.algorithm) != "rtn":
            raise ValueError(f"quantization.int4.algorithm: must be rtn on {execution.name} (got {algorithm})")
        if execution.backend == "qnn" and self.quantization.precision not in ("int4", "int8"):
            raise ValueError("quantization.precision: must be int4 or int8, the NPU computes in integers")
        if execution.backend == "qnn" and "soc_model" not in execution.options:
            raise ValueError("execution.options: must have soc_model, the number that Qualcomm's SDK gives the SoC")
        if execution.one_row and self.runtime.slots != 1:
            raise ValueError(
                f"runtime.slots: must be 1, {execution.name} runs one request at a time (got {self.runtime.slots})"
            )
        if dtype not in execution.kv_dtypes:
            known = " or ".join(execution.kv_dtypes)
            raise ValueError(f"runtime.kv_cache.dtype: must be {known} on {execution.name} (got {dtype})")
        return self

    @model_validator(mode="after")
    def _names_what_to_use_instead(self) -> Profile:
        if (self.execution.unsupported is None) != (self.execution.instead is None):
            raise ValueError("execution.instead: goes with execution.unsupported, which says why")
        return self

    @property
    def kv_itemsize(self) -> int:
        """Bytes of a number in the KV cache."""
        return {"float32": 4, "float16": 2, "int8": 1}[self.runtime.kv_cache.dtype]

    @property
    def digest(self) -> str:
        """SHA-256 of the profile's content, in hex; comments and order do not count."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Reads a profile file. Raises ProfileError with every fault."""
        profile = parse_profile(read_yaml(path, ProfileError), str(path))
        if profile.name != path.stem:
            fault = Fault("name", f"must be the file's name, {path.stem!r} (got {profile.name!r})")
            raise ProfileError([fault], str(path))
        return profile


def parse_profile(data: object, subject: str) -> Profile:
    """A profile from parsed YAML or JSON. Raises ProfileError with every fault; `subject` says where it came from."""
    return parse(Profile, data, subject=subject, error=ProfileError)


def require_buildable(profiles: Iterable[Profile]) -> None:
    """Raises ProfileError with the reason of every profile that no package can be built for."""
    refused = [(profile.name, profile.execution) for profile in profiles if profile.execution.unsupported]
    if refused:
        raise ProfileError(
            Fault(name, f"no package can be built for it: {execution.unsupported}; use {execution.instead} meanwhile")
            for name, execution in refused
        )


def builtin_profiles() -> dict[str, Path]:
    """The profiles that come with edgeqwen, by name."""
    installed = Path(str(resources.files("runtime"))) / "device_profiles"
    folder = installed if installed.is_dir() else installed.parent.parent / "device_profiles"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_profile(name_or_path: str) -> Profile:
    """A profile by its name, or from a file. Raises ProfileError; for an unknown name it lists those there are."""
    known = builtin_profiles()
    if name_or_path in known:
        return Profile.load(known[name_or_path])
    if "/" in name_or_path or name_or_path.endswith((".yaml", ".yml")):
        return Profile.load(Path(name_or_path))
    near = difflib.get_close_matches(name_or_path, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ProfileError([Fault("", f"{hint}known profiles: {', '.join(known)}")], f"no profile {name_or_path!r}")
