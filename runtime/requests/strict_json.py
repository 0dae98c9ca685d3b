"""JSON from outside: what Python's reader takes and the standard does not, or what could hurt, is refused."""

from __future__ import annotations

import json
import math
from typing import NoReturn

from ..errors import Fault, RequestError

MAX_DEPTH = 64
MAX_DIGITS = 20  # what 64 bits can have


def read_json(text: str | bytes, path: str = "") -> object:
    """The value that `text` is. Raises RequestError with `path` for what is no JSON, for a number beyond 64 bits, for a
    key that an object has twice, for halves of characters, and for more than MAX_DEPTH values within each other."""
    try:
        value = json.loads(
            text if isinstance(text, str) else text.decode(),
            parse_constant=_constant,
            parse_int=_int,
            parse_float=_float,
            object_pairs_hook=_object,
        )
        _look_through(value, MAX_DEPTH)
    except UnicodeError as error:
        raise RequestError([Fault(path, "must be UTF-8, without halves of characters")]) from error
    except RecursionError as error:
        raise RequestError([Fault(path, _DEEP)]) from error
    except json.JSONDecodeError as error:
        raise RequestError(
            [Fault(path, f"is no JSON: {error.msg} (line {error.lineno}, column {error.colno})")]
        ) from error
    except ValueError as error:
        raise RequestError([Fault(path, f"is JSON that is not taken: {error}")]) from error
    return value


_DEEP = f"must have at most {MAX_DEPTH} values within each other"


def _look_through(value: object, depth: int) -> None:
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, dict | list):
        if not depth:
            raise RecursionError
        for key in value if isinstance(value, dict) else ():
            key.encode()
        for each in value.values() if isinstance(value, dict) else value:
            _look_through(each, depth - 1)


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("an object has a key twice")
    return made
