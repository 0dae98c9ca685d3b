"""A surgeon for Olive's GraphSurgeries: cosines and sines of rotary positions are computed, not stored.

ModelBuilder stores both for every position that the model was trained for: 2 MB for 8,192 positions, 21 MB for
Qwen3-0.6B. Computed from 32 to 64 frequencies they take nothing in the package; ONNX Runtime does that once, when it
loads the graph and folds what is constant.
"""

from __future__ import annotations

import numpy as np
import torch
from olive.passes.onnx.graph_surgeries import ProtoSurgeon
from onnx import ModelProto, helper, numpy_helper

_COSINES, _SINES = "cos_cache", "sin_cache"
_CLOSE = 1e-5


class ComputeRotaryTables(ProtoSurgeon):
    """Tables that are not those of a plain rotary embedding stay as they are."""

    def __call__(self, model: ModelProto) -> ModelProto:
        graph = model.graph
        stored = {value.name: value for value in graph.initializer if value.name in (_COSINES, _SINES)}
        if len(stored) != 2:
            return model
        cosines, sines = (numpy_helper.to_array(stored[name]).astype(np.float32) for name in (_COSINES, _SINES))
        frequencies = find_frequencies(sines)
        phases = torch.arange(len(sines), dtype=torch.float32)[:, None] * frequencies
        for table, computed in ((cosines, phases.cos()), (sines, phases.sin())):
            if np.abs(table - computed.numpy()).max() > _CLOSE:
                return model
        for value in stored.values():
            graph.initializer.remove(value)
        constants = {
            "rotary.first": np.float32(0),
            "rotary.positions": np.float32(len(sines)),
            "rotary.step": np.float32(1),
            "rotary.axis": np.array([1], np.int64),
            "rotary.frequencies": frequencies.numpy()[None],
        }
        graph.initializer.extend(numpy_helper.from_array(np.asarray(its), name) for name, its in constants.items())
        nodes = [
            helper.make_node("Range", ["rotary.first", "rotary.positions", "rotary.step"], ["rotary.range"]),
            helper.make_node("Unsqueeze", ["rotary.range", "rotary.axis"], ["rotary.column"]),
            helper.make_node("Mul", ["rotary.column", "rotary.frequencies"], ["rotary.phases"]),
            helper.make_node("Cos", ["rotary.phases"], [_COSINES]),
            helper.make_node("Sin", ["rotary.phases"], [_SINES]),
        ]
        for at, node in enumerate(nodes):
            node.name = f"/rotary/{node.op_type}"
            graph.node.insert(at, node)
        return model


def find_frequencies(sines: np.ndarray) -> torch.Tensor:
    """Those of a table `[positions, frequencies]`, float32, as transformers computes them from its base."""
    half = sines.shape[1]
    smallest = np.arcsin(np.float64(sines[1, -1]))  # base ** -((half - 1) / half)
    base = float(f"{smallest ** (-half / (half - 1)):.6g}")
    return 1.0 / base ** (torch.arange(0, 2 * half, 2, dtype=torch.int64).to(torch.float32) / (2 * half))
