"""Tensors of the protocol, as lists of Python values and back."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgeqwen.kserve import inference_pb2 as pb

from ..errors import Fault, RequestError

MAX_ELEMENTS = 4096
MAX_DIMENSIONS = 8
Value = bool | int | float | bytes
Values = Mapping[str, list[Value]]


@dataclass(frozen=True)
class _Kind:
    """How elements of a datatype lie in raw contents (struct), and which field has them otherwise."""

    code: str
    field: str


_KINDS = {
    "BOOL": _Kind("?", "bool_contents"),
    "INT8": _Kind("b", "int_contents"),
    "INT16": _Kind("h", "int_contents"),
    "INT32": _Kind("i", "int_contents"),
    "INT64": _Kind("q", "int64_contents"),
    "UINT8": _Kind("B", "uint_contents"),
    "UINT16": _Kind("H", "uint_contents"),
    "UINT32": _Kind("I", "uint_contents"),
    "UINT64": _Kind("Q", "uint64_contents"),
    "FP32": _Kind("f", "fp32_contents"),
    "FP64": _Kind("d", "fp64_contents"),
    "BYTES": _Kind("", "bytes_contents"),
}


def read_inputs(request: pb.ModelInferRequest) -> Values:
    """The elements of each input, in row-major order. Raises RequestError."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        message = f"must hold one entry for each of the {len(request.inputs)} inputs (got {len(raw)})"
        raise RequestError([Fault("raw_input_contents", message)])
    read: dict[str, list[Value]] = {}
    faults: list[Fault] = []
    for at, tensor in enumerate(request.inputs):
        try:
            if tensor.name in read:
                raise ValueError("is there twice")  # noqa: TRY301 - it is a fault as the others are
            read[tensor.name] = _elements(tensor, raw[at] if raw else None)
        except ValueError as error:
            faults.append(Fault(f"inputs[{tensor.name[:40]}]", str(error)))
    if faults:
        raise RequestError(faults)
    return read


def add_output(
    response: pb.ModelInferResponse, name: str, datatype: str, values: Sequence[Value], *, raw: bool
) -> None:
    """One more output, `[len(values)]`: in raw contents or in the tensor itself, as the protocol allows both."""
    tensor = response.outputs.add(name=name, datatype=datatype, shape=[len(values)])
    kind = _KINDS[datatype]
    if not raw:
        getattr(tensor.contents, kind.field).extend(values)
    elif kind.code:
        response.raw_output_contents.append(struct.pack(f"<{len(values)}{kind.code}", *values))
    else:
        response.raw_output_contents.append(b"".join(_prefixed(values)))


def _prefixed(strings: Iterable[Value]) -> Iterable[bytes]:
    for each in strings:
        assert isinstance(each, bytes)
        yield struct.pack("<I", len(each)) + each


def _elements(tensor: pb.ModelInferRequest.InferInputTensor, raw: bytes | None) -> list[Value]:
    """Raises ValueError."""
    kind = _KINDS.get(tensor.datatype)
    if kind is None:
        raise ValueError(f"must be one of {', '.join(_KINDS)} (got {tensor.datatype[:40]!r})")
    if len(tensor.shape) > MAX_DIMENSIONS:
        raise ValueError(f"must have at most {MAX_DIMENSIONS} dimensions (got {len(tensor.shape)})")
    if any(size < 0 for size in tensor.shape):
        raise ValueError("has a shape with a negative size")
    count = math.prod(tensor.shape)
    if count > MAX_ELEMENTS:
        raise ValueError(f"must have at most {MAX_ELEMENTS} elements (got {count})")
    if raw is None:
        values: list[Value] = list(getattr(tensor.contents, kind.field))
    elif kind.code:
        if len(raw) != count * struct.calcsize(kind.code):
            raise ValueError(f"has {len(raw)} bytes, which is not what {count} of {tensor.datatype} are")
        values = list(struct.unpack(f"<{count}{kind.code}", raw))
    else:
        values = list(_strings(raw))
    if len(values) != count:
        raise ValueError(f"has {len(values)} elements in {kind.field}, and a shape of {count}")
    return values


def _strings(raw: bytes) -> Iterable[bytes]:
    at = 0
    while at < len(raw):
        length = int.from_bytes(raw[at : at + 4], "little")
        end = at + 4 + length
        if at + 4 > len(raw) or end > len(raw):
            raise ValueError("is cut short: each string has its length in four bytes before it")
        yield raw[at + 4 : end]
        at = end
