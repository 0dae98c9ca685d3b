"""Bearer tokens (RFC 6750). The configuration holds their digests only, so that who reads it cannot call.

A token has 256 random bits, so nobody finds it by trying, with however fast a hash: a slow one, as for passwords, would
only cost every call. For the same reason there is no salt.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Mapping
from hashlib import sha256

PREFIX = "eqt_"
"""Tools that look for secrets in files and logs can know a token by it."""
DIGEST_PREFIX = "sha256:"
NAME = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}"
"""What a token's name in the configuration may be."""

_RANDOM_BYTES = 32
_SENT = re.compile(r"bearer +([A-Za-z0-9._~+/=-]{1,512})", re.IGNORECASE)  # only the scheme's name, not the token's
_DIGEST = re.compile(rf"{DIGEST_PREFIX}[0-9a-f]{{64}}")


def make_token() -> str:
    """A new token."""
    return PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def digest_of(token: str) -> str:
    """What the configuration holds of it: `sha256:` and 64 hexadecimal digits."""
    return DIGEST_PREFIX + sha256(token.encode()).hexdigest()


def is_digest(text: str) -> bool:
    """Whether `text` is what `digest_of` gives."""
    return _DIGEST.fullmatch(text) is not None


def token_in(header: str) -> str | None:
    """The token of an `authorization` header; None if it has none."""
    match = _SENT.fullmatch(header.strip(" "))
    return match[1] if match else None


class Tokens:
    """The tokens that count: their digests, by name."""

    def __init__(self, digests: Mapping[str, str]) -> None:
        self._digests = [(name, digest.encode()) for name, digest in digests.items()]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def name_of(self, token: str) -> str | None:
        """Whose token it is. Takes as long whichever it is, and for one that is none."""
        sent, found = digest_of(token).encode(), None
        for name, digest in self._digests:
            if hmac.compare_digest(sent, digest):
                found = name
        return found
