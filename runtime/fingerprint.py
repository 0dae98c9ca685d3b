"""Prompts in the log: whether two are the same, and nothing else about them."""

from __future__ import annotations

import hashlib
import secrets
from array import array
from collections.abc import Sequence

_KEY = secrets.token_bytes(32)  # of this run: nobody can try prompts out on a log, or compare two runs
_BYTES = 8


def fingerprint(token_ids: Sequence[int]) -> str:
    """16 hex digits: BLAKE2b of the tokens, keyed with what this process has drawn and never tells."""
    return hashlib.blake2b(array("I", token_ids).tobytes(), digest_size=_BYTES, key=_KEY).hexdigest()
