"""The same with grpcio alone, and stubs of protos/edgeqwen/v1; with a deadline, and what an error tells.

Where edgeqwen is not installed, make the stubs: python -m grpc_tools.protoc -Iprotos --python_out=. --grpc_python_out=.
protos/edgeqwen/v1/*.proto
"""

from __future__ import annotations

import os
import sys

import grpc

from edgeqwen.v1 import generation_pb2, generation_pb2_grpc

TARGET = os.environ.get("EDGEQWEN_TARGET", "unix:/run/edgeqwen/edgeqwend.sock")
DEADLINE_S = 120


def main(question: str) -> None:
    request = generation_pb2.GenerateRequest(
        chat=generation_pb2.Chat(messages=[generation_pb2.Message(role="user", content=question)]),
        max_tokens=64,
        sampling=generation_pb2.Sampling(temperature=0),
    )
    with grpc.insecure_channel(TARGET) as channel:
        answer = generation_pb2_grpc.GenerationStub(channel).Generate(request, timeout=DEADLINE_S)
        for event in answer:
            kind = event.WhichOneof("event")
            if kind == "delta":
                print(event.delta.text, end="", flush=True)
            elif kind == "finished":
                print(f"\n[{event.finished.usage.completion_tokens} tokens]", file=sys.stderr)


if __name__ == "__main__":
    try:
        main(" ".join(sys.argv[1:]) or "What is the capital of France?")
    except grpc.RpcError as error:
        sys.exit(f"plain_grpc.py: {error.code().name}: {error.details()}")
