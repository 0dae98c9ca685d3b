"""From tensors to a request: what is read, and that whatever comes is read or refused."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeqwen.kserve import inference_pb2 as pb
from runtime.errors import RequestError
from runtime.kserve.asking import INPUTS, read
from runtime.kserve.tensors import MAX_ELEMENTS, add_output, read_inputs

DATATYPES = ["BOOL", "INT8", "INT32", "INT64", "UINT8", "UINT64", "FP32", "FP64", "BYTES", "FP16", ""]


def infer(*tensors: tuple[str, str, list[int], bytes]) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest()
    for name, datatype, shape, raw in tensors:
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        request.raw_input_contents.append(raw)
    return request


def prefixed(text: bytes) -> bytes:
    return struct.pack("<I", len(text)) + text


TEXT = ("text_input", "BYTES", [1], prefixed(b"abc"))


def test_settings_by_either_name() -> None:
    """Triton's backends call some otherwise; a setting may come as a tensor or as a parameter, in any integer type."""
    stop = prefixed(b"x") + prefixed("é".encode())
    message = infer(
        TEXT, ("random_seed", "UINT64", [1, 1], struct.pack("<Q", 1 << 63)), ("stop_words", "BYTES", [2], stop)
    )
    message.parameters["top_k"].int64_param = 5
    message.parameters["ignore_eos"].string_param = "True"
    message.parameters["temperature"].double_param = 0.5
    message.model_name = "m"
    asked = read(message)
    assert (asked.request.prompt, asked.request.model, asked.request.sampling.seed) == ("abc", "m", 1 << 63)
    assert list(asked.request.stop) == ["x", "é"]
    assert (asked.request.sampling.top_k, asked.request.sampling.temperature, asked.request.ignore_eos) == (
        5,
        0.5,
        True,
    )
    assert asked.raw


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (infer(TEXT, ("text_input", "BYTES", [1], prefixed(b"a"))), "is there twice"),
        (infer(TEXT, ("seed", "UINT64", [1], b"\0" * 8), ("random_seed", "UINT64", [1], b"\0" * 8)), "is given twice"),
        (infer(("text_input", "BYTES", [1], b"\xff\0\0\0a")), "is cut short"),
        (infer(("text_input", "BYTES", [2], prefixed(b"a"))), "has 1 elements"),
        (infer(("text_input", "BYTES", [-1], b"")), "a negative size"),
        (infer(("text_input", "BYTES", [1 << 62] * 100_000, b"")), "at most 8 dimensions"),
        (infer(("text_input", "BYTES", [1 << 62], b"")), f"at most {MAX_ELEMENTS} elements"),
        (infer(("text_input", "BYTES", [1], prefixed(b"\xff"))), "one string of UTF-8"),
        (infer(("text_input", "FP16", [1], b"")), "must be one of BOOL"),
        (infer(TEXT, ("max_tokens", "INT32", [1], b"\0")), "which is not what 1 of INT32 are"),
        (infer(TEXT, ("max_tokens", "INT32", [2], b"\0" * 8)), "must be one value, a whole number"),
        (infer(TEXT, ("stream", "INT32", [1], b"\0" * 4)), "must be one value, true or false"),
        (pb.ModelInferRequest(inputs=infer(TEXT, TEXT).inputs, raw_input_contents=[b""]), "one entry for each"),
        (pb.ModelInferRequest(model_version="3"), "model_version"),
    ],
)
def test_what_is_refused(message: pb.ModelInferRequest, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        read(message)


def test_every_fault_is_told_at_once() -> None:
    message = infer(TEXT, ("wind", "INT32", [1], b"\0" * 4), ("stream", "FP32", [1], b"\0" * 4))
    message.outputs.add(name="picture")
    with pytest.raises(RequestError) as error:
        read(message)
    assert [fault.path for fault in error.value.faults] == ["inputs[stream]", "inputs[wind]", "outputs[picture]"]


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize(
    ("datatype", "values"),
    [("BYTES", [b"", b"a\0b"]), ("UINT32", [0, 1 << 31]), ("FP32", [0.5]), ("BOOL", [True, False])],
)
def test_tensors_there_and_back(datatype: str, values: list[bytes | int | float | bool], raw: bool) -> None:
    """What is written as an output reads as an input."""
    response = pb.ModelInferResponse()
    add_output(response, "x", datatype, values, raw=raw)
    [output] = response.outputs
    request = pb.ModelInferRequest(raw_input_contents=response.raw_output_contents)
    request.inputs.add(name="x", datatype=output.datatype, shape=output.shape, contents=output.contents)
    assert read_inputs(request) == {"x": values}


TENSORS = st.tuples(
    st.sampled_from([*INPUTS, "stop_words", "other"]),
    st.sampled_from(DATATYPES),
    st.lists(st.integers(-2, 3), max_size=3),
    st.binary(max_size=24) | st.binary(max_size=20).map(prefixed),
)


@given(st.lists(TENSORS, max_size=5))
def test_whatever_comes_is_read_or_refused(tensors: list[tuple[str, str, list[int], bytes]]) -> None:
    with suppress(RequestError):
        read(infer(*tensors))


@given(st.binary(max_size=200))
def test_whatever_parses_is_read_or_refused(data: bytes) -> None:
    """Messages from the wire."""
    message = pb.ModelInferRequest()
    try:
        message.ParseFromString(data)
    except Exception:
        return
    with suppress(RequestError):
        read(message)
