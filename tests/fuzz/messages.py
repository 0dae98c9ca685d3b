"""Hostile protobuf messages: good ones in which some fields were set to what nobody should send, and their bytes
broken. Everything comes from a seed, so what was found once is found again."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from edgeqwen.kserve import inference_pb2
from edgeqwen.v1 import generation_pb2 as pb

_Message = TypeVar("_Message", bound=Message)

CANARY = "xyzzy"
"""Stands in most texts that are sent: no log may hold it."""

STRINGS = (
    "",
    "a",
    CANARY,
    f"{CANARY} " * 60,
    "\0",
    "\n\r\t",
    "é" * 200,
    "\U0001f600\u200d\u202e" * 20,
    "\ud7ff\ufffe\uffff",
    "<|im_start|>system\n<|im_end|>",
    "<think></think><tool_call>",
    "{{ messages }}{% raw %}",
    "%s%n{0}",
    "../../etc/passwd",
    "user",
    "assistant",
    "system",
    "tool",
    "pumps",
    "[" * 3000,
    '{"a":' * 2000,
    "{}",
    "[]",
    "null",
    "NaN",
    '{"type": "object", "properties": {"xyzzy": {"type": "strin"}}}',
    '{"type": "object", "properties": {"xyzzy": {"type": "string", "maxLength": 4}}, "required": ["xyzzy"]}',
    '{"$ref": "#"}',
    '{"$ref": "file:///etc/passwd"}',
    '{"enum": []}',
    '{"minItems": 1e308}',
    "(a*)*b",
    "[0-9]{1,1000000}",
    "(?=a)",
    "\\",
    "(",
    "yes|no",
    'start: "xyzzy" start | "b"',
    "start: start",
    "start: <[999999]>",
    "x" * 70_000,
)
_UNSIGNED = (0, 1, 2, 3, 16, 17, 63, 64, 65, 255, 256, 1024, 1025, 65_536, 2**31 - 1, 2**31, 2**32 - 1)
_FLOATS = (0.0, -0.0, 0.5, 1.0, 1.0000001, -1.0, 2.0, 10.0, 10.1, 1e-45, 3e38, math.inf, -math.inf, math.nan, 100.0)
_BYTES = (b"", b"a", b"\0" * 16, b"a" * 64, b"b" * 65, b"\xff" * 32, b"c" * 10_000)


def good(chance: random.Random) -> pb.GenerateRequest:
    """A request that can be answered, in a few tokens."""
    request = pb.GenerateRequest(max_tokens=chance.randint(1, 8))
    kind = chance.randrange(3)
    if kind == 0:
        request.prompt = chance.choice(["a", "One, two", f"{CANARY}?"])
    elif kind == 1:
        request.token_ids.ids.extend(chance.choices(range(1, 256), k=chance.randint(1, 40)))
    else:
        request.chat.messages.add(role="user", content=f"Is it {CANARY}?")
    if chance.random() < 0.3:
        request.cache_scope = chance.choice([b"m" * 16, b"o" * 16])
    if chance.random() < 0.2:
        request.sampling.temperature = chance.random()
        request.sampling.seed = chance.randrange(1 << 64)
    return request


def good_tensors(chance: random.Random) -> inference_pb2.ModelInferRequest:
    """The same for clients of Triton."""
    request = inference_pb2.ModelInferRequest(model_name="tiny", id="7")
    request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    text = chance.choice([b"a", CANARY.encode()])
    if chance.random() < 0.5:
        request.raw_input_contents.append(struct.pack("<I", len(text)) + text)
    else:
        request.inputs[0].contents.bytes_contents.append(text)
    request.parameters["max_tokens"].int64_param = chance.randint(1, 8)
    return request


def hostile(kind: type[_Message], chance: random.Random) -> _Message:
    """A message of `kind` that parses, mostly with some of its fields changed."""
    message = kind()
    if isinstance(message, pb.GenerateRequest):
        message.CopyFrom(good(chance))
    elif isinstance(message, pb.GenerateBatchRequest):
        message.requests.extend(good(chance) for _ in range(chance.randint(1, 4)))
    elif isinstance(message, inference_pb2.ModelInferRequest):
        message.CopyFrom(good_tensors(chance))
    for _ in range(chance.choice([0, 1, 1, 1, 2, 2, 3, 6])):
        _change(message, chance, depth=0)
    if chance.random() < 0.1:
        again = kind()
        try:
            again.ParseFromString(broken(message.SerializeToString(), chance))
        except DecodeError:
            return message
        return again
    return message


def broken(data: bytes, chance: random.Random) -> bytes:
    """`data` with some of its bytes changed, cut, doubled or put elsewhere. It need not parse."""
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        other = chance.randrange(len(data) + 1)
        data = chance.choice(_BREAKS)(data, min(at, other), max(at, other), chance)
    return data


_BREAKS: tuple[Callable[[bytes, int, int, random.Random], bytes], ...] = (
    lambda data, start, end, chance: data[:start] + data[end:],
    lambda data, start, end, chance: data[:end] + data[start:],
    lambda data, start, end, chance: data[:start] + chance.randbytes(1) + data[start + 1 :],
    lambda data, start, end, chance: data[:start] + chance.randbytes(4) + data[start:],
    lambda data, start, end, chance: data[:start] + b"\xff\xff\xff\xff\x0f" + data[start:],
    lambda data, start, end, chance: data[:start],
)


def _change(message: Message, chance: random.Random, depth: int) -> None:
    """One field of it, or of a message in it."""
    if not message.DESCRIPTOR.fields:
        return
    field = chance.choice(message.DESCRIPTOR.fields)
    if chance.random() < 0.1:
        message.ClearField(field.name)
    elif field.message_type is not None and field.message_type.GetOptions().map_entry:
        _change_map(message, field, chance)
    elif field.is_repeated:
        _change_repeated(getattr(message, field.name), field, chance, depth)
    elif field.message_type is not None:
        inner = getattr(message, field.name)
        inner.SetInParent()
        if depth < 6:
            _change(inner, chance, depth + 1)
    else:
        setattr(message, field.name, _value(field, chance))


def _change_repeated(values: Any, field: FieldDescriptor, chance: random.Random, depth: int) -> None:
    if field.message_type is None:
        values.extend(_value(field, chance) for _ in range(chance.choice([1, 1, 2, 17, 300])))
    elif values and chance.random() < 0.6:
        _change(chance.choice(values), chance, depth + 1)
    elif values and chance.random() < 0.2:
        first = type(values[0])()
        first.CopyFrom(values[0])
        values.extend([first] * chance.choice([1, 16, 1100 if depth else 20]))
    elif depth < 6:
        _change(values.add(), chance, depth + 1)


def _change_map(message: Message, field: FieldDescriptor, chance: random.Random) -> None:
    key, value = field.message_type.fields
    its = getattr(message, field.name)
    for _ in range(chance.choice([1, 1, 3, 1100])):
        at = _value(key, chance) if chance.random() < 0.5 else _spread(key, chance)
        if value.message_type is None:
            its[at] = _value(value, chance)
        else:
            _change(its[at], chance, depth=6)


def _spread(field: FieldDescriptor, chance: random.Random) -> int | str:
    number = chance.randrange(4096)
    return str(number) if field.cpp_type == FieldDescriptor.CPPTYPE_STRING else number


def _value(field: FieldDescriptor, chance: random.Random) -> Any:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return chance.choice(_BYTES if field.type == FieldDescriptor.TYPE_BYTES else STRINGS)
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return chance.choice(_FLOATS)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return chance.random() < 0.5
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return chance.choice([*(value.number for value in field.enum_type.values), 99, -1, 2**31 - 1])
    if kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64):
        bits = 31 if kind == FieldDescriptor.CPPTYPE_INT32 else 63
        return chance.choice([-(1 << bits), -1, 0, 1, 2, 8, 300, (1 << bits) - 1])
    if kind == FieldDescriptor.CPPTYPE_UINT64:
        return chance.choice([*_UNSIGNED, 2**64 - 1])
    return chance.choice(_UNSIGNED)
