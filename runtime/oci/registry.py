"""A registry, by the pull side of the OCI distribution specification 1.1."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import closing
from typing import TYPE_CHECKING

from ..errors import PackageNotThere, TransferError
from .documents import INDEX_TYPE, MANIFEST_TYPE, MAX_DOCUMENT_BYTES
from .reference import RegistryReference

if TYPE_CHECKING:
    from .transport import Transport

_DEFAULT_TAG = "latest"
_MAX_TAGS_SAID = 8


class RegistryRemote:
    """What `reference` names in a registry."""

    def __init__(self, transport: Transport, reference: RegistryReference) -> None:
        self._transport = transport
        self._repository = f"/v2/{reference.repository}"
        self._tag = reference.tag or _DEFAULT_TAG
        self._digest = reference.digest
        self.name = f"{reference.host}/{reference.repository}"

    def document(self, digest: str | None) -> bytes:
        asked = digest or self._digest or self._tag
        accept = {"Accept": f"{INDEX_TYPE}, {MANIFEST_TYPE}"}
        response = self._transport.send("GET", f"{self._repository}/manifests/{asked}", accept)
        if response.status_code != 200:
            what = f"{self.name}{'@' if ':' in asked else ':'}{asked}"
            error = self._transport.error_of(response, what)
            if isinstance(error, PackageNotThere) and digest is None and (tags := self._tags()):
                raise PackageNotThere(f"{error}; there are {tags}")
            raise error
        return response.content[: MAX_DOCUMENT_BYTES + 1]

    def blob(self, sha256: str, offset: int) -> Generator[bytes]:
        url = f"{self._repository}/blobs/sha256:{sha256}"
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        response = self._transport.send("GET", url, headers, stream=True)
        with response:
            if response.status_code not in (200, 206):
                raise self._transport.error_of(response, f"blob {sha256[:12]}... of {self.name}")
            begins = _begins(response.headers.get("Content-Range", "")) if response.status_code == 206 else 0
            if begins is None or begins > offset:
                raise TransferError(f"{self.name} sends another part of a blob than was asked for")
            with closing(self._transport.streamed(response)) as chunks:
                yield from _after(chunks, offset - begins)

    def _tags(self) -> str:
        """Some that there are, for a message; nothing if that cannot be told."""
        response = self._transport.send("GET", f"{self._repository}/tags/list?n=1000")
        try:
            tags = [str(tag) for tag in response.json()["tags"]] if response.status_code == 200 else []
        except (ValueError, LookupError, TypeError, RecursionError):
            return ""
        printable = sorted(tag for tag in tags if tag.isprintable() and len(tag) <= 128)
        return ", ".join(printable[-_MAX_TAGS_SAID:])


def _begins(content_range: str) -> int | None:
    """Where the part begins that a response has (RFC 9110, 14.4); None if it does not say."""
    found = re.match(r"bytes ([0-9]{1,18})-", content_range)
    return int(found[1]) if found else None


def _after(chunks: Generator[bytes], skip: int) -> Generator[bytes]:
    """Without the first `skip` bytes, of a registry or a proxy that sends all whatever it is asked for."""
    for chunk in chunks:
        if len(chunk) > skip:
            yield chunk[skip:]
        skip = max(0, skip - len(chunk))
