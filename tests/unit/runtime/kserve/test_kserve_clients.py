"""NVIDIA's own client, tritonclient, against the daemon's services on a scripted model."""

from __future__ import annotations

import asyncio
import json
import queue
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from fakes import ScriptedSession
from serving import MODEL, serving
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from edgeqwen.client import Client
from edgeqwen.kserve import inference_pb2
from runtime.kserve.asking import INPUTS, OUTPUTS

TIMEOUT_S = 20
LETTERS = "abc"


def letters(history: tuple[int, ...]) -> int:
    """A model that says letters, one after the other: token 32 is an A."""
    return 32 + len(history) % 26


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with serving(ScriptedSession(letters)) as target:
        yield target


@pytest.fixture
def client(target: str) -> Iterator[Any]:
    with triton.InferenceServerClient(target) as client:
        yield client


def tensor(name: str, datatype: str, value: object) -> triton.InferInput:
    kinds = {"BYTES": np.object_, "BOOL": np.bool_, "INT32": np.int32, "FP32": np.float32}
    made = triton.InferInput(name, [1], datatype)
    made.set_data_from_numpy(np.array([value], dtype=kinds[datatype]))
    return made


def asking(text: str = LETTERS, **others: object) -> list[triton.InferInput]:
    datatypes = {bool: "BOOL", int: "INT32", float: "FP32", bytes: "BYTES"}
    more = [tensor(name, datatypes[type(value)], value) for name, value in others.items()]
    return [tensor("text_input", "BYTES", text.encode()), *more]


def text_of(result: triton.InferResult) -> str:
    return str(result.as_numpy("text_output")[0].decode())


def is_final(result: triton.InferResult) -> bool:
    return bool(result.get_response().parameters["triton_final_response"].bool_param)


class Streamed:
    """What a stream of tritonclient gives, as it comes."""

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[Any, Any]] = queue.Queue()

    def callback(self, result: Any, error: Any) -> None:
        self._queue.put((result, error))

    def next(self) -> triton.InferResult:
        result, error = self._queue.get(timeout=TIMEOUT_S)
        if error is not None:
            raise error
        return result

    def to_end(self) -> list[triton.InferResult]:
        got = [self.next()]
        while not is_final(got[-1]):
            got.append(self.next())
        return got


def test_both_libraries_have_their_messages_in_one_process() -> None:
    """Ours and tritonclient's are different classes with the same fields, names, numbers and types."""

    def fields(message: Any) -> tuple[Any, ...]:
        own = sorted(
            (field.number, field.name, field.type, field.is_repeated, getattr(field.message_type, "full_name", ""))
            for field in message.fields
        )
        return own, sorted((nested.name, fields(nested)) for nested in message.nested_types)

    theirs = service_pb2.DESCRIPTOR.message_types_by_name
    assert inference_pb2.ModelInferRequest is not service_pb2.ModelInferRequest
    for name, message in inference_pb2.DESCRIPTOR.message_types_by_name.items():
        assert fields(message) == fields(theirs[name]), name


def test_server_and_models_say_what_they_are(client: Any) -> None:
    """Live, ready, and metadata that lists every tensor."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "1")
    assert not client.is_model_ready(MODEL, "2")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata().name == "edgeqwen"
    metadata = client.get_model_metadata(MODEL)
    assert {(each.name, each.datatype, *each.shape) for each in metadata.inputs} == {
        (name, *form) for name, form in INPUTS.items()
    }
    assert [each.name for each in metadata.outputs] == list(OUTPUTS)
    [listed] = client.get_model_repository_index().models
    assert (listed.name, listed.state) == (MODEL, "READY")


def test_unknown_models_are_not_found(client: Any) -> None:
    for call in (
        lambda: client.get_model_metadata("other"),
        lambda: client.infer("other", asking()),
        lambda: client.unload_model("other"),
        lambda: client.load_model("other"),
    ):
        with pytest.raises(InferenceServerException) as error:
            call()
        assert error.value.status() == "StatusCode.NOT_FOUND"


def test_an_answer_comes_whole(client: Any) -> None:
    """With parameters as tensors, as the request's own, or as JSON, whose numbers may be strings."""
    result = client.infer(MODEL, asking(max_tokens=4, temperature=0.0), request_id="r-7")
    assert text_of(result) == "DEFG"
    assert result.get_response().id == "r-7"
    assert is_final(result)
    assert text_of(client.infer(MODEL, asking(), parameters={"max_tokens": 2, "temperature": 0.0})) == "DE"
    sampling = json.dumps({"max_tokens": "3", "temperature": "0", "stop": ["F"]}).encode()
    assert text_of(client.infer(MODEL, asking(sampling_parameters=sampling))) == "DE"
    assert text_of(client.infer(MODEL, asking(max_tokens=1, exclude_input_in_output=False))) == "abcD"


