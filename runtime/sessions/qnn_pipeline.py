"""The static pipeline that Olive compiles for a Qualcomm NPU, on ONNX Runtime with the QNN execution provider.

Four graphs: embeddings, the decoder for a window of tokens and for a single one, and the head. The NPU runs what is in
the decoders' context binaries; attention between them, embeddings and head are the CPU's. No other provider can run a
context binary, so nothing falls back to the CPU in silence: the model runs as it was compiled, or does not load.

On x86-64 the provider's library has no NPU but the vendor's simulator of one, in which the same binaries compute the
same numbers some thousand times slower.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import SessionError
from .inference import first_line, run
from .session import Logits, SessionSpec
from .static_session import States

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported
import onnxruntime as ort

PROVIDER = "QNNExecutionProvider"
SIMULATOR = f"{PROVIDER} (HTP simulator)"
CONFIG = "genai_config.json"
SINK_FILE = "sink.npz"

_DTYPES: dict[str, type[np.generic]] = {"tensor(uint16)": np.uint16, "tensor(float)": np.float32}

OpenDecoder = Callable[[Path, ort.SessionOptions], ort.InferenceSession]


class QnnPipeline:
    """`Pipeline` over the graphs in a folder."""

    def __init__(self, folder: Path, *, context_tokens: int, threads: int, provider_options: Mapping[str, str]) -> None:
        """Loads the graphs. Raises SessionError if the NPU, or its simulator, cannot run them."""
        self._load(folder, context_tokens, threads, lambda path, settings: _on_npu(path, settings, provider_options))
        self._spec = self._describe(context_tokens, SIMULATOR if platform.machine() == "x86_64" else PROVIDER)

    @classmethod
    def on_cpu(cls, folder: Path, *, context_tokens: int, threads: int) -> QnnPipeline:
        """The graphs before they were compiled, with the same rounding, computed by the CPU: what to compare with."""
        self = cls.__new__(cls)
        self._load(folder, context_tokens, threads, _on_cpu)
        self._spec = self._describe(context_tokens, "CPUExecutionProvider")
        return self

    def _load(self, folder: Path, context_tokens: int, threads: int, open_decoder: OpenDecoder) -> None:
        decoder = _read_config(folder)
        self.window_tokens: int = decoder["sliding_window"]["window_size"]
        embeddings, window, single, head = (folder / stage["filename"] for stage in decoder["pipeline"][0].values())
        self._embeddings, self._head = (_on_cpu(path, _session_options(threads)) for path in (embeddings, head))
        # Before the text stands the sink, and a window that is padded reaches beyond the last token.
        capacity = 1 + context_tokens + self.window_tokens
        wide = open_decoder(window, _session_options(threads))
        self._kv = _allocate_kv(wide, capacity)
        with np.load(folder / SINK_FILE) as sink:
            self.sink, self.sink_states = int(sink["token"]), sink["states"][0]
            for name, cache in self._kv.items():
                cache[:, :, :1] = sink[name]
        self._wide = _Decoder(wide, self._kv, self.window_tokens)
        self._narrow = _Decoder(open_decoder(single, _session_options(threads)), self._kv, 1)

    def _describe(self, context_tokens: int, provider: str) -> SessionSpec:
        per_token = sum(cache.nbytes // cache.shape[2] for cache in self._kv.values())
        return SessionSpec(
            vocab_size=self._head.get_outputs()[0].shape[-1],
            context_tokens=context_tokens,
            slots=1,
            kv_bytes_per_token=per_token,
            provider=provider,
        )

    @property
    def spec(self) -> SessionSpec:
        return self._spec

    def states(self, tokens: Sequence[int], start: int) -> States:
        decoder = self._narrow if len(tokens) == 1 else self._wide
        ids = np.zeros((1, decoder.width), np.int64)
        ids[0, : len(tokens)] = tokens
        [embedded] = self._embeddings.run(None, {self._embeddings.get_inputs()[0].name: ids})
        return decoder.run(embedded, start)[0, : len(tokens)].copy()

    def logits(self, states: States) -> Logits:
        [logits] = self._head.run(None, {self._head.get_inputs()[0].name: states[np.newaxis]})
        result: Logits = logits[0]
        return result


class _Decoder:
    """A decoder for `width` tokens, bound to the KV cache: it writes where it reads."""

    def __init__(self, session: ort.InferenceSession, kv: Mapping[str, NDArray[np.float32]], width: int) -> None:
        self.width = width
        self._session, self._io = session, session.io_binding()
        inputs = {i.name: i for i in session.get_inputs()}
        [embedded] = inputs.keys() - kv.keys() - {"past_seq_len", "total_seq_len"}
        outputs = {o.name: o for o in session.get_outputs()}
        [states] = outputs.keys() - {_present(name) for name in kv}
        self._embedded = np.zeros(inputs[embedded].shape, _DTYPES[inputs[embedded].type])
        self._last = np.zeros((1, 1), np.int32)
        self._total = np.zeros((), np.int32)
        self._states = np.zeros(outputs[states].shape, _DTYPES[outputs[states].type])
        named = {embedded: self._embedded, "past_seq_len": self._last, "total_seq_len": self._total, **kv}
        for name, array in named.items():
            self._io.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in {states: self._states, **{_present(name): cache for name, cache in kv.items()}}.items():
            self._io.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def run(self, embedded: NDArray[np.generic], start: int) -> States:
        """The states of all `width` tokens, valid until the next run."""
        self._embedded[:] = embedded
        self._total[()] = start + self.width
        self._last[:] = start + self.width - 1
        run(self._session, self._io)
        return self._states


def _read_config(folder: Path) -> dict[str, Any]:
    decoder: dict[str, Any] = json.loads((folder / CONFIG).read_bytes())["model"]["decoder"]
    return decoder


def _present(past: str) -> str:
    return past.replace("past_key_values", "present")


def _allocate_kv(session: ort.InferenceSession, capacity: int) -> dict[str, NDArray[np.float32]]:
    caches = [i for i in session.get_inputs() if i.name.startswith("past_key_values.")]
    return {i.name: np.zeros((1, i.shape[1], capacity, i.shape[3]), np.float32) for i in caches}


def _session_options(threads: int) -> ort.SessionOptions:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    return settings


def _on_cpu(path: Path, settings: ort.SessionOptions) -> ort.InferenceSession:
    return _opened(path, settings, providers=["CPUExecutionProvider"])


def _on_npu(path: Path, settings: ort.SessionOptions, options: Mapping[str, str]) -> ort.InferenceSession:
    library = _library()
    settings.add_provider_for_devices(_devices(), {"backend_path": library.get_qnn_htp_path(), **options})
    with _stdout_to_stderr():  # where the simulator greets; stdout is for results
        session = _opened(path, settings)
    if PROVIDER not in session.get_providers():
        raise SessionError(f"{path.name} was loaded without {PROVIDER}: build the package again")
    return session


def _opened(path: Path, settings: ort.SessionOptions, **where: list[str]) -> ort.InferenceSession:
    try:
        return ort.InferenceSession(str(path), settings, **where)
    except Exception as error:  # onnxruntime's errors have no common base
        raise SessionError(f"{path.name} cannot be loaded: {first_line(error)}") from error


def _library() -> ModuleType:
    """The provider's own library, registered with onnxruntime once. Raises SessionError where it is not installed."""
    try:
        import onnxruntime_qnn
    except ImportError as error:
        message = f"{PROVIDER} was asked for and is not installed: pip install 'edgeqwen[runtime,qnn]'"
        raise SessionError(message) from error
    if not _found():
        ort.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
    library: ModuleType = onnxruntime_qnn
    return library


def _devices() -> list[ort.OrtEpDevice]:
    """What the provider's library can run on. Raises SessionError if that is nothing."""
    if devices := _found():
        return devices
    raise SessionError(f"{PROVIDER} finds no device on this machine: does its kernel have the NPU's driver (fastrpc)?")


def _found() -> list[ort.OrtEpDevice]:
    return [device for device in ort.get_ep_devices() if device.ep_name == PROVIDER]


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """For the length of the block, also what native code prints."""
    flush = ctypes.CDLL(None).fflush
    flush(None)
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        flush(None)
        os.dup2(stdout, 1)
        os.close(stdout)
