"""A package as the device sees it: found, checked against its digests, and described.

The layout is ONNX Runtime's model package, as Olive writes it, with `serving.onnx` and `build.json` in each variant.
A variant that Optimum exported has no `serving.onnx`: its `model.onnx` is what runs.
A variant for OpenVINO has OpenVINO's files in their place, and is in no `metadata.json`: ONNX Runtime does not run it.

    NAME.ortpackage/manifest.json
    NAME.ortpackage/configs/{tokenizer.json, tokenizer_config.json, chat_template.jinja, ...}
    NAME.ortpackage/models/decoder/metadata.json
    NAME.ortpackage/models/decoder/VARIANT/{model.onnx, model.onnx.data, serving.onnx, build.json, ...}
    NAME.ortpackage/models/decoder/VARIANT/{openvino_model.xml, openvino_model.bin, build.json, ...}
    NAME.ortpackage/signatures/VARIANT.sig

A package that takes adapters has in each variant, over the same weights, `serving-lora.onnx`, and the adapters that it
was built with under `adapters/`.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from .errors import PackageCorrupt, PackageError, PackageUnreadable
from .profile import Profile
from .validation import StrictModel, faults_of

SUFFIX = ".ortpackage"
VARIANTS = PurePosixPath("models/decoder")
CONFIGS = PurePosixPath("configs")
SIGNATURES = PurePosixPath("signatures")
BUILD_FILE = "build.json"
SERVING_GRAPH = "serving.onnx"
ADAPTER_GRAPH = "serving-lora.onnx"
OPENVINO_MODEL = "openvino_model.xml"
PLAIN_GRAPH = "model.onnx"
OPTIMUM = "Optimum's graph, slower"
"""What is said of a variant that Optimum exported wherever its execution provider is."""
ADAPTERS = PurePosixPath("adapters")
ADAPTER_SUFFIX = ".onnx_adapter"
MAX_BUILD_BYTES = 1 << 20
"""Of `build.json`: of thousands of files, where packages have some dozen."""

SMOOTHING_FILE = "smoothing.npz"
"""What the channels of the model were divided by, for adapters that come later; one that was not smoothed has none."""

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear maps of a layer, which adapters may change."""

SIMULATES = "x86_64"
"""The architecture for which NPUs come with a simulator."""

FIRST_VERSION = "1.0.0"
"""The version of a package for which none was given, and of those that were built before there were versions."""

_ADAPTER_NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"
_NUMBER = "(0|[1-9][0-9]{0,5})"
_VERSION = rf"^{_NUMBER}\.{_NUMBER}\.{_NUMBER}$"
_CHUNK_BYTES = 1 << 20


class Source(StrictModel):
    """The checkpoint that a package was made of."""

    kind: Literal["hub", "folder", "gguf", "reference"]
    id: str
    revision: str | None
    digest: str = Field(description="SHA-256 over the checkpoint's files.")


class File(StrictModel):
    """What a file of the package must be."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    size_bytes: Annotated[int, Field(ge=0)]


class Geometry(StrictModel):
    """The model's shape."""

    architecture: str
    layers: int
    kv_heads: int
    head_dim: int
    hidden_size: int
    vocab_size: int
    context_tokens: int = Field(description="The longest context that the checkpoint was trained for.")
    eos_token_ids: list[int]
    bos_token_id: int | None


