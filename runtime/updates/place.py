"""Which store a command works on, by its flag, the environment or the daemon's configuration."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..configuration.config import configured_store
from ..configuration.store_settings import StoreSettings

CONFIG_FILE = Path("/etc/edgeqwen/edgeqwend.yaml")
STORE_FOLDER = Path("/var/lib/edgeqwen/store")
_SHARE = 4
"""A store may take one of so many parts of its disk where nobody said how much."""


def store_settings(folder: Path | None, environ: Mapping[str, str]) -> StoreSettings:
    """Those of `folder` if it is given. Raises ConfigError for a configuration that cannot be used."""
    if folder is not None:
        return StoreSettings(path=folder)
    named = environ.get("EDGEQWEN_CONFIG")
    file = Path(named) if named else CONFIG_FILE if CONFIG_FILE.is_file() else None
    return configured_store(file, environ) or StoreSettings(path=STORE_FOLDER)


def budget_of(settings: StoreSettings, said: int | None) -> int:
    """In bytes: what was `said`, else what is set, else a share of the disk."""
    if said is not None:
        return said
    if settings.budget_bytes is not None:
        return settings.budget_bytes
    found = os.statvfs(next(path for path in (settings.path, *settings.path.absolute().parents) if path.exists()))
    return found.f_blocks * found.f_frsize // _SHARE
