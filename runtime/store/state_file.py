"""The state as bytes: JSON, whose every field is checked."""

from __future__ import annotations

import json
from typing import Final, Literal

from pydantic import ValidationError

from ..errors import StateNewer
from ..validation import StrictModel, faults_of
from .state import State

FORMAT: Final = 1


class _File(StrictModel):
    """The state is made of plain dataclasses; what they are in is as strict with them as with itself."""

    format: Literal[1] = FORMAT
    state: State


def encoded(state: State) -> bytes:
    """JSON, one field a line."""
    return _File(state=state).model_dump_json(indent=1).encode() + b"\n"


def decoded(content: bytes) -> State:
    """Raises ValueError, which says what is wrong, or StateNewer."""
    try:
        return _File.model_validate_json(content).state
    except ValidationError as error:
        if (found := _format_of(content)) > FORMAT:
            raise StateNewer(found, FORMAT) from error
        raise ValueError("; ".join(sorted(map(str, faults_of(error)))[:5])) from error


def _format_of(content: bytes) -> int:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return 0
    number = found.get("format") if isinstance(found, dict) else None
    return number if isinstance(number, int) else 0
