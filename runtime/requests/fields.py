"""Settings that came as text or JSON, put into protobuf messages."""

from __future__ import annotations

from google.protobuf.message import Message

from ..errors import Fault


def set_field(message: Message, name: str, value: object, path: str) -> list[Fault]:
    """Sets a scalar field; the fault, if the field cannot hold `value`."""
    try:
        setattr(message, name, value)
    except ValueError:
        return [Fault(path, f"is out of range (got {value})")]
    return []
