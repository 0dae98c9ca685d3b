"""JSON from outside: what is taken, and what is refused with its place."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import RequestError
from runtime.requests.strict_json import MAX_DEPTH, read_json


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "body: is no JSON"),
        ("{", "line 1, column 2"),
        ('{"a": NaN}', "NaN is no number"),
        ("[-Infinity]", "-Infinity is no number"),
        ("[1e999]", "too large"),
        (f"[{'9' * 5000}]", "a number has 5000 digits"),
        ('{"a": 1, "a": 2}', "a key twice"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), f"at most {MAX_DEPTH} values within each other"),
        ("[" * 100_000, f"at most {MAX_DEPTH} values within each other"),
        (r'["\ud800"]', "halves of characters"),
        (r'{"\udc00": 1}', "halves of characters"),
        (b'["\xff"]', "must be UTF-8"),
    ],
)
def test_what_is_refused(text: str | bytes, says: str) -> None:
    with pytest.raises(RequestError, match=says) as error:
        read_json(text, "body")
    assert error.value.faults[0].path == "body"


def test_what_is_taken() -> None:
    """As deep as it may be, and whatever characters are whole."""
    assert read_json(b'{"a": [1, -2.5, true, null, "\xc3\xa9\\ud83d\\ude00"]}') == {"a": [1, -2.5, True, None, "é😀"]}
    read_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)


@given(st.one_of(st.binary(), st.text(alphabet='{}[]":,\\u0dn1e-N')))
def test_whatever_comes_is_read_or_refused(text: bytes | str) -> None:
    with suppress(RequestError):
        read_json(text)
