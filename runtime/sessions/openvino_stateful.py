"""One row on any device of OpenVINO, through the form of the model that keeps its KV cache as state.

The NPU takes a prompt only whole: a request of several tokens that does not begin at position 0 is none that it knows.
So tokens are computed once logits are wanted after them, and where they cannot go on from what the state holds, all of
the row is computed again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import openvino as ov

from .openvino_device import LOGIT_TOKENS, compile_model, cpu_properties, infer, pick_logits, read_model
from .session import Chunk, Logits, SessionSpec, only_chunk

_KV_ITEMSIZE = {"float32": 4, "float16": 2}


class OpenVinoStatefulSession:
    """`Session` of one row on a device of OpenVINO: CPU, GPU or NPU."""

    def __init__(
        self,
        model: Path,
        *,
        device: str,
        context_tokens: int,
        threads: int,
        kv_dtype: str,
        int8_activations: bool,
        properties: Mapping[str, str] | None = None,
    ) -> None:
        """Loads the IR `model`. Raises SessionError if `device` is not there or cannot run it.

        Args:
            threads: of the CPU, as are `kv_dtype` (float32 or float16) and `int8_activations`.
            properties: OpenVINO's own, by their names, of a device other than the CPU.
        """
        stateful = read_model(model)
        self._on_npu = device.startswith("NPU")
        given = dict(properties or {})
        if device == "CPU":
            given = cpu_properties(threads, kv_dtype, int8_activations=int8_activations)
        elif self._on_npu:
            given = _npu_properties(context_tokens) | given
        if not self._on_npu:
            pick_logits(stateful, axis=1)
        shapes = [state.get_output_partial_shape(0) for state in stateful.get_ops() if _is_read(state)]
        compiled = compile_model(stateful, device, given)
        self._request = compiled.create_infer_request()
        self._tokens: list[int] = []
        self._computed = 0  # of them, in the state
        numbers = sum(shape[1].get_length() * shape[3].get_length() for shape in shapes)
        self._spec = SessionSpec(
            vocab_size=compiled.output("logits").partial_shape[2].get_length(),
            context_tokens=context_tokens,
            slots=1,
            kv_bytes_per_token=numbers * _KV_ITEMSIZE[kv_dtype],
            provider=f"OpenVINO ({device})",
            many_logits=not self._on_npu,
            reuses_rows=False,
        )

    @property
    def spec(self) -> SessionSpec:
        return self._spec

    def run(self, chunks: Sequence[Chunk], *, adapter: str | None = None, deterministic: bool = False) -> Logits:
        chunk = only_chunk(chunks, self._spec, adapter, held=len(self._tokens))
        self._tokens[chunk.start :] = chunk.tokens
        if not chunk.logits:
            return np.empty((0, self._spec.vocab_size), np.float32)
        behind = len(self._tokens) - self._computed
        if self._computed > chunk.start or (self._on_npu and self._computed and behind > 1):
            self._forget()
        return self._compute(chunk.logits)

    def _compute(self, wanted: int) -> Logits:
        """Logits after the last `wanted` tokens, once all of them are in the state."""
        start, end = self._computed, len(self._tokens)
        self._set("input_ids", [self._tokens[start:]])
        self._set("position_ids", [range(start, end)])
        self._set("attention_mask", np.ones((1, end)))
        self._request.set_tensor("beam_idx", ov.Tensor(np.zeros(1, np.int32)))
        if not self._on_npu:
            self._set(LOGIT_TOKENS, range(end - start - wanted, end - start))
        infer(self._request)
        self._computed = end
        logits: Logits = self._request.get_tensor("logits").data
        return logits[0, -wanted:]

    def _set(self, name: str, value: object) -> None:
        self._request.set_tensor(name, ov.Tensor(np.asarray(value, np.int64)))

    def copy(self, source: int, target: int, tokens: int) -> None:
        raise AssertionError("there is one slot")

    def clear(self, slot: int, keep: int = 0) -> None:
        del self._tokens[keep:]
        if not keep:
            self._forget()

    def _forget(self) -> None:
        self._request.reset_state()
        self._computed = 0


def _is_read(node: ov.Node) -> bool:
    return bool(node.get_type_name() == "ReadValue")


def _npu_properties(context_tokens: int) -> dict[str, str]:
    """Those that openvino-genai sets for a language model, for prompts of up to the whole context."""
    return {
        "NPU_USE_NPUW": "YES",
        "NPUW_LLM": "YES",
        "NPUW_LLM_BATCH_DIM": "0",
        "NPUW_LLM_SEQ_LEN_DIM": "2",
        "NPUW_LLM_MAX_PROMPT_LEN": str(context_tokens),
        "NPUW_LLM_MIN_RESPONSE_LEN": "128",
    }