def test_chats_and_counts(client: Any) -> None:
    """`messages` goes through the chat template; what is asked for of the outputs comes."""
    messages = json.dumps([{"role": "user", "content": "hi"}]).encode()
    outputs = [triton.InferRequestedOutput(name) for name in ("finish_reason", "num_input_tokens", "num_output_tokens")]
    inputs = [tensor("messages", "BYTES", messages), tensor("max_tokens", "INT32", 5)]
    result = client.infer(MODEL, inputs, outputs=outputs)
    assert result.as_numpy("finish_reason")[0] == b"length"
    assert result.as_numpy("num_input_tokens")[0] > len("hi")
    assert result.as_numpy("num_output_tokens")[0] == 5
    assert result.as_numpy("text_output") is None


def test_a_stream_gives_pieces_and_a_final_response(client: Any) -> None:
    """Two requests of one stream, each with its id; one without `stream` comes in one piece."""
    streamed = Streamed()
    client.start_stream(streamed.callback)
    client.async_stream_infer(MODEL, asking(max_tokens=6, stream=True), request_id="a")
    pieces = streamed.to_end()
    assert "".join(map(text_of, pieces)) == "DEFGHI"
    assert {piece.get_response().id for piece in pieces} == {"a"}
    assert [is_final(piece) for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    client.async_stream_infer(MODEL, asking(max_tokens=6), enable_empty_final_response=True)
    [whole] = streamed.to_end()
    assert text_of(whole) == "DEFGHI"
    client.stop_stream()


def test_a_bad_request_does_not_end_its_stream(client: Any, target: str) -> None:
    """It is counted as an error, once; the stream that ends well is none."""
    streamed = Streamed()
    client.start_stream(streamed.callback)
    client.async_stream_infer(MODEL, asking(top_p=7.0))
    with pytest.raises(InferenceServerException, match=r"sampling\.top_p: must be more than 0"):
        streamed.next()
    client.async_stream_infer(MODEL, asking(max_tokens=2, stream=True))
    assert "".join(map(text_of, streamed.to_end())) == "DE"
    client.stop_stream()
    with Client(target) as ours:
        errors = ours.snapshot().call_errors
    told = [each for each in errors if each.method.endswith("/ModelStreamInfer")]
    assert [(each.code, each.total) for each in told] == [("INVALID_ARGUMENT", 1)]


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ([], "inputs: must have either text_input or messages"),
        (asking(wind=1), r"inputs\[wind\]: is not known"),
        (asking(max_tokens=b"many"), r"inputs\[max_tokens\]: must be one value, a whole number"),
        (asking(max_tokens=-4), "max_tokens: is out of range"),
        (asking(stream=True), "stream: is for ModelStreamInfer"),
        (asking(sampling_parameters=b"{"), r"inputs\[sampling_parameters\]: is no JSON"),
        (asking(sampling_parameters=b'{"top_p": NaN}'), "NaN is no number"),
        ([*asking(max_tokens=1), tensor("messages", "BYTES", b"[]")], "either text_input or messages"),
        ([tensor("messages", "BYTES", b'[{"role": "pump"}]')], r"messages\[0\].role: must be"),
    ],
)
def test_what_cannot_work_is_said(client: Any, inputs: list[Any], says: str) -> None:
    """INVALID_ARGUMENT with the place of the fault."""
    with pytest.raises(InferenceServerException, match=says) as error:
        client.infer(MODEL, inputs)
    assert error.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_contents_in_tensors_are_answered_likewise(target: str) -> None:
    """The protocol allows both forms; KServe's own clients use this one."""
    request = service_pb2.ModelInferRequest(model_name=MODEL)
    request.inputs.add(name="text_input", datatype="BYTES", shape=[1, 1]).contents.bytes_contents.append(b"abc")
    request.parameters["max_tokens"].int64_param = 2
    with grpc.insecure_channel(target) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )
        [output] = infer(request).outputs
    assert output.contents.bytes_contents == [b"DE"]


async def test_asyncio(target: str) -> None:
    """The asyncio client, whole and streamed."""

    async def requests() -> AsyncIterator[dict[str, Any]]:
        yield {"model_name": MODEL, "inputs": asking(max_tokens=5, stream=True)}

    async with asyncio.timeout(TIMEOUT_S), triton_aio.InferenceServerClient(target) as client:
        assert await client.is_server_ready()
        assert text_of(await client.infer(MODEL, asking(max_tokens=2))) == "DE"
        pieces = [result async for result, error in client.stream_infer(requests()) if error is None]
    assert "".join(map(text_of, pieces)) == "DEFGH"


def test_who_leaves_frees_the_slot() -> None:
    """A stream that is cancelled in the middle of an answer, which would be long; the daemon's own counters tell."""
    session = ScriptedSession(letters, context_tokens=200_000, slots=1)
    with (
        serving(session, kv_budget_tokens=200_000) as target,
        Client(target) as ours,
        triton.InferenceServerClient(target) as client,
    ):
        streamed = Streamed()
        client.start_stream(streamed.callback)
        client.async_stream_infer(MODEL, asking(max_tokens=190_000, stream=True))
        streamed.next()
        client.stop_stream(cancel_requests=True)
        assert text_of(client.infer(MODEL, asking(max_tokens=2))) == "DE"  # in the only slot
        assert ours.snapshot().models[0].engine.requests_cancelled_total == 1
