"""Strict, frozen models of what comes in from outside, and their faults in plain words, all at once."""

from __future__ import annotations

import reprlib
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import Fault, InvalidInput

Model = TypeVar("Model", bound="StrictModel")


class StrictModel(BaseModel):
    """No unknown keys, no silent conversions, no changes after it is made."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


def parse(model: type[Model], data: object, *, subject: str, error: type[InvalidInput]) -> Model:
    """`data` as a `model`. Raises `error` with every fault, each with its path, such as `runtime.slots`."""
    try:
        return model.model_validate(data)
    except ValidationError as failure:
        raise error(faults_of(failure), subject) from failure


def faults_of(failure: ValidationError) -> list[Fault]:
    """Pydantic's findings as faults."""
    return [
        Fault(_path(found["loc"]), _message(found["type"], found["msg"], found.get("ctx", {}), found["input"]))
        for found in failure.errors(include_url=False)
    ]


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _message(kind: str, message: str, context: dict[str, object], value: object) -> str:
    bounds = {
        "greater_than": "> {gt}",
        "greater_than_equal": ">= {ge}",
        "less_than": "< {lt}",
        "less_than_equal": "<= {le}",
    }
    if kind == "missing":
        return "is required"
    if kind == "extra_forbidden":
        return "is not a known key"
    if kind in bounds:
        return f"must be {bounds[kind].format(**context)} (got {_short(value)})"
    if kind == "literal_error":
        return f"must be {context['expected']} (got {_short(value)})"
    if kind in ("dict_type", "model_type"):
        return f"must be keys and values (got {_short(value)})"
    if kind == "string_pattern_mismatch":
        return f"must match {context['pattern']} (got {_short(value)})"
    if kind == "value_error":
        return str(context["error"])
    if kind in ("string_too_long", "string_too_short"):
        return f"must have {message.partition(' should have ')[2]} (got {_short(value)})"
    said = message.removeprefix("Input should be ").removeprefix("Input ").removeprefix("Value error, ")
    return f"must be {said} (got {_short(value)})"


def _short(value: object) -> str:
    text = _REPR.repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


_LONGEST = 60
_REPR = reprlib.Repr()
"""What comes from outside may be deep, and few bytes of YAML may name one thing a billion times."""
_REPR.maxlevel = 3
_REPR.maxlist = _REPR.maxdict = _REPR.maxtuple = _REPR.maxset = 20
_REPR.maxstring = _REPR.maxlong = _REPR.maxother = _LONGEST
