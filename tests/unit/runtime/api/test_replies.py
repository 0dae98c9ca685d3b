"""What is logged of a refusal."""

from __future__ import annotations

import pytest

from runtime.api.replies import loggable
from runtime.errors import Fault, RequestError


@pytest.mark.parametrize(
    ("path", "logged"),
    [
        ("chat.messages[3].role", "chat.messages[3].role"),
        ('json_schema["properties"]["my secret"]', "json_schema[...]"),
        ('requests[2].chat.preset_values["my ]secret"]', "requests[2].chat.preset_values[...]"),
    ],
)
def test_the_log_says_where_and_keeps_the_clients_words(path: str, logged: str) -> None:
    """Places in a list are told, keys that a client chose are not."""
    assert loggable(RequestError([Fault(path, "is my secret")])) == logged
