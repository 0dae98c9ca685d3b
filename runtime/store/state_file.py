"""The state as bytes: JSON, whose every field is checked."""

from __future__ import annotations

from typing import Literal

from pydantic import ValidationError

from ..validation import StrictModel, faults_of
from .state import State


class _File(StrictModel):
    """The state is made of plain dataclasses; what they are in is as strict with them as with itself."""

    format: Literal[1] = 1
    state: State


def encoded(state: State) -> bytes:
    """JSON, one field a line."""
    return _File(state=state).model_dump_json(indent=1).encode() + b"\n"


def decoded(content: bytes) -> State:
    """Raises ValueError, which says what is wrong."""
    try:
        return _File.model_validate_json(content).state
    except ValidationError as error:
        raise ValueError("; ".join(sorted(map(str, faults_of(error)))[:5])) from error
