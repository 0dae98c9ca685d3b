"""The packages that the daemon may load: those in one folder, and those that the configuration names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..errors import ModelNotFound

SUFFIX = ".ortpackage"


class Repository:
    """Packages by the names of their folders, without the suffix.

    Args:
        folder: where they are; None: nowhere.
        more: packages elsewhere.
    """

    def __init__(self, folder: Path | None, more: Iterable[Path] = ()) -> None:
        self._folder = folder
        self._more = {package_name(path): path for path in more}

    def names(self) -> list[str]:
        """Sorted. What is no whole package by its manifest is left out."""
        return sorted(self._packages())

    def find(self, name: str) -> Path:
        """Where the package `name` is, with or without its suffix. Raises ModelNotFound; no path leads out of here."""
        packages = self._packages()
        path = packages.get(name.removesuffix(SUFFIX))
        if path is None:
            have = ", ".join(sorted(packages)[:16]) or "none"
            raise ModelNotFound(f"there is no package of that name; there are: {have}")
        return path

    def _packages(self) -> dict[str, Path]:
        inside = self._folder.glob(f"*{SUFFIX}") if self._folder else ()
        return {package_name(path): path for path in inside if (path / "manifest.json").is_file()} | self._more


def package_name(path: Path) -> str:
    """What the package at `path` is called here."""
    return path.name.removesuffix(SUFFIX)
