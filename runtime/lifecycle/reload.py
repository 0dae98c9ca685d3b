"""What of the configuration can change while the daemon runs, and how it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..configuration.config import Config
from ..errors import EdgeQwenError

LIVE = frozenset(
    {"clients", "drain_timeout_s", "limits", "log_format", "log_level"}
    | {"low_power_battery_percent", "stall_timeout_s", "tokens"}
)
"""Settings that take effect when the configuration is read again."""

Hook = Callable[[Config], None]
"""Takes the new configuration and reads again what it names, such as certificates. May raise EdgeQwenError."""


@dataclass(frozen=True)
class Reloaded:
    """What came of it: settings that took effect, settings that differ but need a restart, and what went wrong."""

    changed: tuple[str, ...]
    need_restart: tuple[str, ...]
    errors: tuple[str, ...]


class Reloader:
    """Holds the configuration that is in effect.

    Args:
        read: reads it again as it was read at the start, with the same file, environment and flags.
        running: what the daemon was started with.
        hooks: called on every reload.
    """

    def __init__(self, read: Callable[[], Config], running: Config, *hooks: Hook) -> None:
        self._read = read
        self._hooks = list(hooks)
        self.config = running

    def add(self, hook: Hook) -> None:
        """Calls `hook` on every reload from now on."""
        self._hooks.append(hook)

    def reload(self) -> Reloaded:
        """Reads the configuration; one that cannot be used changes nothing."""
        try:
            read = self._read()
        except EdgeQwenError as error:
            return Reloaded((), (), (str(error),))
        old = self.config
        differs = [name for name in Config.model_fields if getattr(read, name) != getattr(old, name)]
        changed = [name for name in differs if name in LIVE]
        self.config = old.model_copy(update={name: getattr(read, name) for name in changed})
        errors = []
        for hook in self._hooks:
            try:
                hook(self.config)
            except EdgeQwenError as error:
                errors.append(str(error))
        return Reloaded(tuple(changed), tuple(name for name in differs if name not in LIVE), tuple(errors))
