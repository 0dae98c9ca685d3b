"""From a ModelInferRequest to a GenerateRequest, with the inputs that Triton's backends for language models know."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edgeqwen.kserve import inference_pb2 as pb
from edgeqwen.v1 import generation_pb2

from ..errors import Fault, RequestError
from ..requests.chat_json import Conversation
from ..requests.fields import set_field
from ..requests.strict_json import read_json
from ..validation import parse
from .tensors import Value, read_inputs

# Settings by name, with what they are; Triton's backends call some of them otherwise.
_SAMPLING: dict[str, type] = {
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "repetition_penalty": float,
    "presence_penalty": float,
    "frequency_penalty": float,
    "seed": int,
}
_OTHER: dict[str, type] = {"max_tokens": int, "ignore_eos": bool, "stop": list}
_SWITCHES = ("stream", "exclude_input_in_output")
_RETURNS = ("return_finish_reason", "return_num_input_tokens", "return_num_output_tokens")
_SETTINGS = _SAMPLING | _OTHER | dict.fromkeys((*_SWITCHES, *_RETURNS), bool)
_ALIASES = {"random_seed": "seed", "stop_words": "stop"}
_IGNORED = frozenset({"triton_enable_empty_final_response"})  # the final response is never empty here
_JSON_INPUT = "sampling_parameters"
_DATATYPES: dict[type, str] = {float: "FP32", int: "INT32", bool: "BOOL"}

INPUTS: dict[str, tuple[str, int]] = {
    "text_input": ("BYTES", 1),
    "messages": ("BYTES", 1),
    _JSON_INPUT: ("BYTES", 1),
    "stop": ("BYTES", -1),
    **{name: (_DATATYPES[kind], 1) for name, kind in _SETTINGS.items() if kind in _DATATYPES},
    "seed": ("UINT64", 1),
}
"""Every input, of which one of the first two is needed: its datatype and its size."""
OUTPUTS = {
    "text_output": "BYTES",
    "finish_reason": "BYTES",
    "num_input_tokens": "UINT32",
    "num_output_tokens": "UINT32",
}
"""Every output. Who names none gets the first, and those whose `return_...` is true."""

KNOWN = frozenset({*INPUTS, "inputs", "outputs", "parameters", "model_version", "raw_input_contents"})
"""What the paths of faults begin with; what follows may be the client's."""


@dataclass(frozen=True)
class Asked:
    """What is to be generated, and how the answer is wanted.

    Args:
        stream: a response for each piece of text.
        before: what the text of an answer begins with.
        raw: whether the contents of tensors lie beside them, as those of the request do.
    """

    request: generation_pb2.GenerateRequest
    stream: bool
    before: str
    outputs: tuple[str, ...]
    raw: bool


def read(message: pb.ModelInferRequest) -> Asked:
    """Raises RequestError with every fault."""
    faults: list[Fault] = []
    if message.model_version not in ("", "1"):
        faults.append(Fault("model_version", f'must be unset or "1" (got {message.model_version[:20]!r})'))
    inputs = read_inputs(message)
    settings = _Settings(faults)
    for name, parameter in message.parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if name not in _IGNORED:
            settings.add(f"parameters[{name[:40]}]", name, getattr(parameter, kind) if kind else None)
    request = generation_pb2.GenerateRequest(model=message.model_name)
    for name, values in inputs.items():
        path = f"inputs[{name[:40]}]"
        if name not in ("text_input", "messages", _JSON_INPUT):
            settings.add(path, name, values if _ALIASES.get(name, name) == "stop" else _only(values))
            continue
        try:
            _read_text(request, settings, name, path, values)
        except RequestError as error:
            faults += error.faults
    if len({"text_input", "messages"} & inputs.keys()) != 1:
        faults.append(Fault("inputs", "must have either text_input or messages"))
    outputs = tuple(each.name for each in message.outputs)
    faults += [
        Fault(f"outputs[{name[:40]}]", f"must be one of {', '.join(OUTPUTS)}")
        for name in outputs
        if name not in OUTPUTS
    ]
    if faults:
        raise RequestError(faults)
    given = settings.given
    before = "" if given.pop("exclude_input_in_output", True) else request.prompt
    stream = bool(given.pop("stream", False))
    returned = [name for name in OUTPUTS if given.pop(f"return_{name}", False)]
    _apply(request, given)
    return Asked(request, stream, before, outputs or ("text_output", *returned), bool(message.raw_input_contents))


class _Settings:
    """Settings that were found so far; each may be given in one place."""

    def __init__(self, faults: list[Fault]) -> None:
        self.given: dict[str, Any] = {}
        self._faults = faults

    def add(self, path: str, name: str, value: object) -> None:
        name = _ALIASES.get(name, name)
        if name not in _SETTINGS:
            self._faults.append(Fault(path, "is not known; ModelMetadata has what there is"))
        elif name in self.given:
            self._faults.append(Fault(path, "is given twice"))
        else:
            try:
                self.given[name] = _typed(value, _SETTINGS[name])
            except ValueError as error:
                self._faults.append(Fault(path, str(error)))


def _read_text(
    request: generation_pb2.GenerateRequest, settings: _Settings, name: str, path: str, values: list[Value]
) -> None:
    text = _text(path, _only(values))
    if name == "text_input":
        request.prompt = text
        return
    value = read_json(text, path)
    if name == "messages":
        chat = parse(Conversation, {"messages": value}, subject="", error=RequestError)
        request.chat.messages.extend(each.message() for each in chat.messages)
        return
    if not isinstance(value, dict):
        raise RequestError([Fault(path, "must be a JSON object")])
    for key, each in value.items():
        settings.add(f"{path}.{key[:40]}", key, each)


def _only(values: list[Value]) -> Value | None:
    return values[0] if len(values) == 1 else None


def _text(path: str, value: object) -> str:
    try:
        if isinstance(value, bytes):
            return value.decode()
    except UnicodeDecodeError:
        pass
    raise RequestError([Fault(path, "must be one string of UTF-8")])


def _typed(value: object, kind: type) -> object:
    """`value` as a `kind`; strings of numbers count too, as some clients write all parameters as strings.

    Raises ValueError that says what is wanted.
    """
    if kind is list:
        return list(_stops(value if isinstance(value, list) else [value]))
    wanted = {float: "a number", int: "a whole number", bool: "true or false"}[kind]
    if isinstance(value, bytes | str):
        text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
        try:
            value = {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
        except (KeyError, ValueError):
            value = None
    good = isinstance(value, kind) or (kind is float and isinstance(value, int))
    if not good or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"must be one value, {wanted}")
    return value


def _stops(values: list[Any]) -> Iterator[str]:
    for each in values:
        text = each.decode("utf-8", "replace") if isinstance(each, bytes) else each
        if not isinstance(text, str):
            raise ValueError("must be strings")  # noqa: TRY004 - it is a fault as the others are
        yield text


def _apply(request: generation_pb2.GenerateRequest, given: dict[str, Any]) -> None:
    """Raises RequestError for what its field cannot hold."""
    faults: list[Fault] = []
    for name, value in given.items():
        if name == "stop":
            request.stop.extend(value)
        else:
            faults += set_field(request.sampling if name in _SAMPLING else request, name, value, name)
    if faults:
        raise RequestError(faults)
