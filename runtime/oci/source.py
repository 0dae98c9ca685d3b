"""A package at the places where it can be had: mirrors, then the registry that a reference names; or one folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

from ..errors import EdgeQwenError, PackageCorrupt, PackageError, PackageNotThere, RemoteUnavailable, TransferError
from .contents import Contents, Offer, contents_of, offers_of
from .documents import parse_index, parse_manifest
from .patience import Patience
from .remote import Remote

_Answer = TypeVar("_Answer")


class Source:
    """Asks one remote after the other, and all of them again where that may help.

    Args:
        remotes: the first is asked first.
        digest: of what the reference names, where it says so.
        note: is told, in one line, of whatever did not go as it should and did not end it.
    """

    def __init__(
        self,
        remotes: Sequence[Remote],
        digest: str | None = None,
        patience: Patience | None = None,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.remotes = tuple(remotes)
        self.digest = digest
        self.patience = patience or Patience()
        self.note = note

    @property
    def name(self) -> str:
        """Of the place that the reference names."""
        return self.remotes[-1].name

    def offers(self) -> list[Offer]:
        """The variants of the package. Raises PackageError and TransferError."""
        return self._of_any(lambda remote: self._offers(remote))

    def contents(self, offer: Offer) -> Contents:
        """The files of a variant. Raises PackageError and TransferError."""
        return self._of_any(lambda remote: self._contents(remote, offer))

    def _offers(self, remote: Remote) -> list[Offer]:
        content = remote.document(None)
        if self.digest is not None:
            _require_digest(content, self.digest, remote)
        return offers_of(parse_index(content, remote.name), content, remote.name)

    def _contents(self, remote: Remote, offer: Offer) -> Contents:
        content = remote.document(offer.digest)
        _require_digest(content, offer.digest, remote)
        return contents_of(offer, parse_manifest(content, remote.name), remote.name)

    def _of_any(self, ask: Callable[[Remote], _Answer]) -> _Answer:
        """The first good answer. What is last said of a failure is of the place that the reference names."""
        for round_ in range(1, self.patience.retries + 2):
            errors: list[EdgeQwenError] = []
            for remote in self.remotes:
                try:
                    return ask(remote)
                except (TransferError, PackageError) as error:
                    errors.append(error)
                    if remote is not self.remotes[-1]:
                        self.note(f"{error}; asking the next")
            passing = [error.retry_after_s or 0.0 for error in errors if isinstance(error, RemoteUnavailable)]
            if not passing or isinstance(errors[-1], PackageNotThere) or round_ > self.patience.retries:
                raise errors[-1]
            self.patience.wait(round_, max(passing))
        raise AssertionError


def _require_digest(content: bytes, digest: str, remote: Remote) -> None:
    got = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if got != digest:
        raise PackageCorrupt(f"{remote.name} has something else in the place of {digest[:19]}...: it has {got[:19]}...")