class SamplingDefaults(StrictModel):
    """The model's own recommendation; greedy where it makes none."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


class Fidelity(StrictModel):
    """What quantization cost, against the float32 checkpoint, on text that calibration did not see."""

    text: str
    tokens: int
    windows: int
    mean_kld: float
    p99_kld: float
    perplexity: float
    perplexity_float: float
    top1_agreement: float


class Npu(StrictModel):
    """How a model was compiled for an NPU.

    `agreement` is its simulator against the CPU, which computes the same graphs, rounded alike: what the NPU's own
    arithmetic costs. It has the CPU in the place of the float checkpoint.
    """

    on_cpu: dict[str, int] = Field(description="Operators that the CPU runs in each step: how many of each.")
    window_tokens: int = Field(description="Tokens of a prompt that are computed together.")
    sink: int = Field(description="The token before every text that does not begin with it.")
    agreement: Fidelity


class Golden(StrictModel):
    """A prompt and its greedy answer, as the build host computed it."""

    prompt_ids: list[int]
    greedy_ids: list[int]


class AdapterBuild(StrictModel):
    """An adapter of the package, and what it was made of. `golden` is what the model answers with it."""

    id: str
    digest: str = Field(description="SHA-256 over the PEFT adapter's files.")
    rank: int
    alpha: float
    targets: list[str]
    fidelity: Fidelity | None
    golden: Golden


class Needs(StrictModel):
    """What a device must have."""

    provider: str
    arch: str
    isa: list[str]
    contrib_ops: list[str]
    onnxruntime_min: str | None
    openvino_min: str | None = None


class Memory(StrictModel):
    """What the package takes on the device."""

    weights_bytes: int
    kv_bytes_per_token: int


class Build(StrictModel):
    """`build.json`: everything about a variant, and the digest of each of its files."""

    format: Literal[1] = 1
    name: str
    version: Annotated[str, Field(pattern=_VERSION)] = Field(
        default=FIRST_VERSION, description="MAJOR.MINOR.PATCH, compared as numbers."
    )
    variant: str
    precision: Literal["int4", "int8", "float16", "float32"]
    source: Source
    profile: Profile
    recipe: dict[str, dict[str, object]]
    tools: dict[str, str]
    model: Geometry
    sampling: SamplingDefaults
    fidelity: Fidelity | None
    low_fidelity: list[str] = Field(
        default=[], description="What is above the profile's fidelity gate, where whoever built it allowed that."
    )
    golden: Golden
    needs: Needs
    memory: Memory
    exporter: Literal["model_builder", "optimum"] = Field(
        default="model_builder", description="What wrote the graph: Optimum's is run as it is, one request at a time."
    )
    npu: Npu | None = Field(default=None, description="Of a package for an NPU.")
    adapter_targets: list[str] = Field(default=[], description="The projections that adapters may change.")
    adapters: dict[Annotated[str, Field(pattern=_ADAPTER_NAME)], AdapterBuild] = Field(
        default={}, description="By the name that requests give."
    )
    files: dict[str, File] = Field(description="By path from the package's root, with forward slashes.")

    @property
    def one_row(self) -> bool:
        """Whether one request runs at a time."""
        return self.exporter == "optimum" or self.profile.execution.one_row

    @property
    def runs_on(self) -> str:
        """The execution provider, and what is special about the graph."""
        name = self.profile.execution.name
        return f"{name} ({OPTIMUM})" if self.exporter == "optimum" else name


@dataclass(frozen=True)
class Package:
    """One variant of a package on disk."""

    root: Path
    variant_dir: Path
    build: Build
    build_digest: str

    @classmethod
    def open(
        cls,
        root: Path,
        variant: str | None = None,
        *,
        verify: bool = True,
        progress: Callable[[int], None] = lambda _: None,
    ) -> Package:
        """Opens `variant` of the package at `root`; a package of one variant needs no name.

        With `verify`, reads every file, compares its digest, and tells `progress` of every few bytes that it has read.
        Raises PackageError or PackageCorrupt.
        """
        with _reading(root):
            variant_dir = _variant_dir(root, variant)
        with _reading(variant_dir / BUILD_FILE):
            content = read_at_most(variant_dir / BUILD_FILE, MAX_BUILD_BYTES + 1)
        package = cls(root, variant_dir, _parse_build(content, variant_dir), hashlib.sha256(content).hexdigest())
        for name, expected in package.build.files.items():
            with _reading(root / name):
                package._check_file(name, expected, progress if verify else None)
        return package

    @property
    def serving_graph(self) -> Path:
        """What the backend loads."""
        if self.build.exporter == "optimum":
            return self.variant_dir / PLAIN_GRAPH
        is_openvino = self.build.profile.execution.backend == "openvino"
        return self.variant_dir / (OPENVINO_MODEL if is_openvino else SERVING_GRAPH)

    @property
    def adapter_graph(self) -> Path | None:
        """The serving graph that takes adapters, if the package has one."""
        return self.variant_dir / ADAPTER_GRAPH if self.build.adapter_targets else None

    @property
    def adapter_base(self) -> str:
        """A digest of what adapters must be converted for."""
        smoothing = self.build.files.get((VARIANTS / self.build.variant / SMOOTHING_FILE).as_posix())
        return adapter_base(self.build.source.digest, smoothing.sha256 if smoothing else None)

    def adapter_file(self, name: str) -> Path:
        """Where the package has its adapter `name`."""
        return self.variant_dir / ADAPTERS / f"{name}{ADAPTER_SUFFIX}"

    @property
    def signature_file(self) -> Path:
        """Where the variant's signature is, if it has one."""
        return self.root / signature_name(self.variant_dir.name)

    @property
    def files_bytes(self) -> int:
        """Of all files that build.json lists."""
        return sum(file.size_bytes for file in self.build.files.values())

    def digests(self, progress: Callable[[int], None] = lambda _: None) -> dict[str, str]:
        """SHA-256 of each of `variant_files`, in hex, by its path; tells `progress` of every few bytes that it read.

        Raises PackageError, and PackageCorrupt if one is not what build.json says.
        """
        found = {}
        with _reading(self.root):
            for name in variant_files(self.root, self.variant_dir.name):
                found[name] = file_digest(self.root / name, progress)
                if expected := self.build.files.get(name):
                    _require_digest(name, found[name], expected)
        # of what was read as `build`, whoever writes meanwhile
        found[(VARIANTS / self.variant_dir.name / BUILD_FILE).as_posix()] = self.build_digest
        return found

    @property
    def tokenizer_file(self) -> Path:
        return self.root / CONFIGS / "tokenizer.json"

    @property
    def chat_template(self) -> str:
        """The source of the chat template. Raises PackageError if the package has none."""
        path = self.root / CONFIGS / "chat_template.jinja"
        if path.is_file():
            return path.read_text(encoding="utf-8")
        config = self._tokenizer_config()
        template = config.get("chat_template")
        if not isinstance(template, str):
            raise PackageError(f"{self.root} has no chat template; send a raw prompt, or build it from a chat model")
        return template

    def special_token(self, name: str) -> str:
        """The text of `bos_token` or `eos_token`; empty if the model has none."""
        token = self._tokenizer_config().get(name)
        if isinstance(token, dict):
            token = token.get("content")
        return token if isinstance(token, str) else ""

    def require_this_machine(self, *, simulate: bool = False) -> None:
        """Raises PackageError if the package is for another architecture than this machine's.

        With `simulate`, raises it unless the package is for an NPU that is simulated here.
        """
        self.require_machine(platform.machine(), simulate=simulate)

    def require_machine(self, have: str, *, simulate: bool = False) -> None:
        """`require_this_machine` of a machine of the architecture `have`."""
        wanted = self.build.needs.arch
        simulated = self.build.profile.execution.backend == "qnn" and have == SIMULATES
        if wanted == have if not simulate else simulated:
            return
        which = f"{self.root.name} variant {self.build.variant}"
        if simulate:
            raise PackageError(f"{which} cannot be simulated on this machine: start it without --simulate")
        hint = f"build one with a profile for {have}"
        if simulated:
            hint += ", or verify this one in the NPU's simulator with --simulate"
        raise PackageError(f"{which} is for {wanted}, but this machine is {have}: {hint}")

    def _tokenizer_config(self) -> dict[str, object]:
        path = self.root / CONFIGS / "tokenizer_config.json"
        config: dict[str, object] = json.loads(path.read_bytes()) if path.is_file() else {}
        return config

    def _check_file(self, name: str, expected: File, progress: Callable[[int], None] | None) -> None:
        """With `progress`, its digest too."""
        path = self.root / _inside(name)
        if path.is_symlink() or not path.is_file():
            raise PackageCorrupt(f"{name} is missing from {self.root}: copy the package again")
        if path.stat().st_size != expected.size_bytes:
            raise PackageCorrupt(
                f"{name} has {path.stat().st_size} bytes, not {expected.size_bytes}: copy the package again"
            )
        if progress:
            _require_digest(name, file_digest(path, progress), expected)


