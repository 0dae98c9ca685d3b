"""A package from a reference into the store: refused before its bytes come, or there as a whole.

Its digests and its signature are looked at first, then every byte is compared with its digest as it comes. What
`build.json` says counts, as the signature covers it; what a registry says of name and version must agree with it.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import DowngradeRefused, NotTrusted, PackageError
from ..oci.contents import Contents, Offer
from ..oci.fetching import SPARE_BYTES, fetch
from ..oci.source import Source
from ..package import SUFFIX, Package
from ..store.collect import Collected, collect
from ..store.recovery import describe
from ..store.state import Cause, Installed, State, require_no_downgrade
from ..store.store import Store
from ..trust.trust import Trust

Note = Callable[[str], None]


@dataclass(frozen=True)
class Rules:
    """What may be installed.

    Args:
        trust: who may have signed it.
        allow_unsigned: take also what nobody signed whom the machine trusts.
        allow_downgrade: take also a version below the highest that was ever committed.
        repair: compare the files of a package that is there with their digests, and fetch the damaged ones again.
        budget_bytes: what packages may take before others go than this one and those in slots.
    """

    trust: Callable[[], Trust]
    budget_bytes: int
    allow_unsigned: bool = False
    allow_downgrade: bool = False
    repair: bool = False


@dataclass(frozen=True)
class Installation:
    """What came of it. `changed` is false if the package was there already; bytes are as `Fetched` has them."""

    package: Installed
    path: Path
    changed: bool
    fetched_bytes: int = 0
    linked_bytes: int = 0
    kept_bytes: int = 0
    collected: Collected | None = None


def install_from(
    store: Store,
    source: Source,
    offer: Offer,
    rules: Rules,
    cause: Cause,
    *,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    note: Note = lambda _: None,
) -> Installation:
    """Makes `offer` a package of the store. Goes on where it was stopped; twice is once.

    Raises PackageError, NotTrusted, DowngradeRefused, TransferError, StoreError, and StoreBusy while another
    installation goes on.
    """
    _require_this_machine(offer)
    contents = source.contents(offer)
    with store.installing():
        state = store.open()
        have = next((package for package in state.packages.values() if package.digest == contents.build_digest), None)
        if have is None:
            _refuse_downgrade(state, offer, rules, note)
        elif _is_done(store, have, rules):
            return Installation(have, store.path(have), changed=False)
        _make_room(store, state, contents, rules, cause)
        signer = _Signer(contents, rules, note)
        staged = store.incoming / _folder(contents)
        fetched = fetch(
            source,
            contents,
            staged,
            store.disk,
            check=signer.check,
            others=[store.path(package) for package in state.packages.values()],
            progress=progress,
        )
        fetched.package.require_this_machine()
        record = describe(fetched.package, staged.name, signer.name, cause.time_s)
        package = store.add(staged, record, cause).packages[record.folder]
        collected = collect(store, rules.budget_bytes, cause, keep=package.folder)
    return Installation(
        package,
        store.path(package),
        True,
        fetched.fetched_bytes,
        fetched.linked_bytes,
        fetched.kept_bytes,
        collected,
    )


class _Signer:
    """Who signed what is fetched, in words; empty if nobody did whom the machine trusts, and that is allowed."""

    def __init__(self, contents: Contents, rules: Rules, note: Note) -> None:
        self._offer, self._rules, self._note = contents.offer, rules, note
        self.name = ""

    def check(self, digests: Mapping[str, str], signature: bytes | None) -> None:
        try:
            self.name = str(self._rules.trust().verify_digests(self._offer.variant, signature, digests))
        except NotTrusted as error:
            if not self._rules.allow_unsigned:
                raise NotTrusted(f"{self._offer} is refused: {error}") from error
            self._note(f"{self._offer} is taken though nobody vouches for it: {error}")


def _require_this_machine(offer: Offer) -> None:
    """Before its bytes come; `build.json` is asked again."""
    have = platform.machine()
    if offer.arch != have:
        raise PackageError(f"{offer} is for {offer.arch}, but this machine is {have}: choose another --variant")


def _is_done(store: Store, have: Installed, rules: Rules) -> bool:
    """Whether nothing is left to be done about a package of the store."""
    if not (have.signer or rules.allow_unsigned):
        return False
    try:
        Package.open(store.path(have), have.variant, verify=rules.repair)
    except PackageError:
        return False
    return True


def _folder(contents: Contents) -> str:
    offer = contents.offer
    return f"{offer.name}-{offer.version}-{contents.build_digest[:12]}{SUFFIX}"


def _refuse_downgrade(state: State, offer: Offer, rules: Rules, note: Note) -> None:
    try:
        require_no_downgrade(state, offer.name, offer.version)
    except DowngradeRefused as error:
        if not rules.allow_downgrade:
            raise
        note(f"{offer.name} {offer.version} is taken though {error.highest} was committed here")


def _make_room(store: Store, state: State, contents: Contents, rules: Rules, cause: Cause) -> None:
    """Where the disk has no room for it, what is in no slot goes, whatever the budget allows."""
    here = {digest for package in state.packages.values() for digest in _digests(store.path(package))}
    needed = sum({layer.sha256: layer.size_bytes for layer in contents.layers if layer.sha256 not in here}.values())
    if needed + SPARE_BYTES > store.disk.free_bytes(store.folder):
        collect(store, 0, cause)


def _digests(folder: Path) -> list[str]:
    try:
        return [file.sha256 for file in Package.open(folder, verify=False).build.files.values()]
    except PackageError:
        return []
