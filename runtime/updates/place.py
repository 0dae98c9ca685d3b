"""Which store a command works on, by its flag, the environment or the daemon's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..configuration.config import configured_store
from ..configuration.store_settings import StoreSettings

CONFIG_FILE = Path("/etc/edgeqwen/edgeqwend.yaml")
STORE_FOLDER = Path("/var/lib/edgeqwen/store")


def store_settings(folder: Path | None, environ: Mapping[str, str]) -> StoreSettings:
    """Those of `folder` if it is given. Raises ConfigError for a configuration that cannot be used."""
    if folder is not None:
        return StoreSettings(path=folder)
    named = environ.get("EDGEQWEN_CONFIG")
    file = Path(named) if named else CONFIG_FILE if CONFIG_FILE.is_file() else None
    return configured_store(file, environ) or StoreSettings(path=STORE_FOLDER)
