"""Whether somebody whom this machine trusts has signed a package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import NotTrusted, printable
from ..package import Package, read_at_most
from .bundle import MAX_BYTES, Bundle, Kind, Unfit, read_bundle, require_plain, require_same_files
from .folder import TRUST_FOLDER

if TYPE_CHECKING:
    from .roots import Root, Signer

_SHOWN = 4


@dataclass(frozen=True)
class Trust:
    """Everybody who may sign packages for this machine.

    Args:
        folder: where the files are that say so.
    """

    folder: Path
    roots: tuple[Root, ...]

    @classmethod
    def read(cls, folder: Path = TRUST_FOLDER) -> Trust:
        """Trusts nobody where there is no folder.

        Raises ConfigError for files that cannot be used, NotTrusted where the library that verifies is not installed.
        """
        if find_spec("model_signing") is None:
            raise NotTrusted("signatures cannot be verified without model-signing: pip install 'edgeqwen[trust]'")
        from .roots import read_roots

        return cls(folder, read_roots(folder))

    def verify(self, package: Package, progress: Callable[[int], None] = lambda _: None) -> Signer:
        """Who signed the package, all of whose files are read; `progress` is told of every few bytes.

        Raises PackageCorrupt if they are not what build.json says, and NotTrusted.
        """
        return self.verify_digests(package.variant_dir.name, package.signature_file, package.digests(progress))

    def verify_digests(self, variant: str, signature: bytes | Path | None, digests: Mapping[str, str]) -> Signer:
        """Who signed the variant of these files, which somebody else reads.

        Nothing but those digests is vouched for. A name or version that was heard elsewhere is worth nothing before it
        is compared with build.json.

        Args:
            signature: its content, or where it is; None if there is none.
            digests: SHA-256 in hex, by path, of all that `package.variant_files` has, and of no signature.

        Raises:
            NotTrusted: it is not signed, not for exactly these files, or by nobody whom a trust root vouches for.
        """
        if signature is None or (isinstance(signature, Path) and not signature.is_file()):
            raise NotTrusted(f"variant {variant} is not signed: `edgeqwen-compile sign` does that")
        try:
            require_plain(digests)
            bundle = read_bundle(signature if isinstance(signature, bytes) else _content(signature))
            require_same_files(bundle, digests)
        except Unfit as error:
            raise NotTrusted(f"the signature of variant {variant} {error}") from error
        reasons = []
        for root in self.roots:
            if root.kind != bundle.kind:
                continue
            try:
                return root.verify(bundle, digests)
            except Exception as error:  # whatever somebody's bytes make a library raise, they are not verified
                reasons.append(f"{root.file}: {_reason(error)}")
        raise NotTrusted(f"variant {variant} is signed {self._but(bundle, reasons)}")

    def _but(self, bundle: Bundle, reasons: list[str]) -> str:
        by = f"by the key {bundle.signer[:12]}..." if bundle.kind == "key" else f"with {_MEANS[bundle.kind]}"
        if not self.roots:
            return f"{by}, but nobody is trusted: {self.folder} has no *.pem, *.crt or *.yaml"
        if not reasons:
            return f"{by}, but {self.folder} has no *{_FILES[bundle.kind]} that could vouch for that"
        more = f"; and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
        return f"{by}, but nothing in {self.folder} vouches for that: {'; '.join(reasons[:_SHOWN])}{more}"


_MEANS: dict[Kind, str] = {"certificate": "a certificate", "sigstore": "a certificate of Sigstore"}
_FILES: dict[Kind, str] = {"key": ".pem", "certificate": ".crt", "sigstore": ".yaml"}


def _content(path: Path) -> bytes:
    """At most one byte more than a signature may have. Raises Unfit."""
    try:
        return read_at_most(path, MAX_BYTES + 1)
    except OSError as error:
        raise Unfit(f"cannot be read: {error.strerror}") from error


def _reason(error: Exception) -> str:
    if type(error).__name__ == "TUFError":  # of sigstore, which has no reason to be imported for this
        return "cannot ask who Sigstore is now: give the board a network, or the file a `trust_config`"
    return printable(error) or f"did not sign it ({type(error).__name__})"
