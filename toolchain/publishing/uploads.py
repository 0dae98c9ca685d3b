"""The push side of the OCI distribution specification 1.1: blobs and manifests into a repository."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from runtime.errors import RemoteUnavailable
from runtime.oci.patience import Patience
from runtime.oci.transport import Body, Response, Transport

_DONE = (201, 204)
_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,15})")


class Repository:
    """A repository of a registry, to write to. Every method raises TransferError.

    Args:
        name: as in `edge/qwen`.
        chunk_bytes: how much of a blob one request carries; None: all of it, as registries like it best.
    """

    def __init__(self, transport: Transport, name: str, patience: Patience, chunk_bytes: int | None = None) -> None:
        self._transport, self._patience, self._chunk_bytes = transport, patience, chunk_bytes
        self._name, self._root = f"{transport.host}/{name}", f"/v2/{name}"

    def has_blob(self, sha256: str, size_bytes: int) -> bool:
        """Whether the registry has it; one of another size it has not."""
        response = self._send("HEAD", f"{self._root}/blobs/sha256:{sha256}")
        said = response.headers.get("Content-Length")
        return self._is_there(response, f"blob {sha256[:12]}...") and said in (None, str(size_bytes))

    def has_manifest(self, reference: str, digest: str, media_type: str) -> bool:
        """Whether `reference`, a tag or a digest, is the manifest `digest`."""
        response = self._send("HEAD", f"{self._root}/manifests/{reference}", {"Accept": media_type})
        there = self._is_there(response, f"manifest {reference}")
        return there and response.headers.get("Docker-Content-Digest") == digest

    def put_manifest(self, reference: str, content: bytes, media_type: str) -> None:
        """What it names must be there before."""
        url = f"{self._root}/manifests/{reference}"
        response = self._send("PUT", url, {"Content-Type": media_type}, content)
        if response.status_code not in _DONE:
            raise self._transport.error_of(response, f"manifest {reference} of {self._name}")

    def put_blob(
        self, sha256: str, size_bytes: int, content: Path | bytes, sent: Callable[[int], None] = lambda _: None
    ) -> None:
        """Uploads a blob; after a cut it goes on from what the registry says that it has, or begins anew.

        Args:
            content: itself, or the file that has it.
            sent: is told how many bytes of it went out.
        """
        blob = _Blob(sha256, size_bytes, content, sent)
        upload = _Upload(self._transport, f"{self._root}/blobs/uploads/", blob, self._name)
        failures = reached = 0
        while not upload.done:
            try:
                upload.step(self._chunk_bytes or size_bytes)
            except RemoteUnavailable as error:
                failures = 1 if upload.offset > reached else failures + 1
                reached = max(reached, upload.offset)
                if failures > self._patience.retries:
                    raise
                self._patience.wait(failures, error.retry_after_s)

    def _send(
        self, method: str, url: str, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> Response:
        """Asks again while there is no answer."""
        failures = 0
        while True:
            try:
                response = self._transport.send(method, url, headers, body)
                if response.status_code == 429 or response.status_code >= 500:
                    raise self._transport.error_of(response, self._name)
            except RemoteUnavailable as error:
                failures += 1
                if failures > self._patience.retries:
                    raise
                self._patience.wait(failures, error.retry_after_s)
            else:
                return response

    def _is_there(self, response: Response, what: str) -> bool:
        if response.status_code in (200, 404):
            return response.status_code == 200
        raise self._transport.error_of(response, f"{what} of {self._name}")


@dataclass(frozen=True)
class _Blob:
    sha256: str
    size_bytes: int
    content: Path | bytes
    sent: Callable[[int], None]

    def opened(self) -> BinaryIO:
        return io.BytesIO(self.content) if isinstance(self.content, bytes) else self.content.open("rb")


class _Upload:
    """A blob on its way. `offset` is how much of it the registry is known to have."""

    def __init__(self, transport: Transport, start_url: str, blob: _Blob, repository: str) -> None:
        self._transport, self._start_url, self._blob = transport, start_url, blob
        self._what = f"blob {blob.sha256[:12]}... of {repository}"
        self._session: str | None = None
        self._in_doubt = False
        self.offset = 0
        self.done = False

    def step(self, chunk_bytes: int) -> None:
        """One request further. Raises RemoteUnavailable if that may help another time."""
        if self._session is None:
            self._begin()
        elif self._in_doubt:
            self._ask_how_far()
        else:
            self._send(min(self._blob.size_bytes, self.offset + chunk_bytes))

    def _begin(self) -> None:
        self.offset = 0
        response = self._transport.send("POST", self._start_url, body=b"")
        if response.status_code != 202 or "Location" not in response.headers:
            raise self._transport.error_of(response, self._what)
        self._session = response.headers["Location"]

    def _ask_how_far(self) -> None:
        """After a cut. A registry that does not know begins anew."""
        response = self._transport.send("GET", self._session or "")
        has = _has(response)
        if response.status_code == 204 and has is not None and has < self._blob.size_bytes:
            self._session, self.offset = response.headers.get("Location", self._session), has
        else:
            self._session = None
        self._in_doubt = False

    def _send(self, end: int) -> None:
        blob, url = self._blob, self._session or ""
        is_last = end == blob.size_bytes
        headers = {"Content-Type": "application/octet-stream"}
        if end - self.offset < blob.size_bytes:
            headers["Content-Range"] = f"{self.offset}-{end - 1}"
        body: Body = (lambda: _Part(blob.opened(), self.offset, end, blob.sent)) if end else b""
        self._in_doubt = True
        if is_last:
            response = self._transport.send("PUT", _with_digest(url, blob.sha256), headers, body)
        else:
            response = self._transport.send("PATCH", url, headers, body)
        if response.status_code in (404, 416):
            raise RemoteUnavailable(f"{self._what}: the registry has forgotten what it had of it")
        if response.status_code not in (201, 202, 204):
            raise self._transport.error_of(response, self._what)
        self._session = response.headers.get("Location", self._session)
        has = _has(response)  # a registry may take less than it was given
        before, self.offset = self.offset, end if is_last or has is None else min(has, end)
        if self.offset <= before and not is_last:
            raise RemoteUnavailable(f"{self._what}: the registry took nothing of what it was sent")
        self._in_doubt, self.done = False, is_last


class _Part(io.RawIOBase):
    """A file from `begin` to `end`, as the body of a request: as long as it says, read a little at a time."""

    def __init__(self, file: BinaryIO, begin: int, end: int, sent: Callable[[int], None]) -> None:
        self._file, self._begin, self._end, self._sent = file, begin, end, sent
        file.seek(begin)

    def __len__(self) -> int:
        return self._end - self._begin

    def tell(self) -> int:  # without it, requests takes this for a stream of no known length
        return self._file.tell() - self._begin

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:  # to the begin, for a redirect
        if whence != io.SEEK_SET:
            raise io.UnsupportedOperation
        return self._file.seek(self._begin + offset) - self._begin

    def read(self, size: int = -1) -> bytes:
        left = self._end - self._file.tell()
        content = self._file.read(left if size < 0 else min(size, left))
        self._sent(self._file.tell())
        return content

    def close(self) -> None:
        self._file.close()
        super().close()


def _has(response: Response) -> int | None:
    """How many bytes of an upload the registry has (distribution specification, 4.4); None if it does not say."""
    found = _RANGE.fullmatch(response.headers.get("Range", ""))
    return None if found is None else int(found[1]) + 1 if found[1] != "0" else 0


def _with_digest(url: str, sha256: str) -> str:
    """`url` may have a query of the registry's own, which is to stay."""
    return f"{url}{'&' if '?' in url else '?'}digest=sha256:{sha256}"
