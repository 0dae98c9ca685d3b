"""Ranges of activations in static graphs, measured behind an attention sink that is computed here once and for all.

The first token of any text is an attention sink (arXiv:2309.17453): some of its activations are thousands of times
larger than those of all other tokens. A scale for the whole tensor then leaves the others a handful of steps, and
arithmetic that rounds otherwise by a step, as an NPU's does, computes another model. So every text begins with the same
token, whose keys and values come with the package, and the NPU computes only what follows it; ranges are measured
without it. PrefixQuant (arXiv:2410.05265) has the idea.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from runtime.sessions.qnn_pipeline import SINK_FILE

from .kvscales import MAX_TEXT_TOKENS

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported
import onnxruntime as ort

_STEPS = np.iinfo(np.uint16).max
_FIXED = {"Sigmoid"}  # operators whose range is known, and which the NPU wants to have it
_EMBEDDED = "embedded"

OnText = Callable[[int, int], None]
Range = tuple[float, float]
Tensors = dict[str, NDArray[np.float32]]


def settle(
    pipeline: Path,
    texts: Sequence[Sequence[int]],
    sink: int,
    *,
    threads: int,
    on_text: OnText = lambda done, total: None,
) -> None:
    """Gives the graphs in `pipeline` the ranges that `texts` have behind the token `sink`, and writes what it computes.

    Args:
        pipeline: folder of Olive's static graphs, which are changed.
        texts: of at most MAX_TEXT_TOKENS tokens each.
        on_text: called with the number of texts done and how many there are.
    """
    paths = _graph_files(pipeline)
    embeddings, window, single, head = (onnx.load(str(path), load_external_data=False) for path in paths)
    rounded = _rounded(embeddings) | _rounded(window)
    floats = _Floats(pipeline, embeddings, window, threads)
    kv = floats.empty_kv()
    first = floats.run([sink], 0, kv)
    ranges: dict[str, Range] = {}
    for number, text in enumerate(texts, 1):
        own = {name: cache.copy() for name, cache in kv.items()}
        own_tokens = text[1:] if text[0] == sink else text
        for at in range(0, len(own_tokens), floats.window):
            for name, seen in floats.run(own_tokens[at : at + floats.window], 1 + at, own).items():
                low, high = ranges.get(name, (0.0, 0.0))
                ranges[name] = min(low, float(seen.min())), max(high, float(seen.max()))
        on_text(number, len(texts))
    scales = {name: _scale(*ranges[name]) for name, (_, _, fixed) in rounded.items() if not fixed}
    values: dict[str, NDArray[np.generic]] = {}
    for name, (scale, zero_point) in scales.items():
        values |= {rounded[name][0]: scale, rounded[name][1]: zero_point}
    for path, graph in zip(paths, (embeddings, window, single, head), strict=True):
        _write_initializers(graph, values)
        onnx.save(graph, str(path))
    sunk: dict[str, Any] = {name: cache[:, :, :1] for name, cache in kv.items()}
    states = _round(first[floats.states], *scales[floats.states])
    np.savez(pipeline / SINK_FILE, token=sink, states=states, **sunk)


class _Floats:
    """The decoder for a window as if nothing of its activations was rounded, with all that is rounded as output."""

    def __init__(self, folder: Path, embeddings: onnx.ModelProto, window: onnx.ModelProto, threads: int) -> None:
        self.states = _source_of_output(window)
        unrounded = [_unrounded(embeddings), _unrounded(window)]
        files = [folder / f"unrounded-{number}.onnx" for number in range(2)]
        try:
            for file, graph in zip(files, unrounded, strict=True):
                onnx.save(graph, str(file))
            self._embeddings, self._decoder = (_open(file, threads) for file in files)
        finally:
            for file in files:
                file.unlink(missing_ok=True)
        [self._embedded] = (o.name for o in self._embeddings.get_outputs())
        self._kv = [i for i in self._decoder.get_inputs() if i.name.startswith("past_key_values.")]
        self.window: int = next(i.shape[1] for i in self._decoder.get_inputs() if i.name == _EMBEDDED)
        self._capacity = 1 + MAX_TEXT_TOKENS + self.window
        outputs = [o.name for o in self._decoder.get_outputs()]
        self._presents = [name.name.replace("past_key_values", "present") for name in self._kv]
        self._wanted = [name for name in outputs if name not in self._presents]

    def empty_kv(self) -> Tensors:
        return {i.name: np.zeros((1, i.shape[1], self._capacity, i.shape[3]), np.float32) for i in self._kv}

    def run(self, tokens: Sequence[int], start: int, kv: Tensors) -> Tensors:
        """What is rounded, for each of `tokens`; their keys and values go to `kv`."""
        ids = np.zeros((1, self.window), np.int64)
        ids[0, : len(tokens)] = tokens
        [embedded] = self._embeddings.run(None, {"input_ids": ids})
        inputs = {
            _EMBEDDED: embedded,
            "past_seq_len": np.full((1, 1), start + self.window - 1, np.int32),
            "total_seq_len": np.array(start + self.window, np.int32),
        }
        outputs = self._decoder.run([*self._presents, *self._wanted], inputs | kv)
        kv.update(zip(kv, outputs, strict=False))
        rounded = {self._embedded: embedded} | dict(zip(self._wanted, outputs[len(kv) :], strict=True))
        return {name: values[:, : len(tokens)] for name, values in rounded.items()}


def _graph_files(pipeline: Path) -> list[Path]:
    """Embeddings, decoder for a window, decoder for one token, head."""
    config = json.loads((pipeline / "genai_config.json").read_text())
    return [pipeline / stage["filename"] for stage in config["model"]["decoder"]["pipeline"][0].values()]


def _rounded(model: onnx.ModelProto) -> dict[str, tuple[str, str, bool]]:
    """Tensors that are rounded: the initializers with scale and zero point, and whether the range is known."""
    makers = {output: node.op_type for node in model.graph.node for output in node.output}
    return {
        node.input[0]: (node.input[1], node.input[2], makers.get(node.input[0]) in _FIXED)
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
    }


def _source_of_output(window: onnx.ModelProto) -> str:
    """The tensor that is rounded to what the head takes."""
    outputs = {output.name for output in window.graph.output}
    source: str
    [source] = (n.input[0] for n in window.graph.node if n.op_type == "QuantizeLinear" and n.output[0] in outputs)
    return source


def _unrounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph without the nodes that round activations; all that was rounded is an output."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    rounded = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    [embedded] = [i for i in graph.input if i.type.tensor_type.elem_type == TensorProto.UINT16] or [None]
    sources = rounded | ({embedded.name: _EMBEDDED} if embedded else {})
    back = {
        node.output[0]: sources[node.input[0]]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in sources
    }
    kept = [node for node in graph.node if node.op_type != "QuantizeLinear" and node.output[0] not in back]
    for node in kept:
        for at, name in enumerate(node.input):
            node.input[at] = back.get(name, name)
    outputs = [output for output in graph.output if output.name not in rounded]
    outputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in rounded.values()]
    if embedded:
        embedded.name, embedded.type.tensor_type.elem_type = _EMBEDDED, TensorProto.FLOAT
    del graph.node[:], graph.output[:]
    graph.node.extend(kept)
    graph.output.extend(outputs)
    return made


def _open(graph: Path, threads: int) -> ort.InferenceSession:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    return ort.InferenceSession(str(graph), settings, providers=["CPUExecutionProvider"])


def _scale(low: float, high: float) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    """Scale and zero point, of a range that has 0 in it."""
    scale = max((high - low) / _STEPS, 1e-9)
    return np.array(scale, np.float32), np.array(round(-low / scale), np.uint16)


def _round(values: NDArray[np.float32], scale: NDArray[np.float32], zero: NDArray[np.uint16]) -> NDArray[np.uint16]:
    steps: NDArray[np.float32] = np.clip(np.rint(values / scale) + zero, 0, _STEPS)
    return steps.astype(np.uint16)


def _write_initializers(model: onnx.ModelProto, values: Mapping[str, NDArray[np.generic]]) -> None:
    for initializer in model.graph.initializer:
        if (value := values.get(initializer.name)) is not None:
            initializer.CopyFrom(numpy_helper.from_array(value.reshape(tuple(initializer.dims)), initializer.name))
