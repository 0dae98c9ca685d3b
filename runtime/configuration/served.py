"""Which package the daemon serves first, by its configuration or by its store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import PackageError
from ..store.store import Store
from .config import Config


def served_package(config: Config, place: Callable[[Path], Path] = lambda path: path) -> Path:
    """Where it is. Raises PackageError for a store without an active package, StoreError for one that is unreadable.

    Args:
        place: where a path of the configuration is here; another root's is in an image.
    """
    if config.package is not None:
        return place(config.package)
    assert config.store is not None
    active = Store(place(config.store.path)).active()
    if active is None:
        raise PackageError(f"no package is active in {config.store.path}: edgeqwen install REF --activate")
    return active


def watched_folders(config: Config) -> tuple[Path, ...]:
    """On whose filesystems the daemon needs room."""
    where = config.package if config.store is None else config.store.path
    return (config.state_dir, where) if where is not None else (config.state_dir,)
