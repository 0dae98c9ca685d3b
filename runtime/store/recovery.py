"""What a device falls back to that nobody visits, when its state cannot be read: something that is whole."""

from __future__ import annotations

from pathlib import Path

from ..errors import PackageError
from ..package import SUFFIX, Package
from .state import Cause, Installed, State, rebuilt, without


def recovered(earlier: State | None, packages: Path, cause: Cause) -> State:
    """From the state before the last change, where that can be read, and what is left of the packages that it names.

    Else, or where that leaves nothing that could serve, from the packages that are in the folder `packages`. Files are
    looked for and measured; whoever loads them compares their digests. Who signed them is not known any more.
    """
    if earlier is not None:
        missing = [folder for folder in earlier.packages if _opened(packages / folder) is None]
        state = without(earlier, missing, cause)
        if state.active is not None or earlier.active is None:
            return state
    whole = [(folder, its) for folder in packages.glob(f"*{SUFFIX}") if (its := _opened(folder)) is not None]
    found = [describe(its, folder.name, "", folder.stat().st_mtime) for folder, its in whole]
    return rebuilt(sorted(found, key=lambda its: (its.installed_s, its.folder), reverse=True), cause)


def describe(package: Package, folder: str, signer: str, installed_s: float) -> Installed:
    """The store's record of a package, which is in it as `folder`."""
    build = package.build
    return Installed(folder, build.name, build.version, build.variant, package.build_digest, signer, installed_s)


def _opened(folder: Path) -> Package | None:
    try:
        return Package.open(folder, verify=False)
    except PackageError:
        return None
