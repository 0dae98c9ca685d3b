"""Ranges of activations: those of all tokens but the sink, written wherever a graph rounds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from toolchain.graphs.activations import settle

SINK, WINDOW, HIDDEN = 0, 4, 2
TABLE = np.array([[9000, -5000], [1, -1], [3, 2], [-4, 0.5]], np.float32)
"""What each token is embedded to; the decoder gives twice that."""


def value(name: str, kind: int, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def write(
    path: Path,
    nodes: Sequence[tuple[str, list[str], str]],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    **constants: np.ndarray,
) -> None:
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    made = [helper.make_node(kind, takes, [gives], name=gives) for kind, takes, gives in nodes]
    graph = helper.make_graph(made, path.stem, inputs, outputs, initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), str(path))


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """Static graphs in Olive's form, with the ranges of a first guess."""
    wrong = {name: np.array(1, np.float32) for name in ("e_scale", "d_scale")}
    wrong |= {name: np.array(0, np.uint16) for name in ("e_zero", "d_zero")}
    of = lambda letter: {name: array for name, array in wrong.items() if name[0] == letter}  # noqa: E731
    ids = value("input_ids", TensorProto.INT64, "batch", "sequence")
    write(
        tmp_path / "embeddings.onnx",
        [("Gather", ["table", "input_ids"], "e"), ("QuantizeLinear", ["e", "e_scale", "e_zero"], "e_q")],
        [ids],
        [value("e_q", TensorProto.UINT16, "batch", "sequence", HIDDEN)],
        table=TABLE,
        **of("e"),
    )
    for name, width in (("context", WINDOW), ("iterator", 1)):
        cache = [value(f"{side}.0.key", TensorProto.FLOAT, 1, 1, "past", 2) for side in ("past_key_values", "present")]
        write(
            tmp_path / f"{name}.onnx",
            [
                ("DequantizeLinear", ["e_q", "e_scale", "e_zero"], "e_back"),
                ("Mul", ["e_back", "two"], "d"),
                ("QuantizeLinear", ["d", "d_scale", "d_zero"], "d_q"),
                ("Identity", ["past_key_values.0.key"], "present.0.key"),
            ],
            [
                value("e_q", TensorProto.UINT16, 1, width, HIDDEN),
                cache[0],
                value("past_seq_len", TensorProto.INT32, 1, 1),
                value("total_seq_len", TensorProto.INT32),
            ],
            [cache[1], value("d_q", TensorProto.UINT16, 1, width, HIDDEN)],
            two=np.array(2, np.float32),
            **wrong,
        )
    write(
        tmp_path / "lm_head.onnx",
        [("DequantizeLinear", ["d_q", "d_scale", "d_zero"], "logits")],
        [value("d_q", TensorProto.UINT16, "batch", "sequence", HIDDEN)],
        [value("logits", TensorProto.FLOAT, "batch", "sequence", HIDDEN)],
        **of("d"),
    )
    stages = {name: {"filename": f"{name}.onnx"} for name in ("embeddings", "context", "iterator", "lm_head")}
    config = {"model": {"decoder": {"pipeline": [stages]}}}
    (tmp_path / "genai_config.json").write_text(json.dumps(config))
    return tmp_path


def ranges(graph: Path) -> dict[str, tuple[float, float]]:
    """The lowest and the highest number that each rounded tensor can be."""
    constants = {i.name: numpy_helper.to_array(i) for i in onnx.load(str(graph)).graph.initializer}
    found = {}
    for name in "ed":
        if f"{name}_scale" in constants:
            scale, zero = float(constants[f"{name}_scale"]), float(constants[f"{name}_zero"])
            found[name] = (-zero * scale, (65535 - zero) * scale)
    return found


def test_every_graph_gets_the_ranges_of_what_follows_the_sink(pipeline: Path) -> None:
    """Whether texts begin with it or not; neither its own numbers count nor those of what pads a window."""
    settle(pipeline, [[SINK, 1, 2], [3, 1, 1, 1, 1]], SINK, threads=1)
    expected = {"e": (-4.0, 3.0), "d": (-8.0, 6.0)}
    for name in ("embeddings", "context", "iterator", "lm_head"):
        for tensor, found in ranges(pipeline / f"{name}.onnx").items():
            assert found == pytest.approx(expected[tensor], abs=1e-3), (name, tensor)


def test_what_the_sink_computes_is_kept(pipeline: Path) -> None:
    """Its token, its keys and values, and its states as the head takes them, as far as their range goes."""
    settle(pipeline, [[1, 2, 3]], SINK, threads=1)
    with np.load(pipeline / "sink.npz") as sink:
        assert sink["token"] == SINK
        assert sink["past_key_values.0.key"].shape == (1, 1, 1, 2)
        assert sink["states"].tolist() == [[[65535, 0]]]


def test_nothing_else_is_left_behind(pipeline: Path) -> None:
    before = {path.name for path in pipeline.iterdir()}
    settle(pipeline, [[1]], SINK, threads=1)
    assert {path.name for path in pipeline.iterdir()} == before | {"sink.npz"}