def adapter_base(checkpoint: str, smoothing: str | None) -> str:
    """A digest of what an adapter is converted for: the checkpoint's, and that of what its channels were divided by."""
    return hashlib.sha256(f"{checkpoint}+{smoothing}".encode()).hexdigest() if smoothing else checkpoint


def is_adapter_name(name: str) -> bool:
    """Whether an adapter may be called so: 1 to 64 of a-z, 0-9, dot, dash and underscore, a letter or digit first."""
    return re.fullmatch(_ADAPTER_NAME, name) is not None


def is_version(text: str) -> bool:
    """Whether a package may have this version: MAJOR.MINOR.PATCH, each of at most 6 digits and no leading zero."""
    return re.fullmatch(_VERSION, text) is not None


def build_json(build: Build) -> str:
    """`build.json` as it is written. What only some packages have, the others do not mention."""
    unused: dict[str, bool | set[str]] = {
        name: True for name in ("low_fidelity", "npu", "adapter_targets", "adapters") if not getattr(build, name)
    }
    if build.exporter == "model_builder":
        unused["exporter"] = True
    if build.needs.openvino_min is None:
        unused["needs"] = {"openvino_min"}
    return build.model_dump_json(indent=1, exclude=unused) + "\n"


def file_digest(path: Path, progress: Callable[[int], None] = lambda _: None) -> str:
    """SHA-256 of a file, in hex, in bounded memory. `progress` is told how many bytes were read, some at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            progress(len(chunk))
    return digest.hexdigest()


def read_at_most(path: Path, size: int) -> bytes:
    """As much of a file. Raises OSError, also for a link: of what others made, none is followed, and no pipe waits."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        return file.read(size)


