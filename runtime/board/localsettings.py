"""What was measured on this board, kept for the daemon: one file for each package and processor.

STATE_DIR/tuning/KEY.json      the settings; KEY is made of the package's build digest and the processor
STATE_DIR/tuning/KEY-*/        the packed graph that they name, if prefill and decode want different threads
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from ..errors import LocalSettingsError
from ..package import SERVING_GRAPH, File, file_digest
from ..validation import StrictModel, faults_of
from ..whole_file import replacing, sync
from .cpu import Cpu
from .tuning import MAX_THREADS, Threads

ThreadCount = Annotated[int, Field(ge=1, le=MAX_THREADS)]


class Packed(StrictModel):
    """Numbers of threads for prefill and decode, and the graph whose weights both share."""

    prefill_threads: ThreadCount
    decode_threads: ThreadCount
    folder: Annotated[str, Field(pattern=r"^[0-9a-f]{16}-[a-z0-9_]+$", description="Beside the settings file.")]
    onnxruntime: str = Field(description="The version that laid out the weights; no other may read them.")
    files: dict[Annotated[str, Field(pattern=r"^[a-z0-9_.]+$")], File]


class LocalSettings(StrictModel):
    """How this board runs a package best."""

    format: Literal[1] = 1
    build_digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="Of the package's variant.")]
    cpu: str = Field(description="The processor's identity.")
    threads: ThreadCount = Field(description="For prefill and decode alike.")
    slots: Annotated[int, Field(ge=1, le=64, description="Requests that decode together.")]
    token_cost: Annotated[float, Field(ge=0.01, le=1, description="Of a further token in a step, against one.")]
    prefill_tokens_per_second: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Of one prompt, as it was measured with `threads`; settings of old have none."
    )
    decode_tokens_per_second: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Of one stream, likewise."
    )
    packed: Packed | None = Field(default=None, description="Instead of `threads`, where it can be used.")


class LocalSettingsFile:
    """The settings of one package on one processor."""

    def __init__(self, state_dir: Path, build_digest: str, cpu: Cpu) -> None:
        self._build_digest, self._cpu = build_digest, cpu
        self._folder = state_dir / "tuning"
        self._key = hashlib.sha256(f"{build_digest}\n{cpu.identity}".encode()).hexdigest()[:16]

    @property
    def path(self) -> Path:
        return self._folder / f"{self._key}.json"

    def read(self, *, verify: bool = True) -> LocalSettings | None:
        """None where there are none. Raises LocalSettingsError for a file that cannot be used, and says why.

        A packed graph that another onnxruntime wrote is left out. With `verify`, its files' digests are compared.
        """
        try:
            found = LocalSettings.model_validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LocalSettingsError(f"{self.path} cannot be read ({error.strerror})") from error
        except ValidationError as error:
            faults = "; ".join(sorted(map(str, faults_of(error))))
            raise LocalSettingsError(f"{self.path} cannot be used: {faults}") from error
        if (found.build_digest, found.cpu) != (self._build_digest, self._cpu.identity):
            raise LocalSettingsError(f"{self.path} is of another package or processor")
        if found.packed is None:
            return found
        if found.packed.onnxruntime != version("onnxruntime"):
            return found.model_copy(update={"packed": None})
        for name, expected in found.packed.files.items():
            _check(self._folder / found.packed.folder / name, expected, digest=verify)
        return found

    def packed_graph(self, packed: Packed) -> Path:
        return self._folder / packed.folder / SERVING_GRAPH

    def require_writable(self) -> None:
        """Raises LocalSettingsError if this user may not write here."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self._folder).close()
        except OSError as error:
            raise LocalSettingsError(_cannot_write(self._folder, error)) from error

    def make_folder(self) -> Path:
        """A new folder for a packed graph, which `write` keeps if the settings name it. Raises LocalSettingsError."""
        try:
            folder = Path(tempfile.mkdtemp(prefix=f"{self._key}-", dir=self._folder))
            folder.chmod(0o755)  # the daemon may be another user
        except OSError as error:
            raise LocalSettingsError(_cannot_write(self._folder, error)) from error
        return folder

    def write(self, settings: LocalSettings) -> None:
        """Puts `settings` in place, whole or not at all, and removes packed graphs that they do not name.

        Raises LocalSettingsError.
        """
        keep = settings.packed.folder if settings.packed else None
        try:
            if keep:
                for path in [*(self._folder / keep).iterdir(), self._folder / keep]:
                    sync(path)
            with replacing(self.path) as new:
                new.write_text(settings.model_dump_json(indent=1) + "\n", encoding="utf-8")
                new.chmod(0o644)  # the daemon may be another user
        except OSError as error:
            raise LocalSettingsError(_cannot_write(self._folder, error)) from error
        for folder in self._folder.glob(f"{self._key}-*"):
            if folder.name != keep:  # a daemon that has it mapped goes on
                shutil.rmtree(folder, ignore_errors=True)


def describe_packed(graph: Path, threads: Threads) -> Packed:
    """The entry for a graph that this onnxruntime has packed."""
    files = {
        path.name: File(sha256=file_digest(path), size_bytes=path.stat().st_size)
        for path in sorted(graph.parent.iterdir())
    }
    return Packed(
        prefill_threads=threads.prefill,
        decode_threads=threads.decode,
        folder=graph.parent.name,
        onnxruntime=version("onnxruntime"),
        files=files,
    )


def _check(path: Path, expected: File, *, digest: bool) -> None:
    if not path.is_file() or path.stat().st_size != expected.size_bytes:
        raise LocalSettingsError(f"{path} is not there as it was written")
    if digest and file_digest(path) != expected.sha256:
        raise LocalSettingsError(f"{path} is corrupt")


def _cannot_write(folder: Path, error: OSError) -> str:
    return f"cannot write to {folder} ({error.strerror}): run as the daemon's user or as root, or name a --state-dir"
