"""Where a package can be had from: a registry, an image layout, a folder. They are asked in the same words."""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol


class Remote(Protocol):
    """One place. Every method raises TransferError, or PackageNotThere.

    What it answers may be anything: whoever asks for a digest compares, and stops at the size that was announced.
    """

    @property
    def name(self) -> str:
        """For people: `registry.example/edge/qwen`."""

    def document(self, digest: str | None) -> bytes:
        """The index or manifest of that digest (`sha256:HEX`), a little more than MAX_DOCUMENT_BYTES at most.

        None: what the reference names.
        """

    def blob(self, sha256: str, offset: int) -> Generator[bytes]:
        """The bytes of the blob with that digest, in hex, from `offset` on, some at a time.

        Raises RemoteUnavailable also in the middle: what came is good.
        """