def variants_of(root: Path) -> list[str]:
    """Names of the variants of the package at `root`, sorted."""
    return sorted(path.parent.name for path in (root / VARIANTS).glob(f"*/{BUILD_FILE}"))


def open_variants(root: Path) -> list[Package]:
    """Every variant of the package at `root`, by name; nothing but build.json is read of them.

    Raises PackageError or PackageCorrupt.
    """
    with _reading(root):
        names: Sequence[str | None] = variants_of(root) or (None,)
    return [Package.open(root, name, verify=False) for name in names]


def variant_files(root: Path, variant: str) -> list[str]:
    """What a device has of a package of which it takes `variant`, but for signatures: sorted paths from the root.

    Raises PackageError, and PackageCorrupt for what is neither a file nor a folder, such as a link.
    """
    names = []
    with _reading(root):
        left_out = {root / SIGNATURES} | {root / VARIANTS / other for other in variants_of(root) if other != variant}
        for folder, folders, files in os.walk(root, onerror=_raise):
            folders[:] = [name for name in folders if Path(folder, name) not in left_out]
            for path in (Path(folder, name) for name in (*folders, *files)):
                name = path.relative_to(root).as_posix()
                if path.is_symlink() or not (path.is_file() or path.is_dir()):
                    raise PackageCorrupt(f"{name} in {root} is neither a file nor a folder: copy the package again")
                if path.is_file():
                    names.append(name)
    return sorted(names)


def signature_name(variant: str) -> str:
    """The path of a variant's signature, from the package's root."""
    return (SIGNATURES / f"{variant}.sig").as_posix()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """An OSError of the block, which reads `path`, is damage of the package: a bad block, say."""
    try:
        yield
    except OSError as error:
        what = error.filename if isinstance(error.filename, str) else path  # it may be a descriptor
        raise PackageUnreadable(f"cannot read {what} ({error.strerror}): copy the package again") from error


def _raise(error: OSError) -> None:
    raise error


def _require_digest(name: str, got: str, expected: File) -> None:
    if got != expected.sha256:
        raise PackageCorrupt(
            f"{name} is corrupt: its SHA-256 is {got[:12]}..., not {expected.sha256[:12]}...; copy the package again"
        )


def _variant_dir(root: Path, variant: str | None) -> Path:
    if not root.is_dir():
        raise PackageError(f"there is no package at {root}: build one with `edgeqwen-compile build`")
    have = variants_of(root)
    if not have:
        raise PackageError(f"{root} is not a package: it has no {VARIANTS}/VARIANT/{BUILD_FILE}")
    if variant is None:
        if len(have) > 1:
            raise PackageError(f"{root} has several variants, name one with --variant: {', '.join(have)}")
        variant = have[0]
    if variant not in have:
        raise PackageError(f"{root} has no variant {variant!r}; it has {', '.join(have)}")
    return root / VARIANTS / variant


def _parse_build(content: bytes, variant_dir: Path) -> Build:
    if len(content) > MAX_BUILD_BYTES:
        raise PackageCorrupt(
            f"{variant_dir / BUILD_FILE} cannot be used: it is larger than {MAX_BUILD_BYTES >> 20} MiB"
        )
    try:
        return Build.model_validate_json(content)
    except ValidationError as error:
        faults = sorted(map(str, faults_of(error)))
        raise PackageCorrupt(f"{variant_dir / BUILD_FILE} cannot be used: {'; '.join(faults[:5])}") from error


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise PackageCorrupt(f"build.json names a file outside the package: {name!r}")
    return path
