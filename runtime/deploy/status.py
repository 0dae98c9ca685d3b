"""How the service is, in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

PROPERTIES = (
    "LoadState",
    "UnitFileState",
    "ActiveState",
    "SubState",
    "Result",
    "ExecMainPID",
    "ExecMainCode",
    "ExecMainStatus",
    "NRestarts",
    "StatusText",
    "MemoryCurrent",
    "MemoryHigh",
    "MemoryMax",
    "ActiveEnterTimestamp",
)
_KILLED = ("2", "3")  # si_code of SIGCHLD: killed, dumped

_MEANS = {
    1: "an error",
    2: "usage",
    3: "the configuration cannot be used",
    4: "the package cannot be used",
    5: "the model cannot run here",
    6: "the address is in use",
}
_UNCHANGED_BY_A_START = (2, 3, 4)


@dataclass(frozen=True)
class Status:
    """What systemd says of the service.

    Args:
        state: active, failed, activating, ...; `not installed` where there is no unit.
        restarts: by systemd, since it was last started by hand.
        last_exit: of the main process, in words; empty while the first one runs.
        advice: what to do; empty if nothing is to be done.
        memory_bytes: None where it is not counted; likewise the limits.
    """

    state: str
    enabled: bool
    says: str
    since: str
    restarts: int
    last_exit: str
    advice: str
    memory_bytes: int | None
    memory_high_bytes: int | None
    memory_max_bytes: int | None

    def as_json(self) -> dict[str, object]:
        return asdict(self)

    @property
    def is_well(self) -> bool:
        return self.state == "active"


def read_status(shown: Mapping[str, str]) -> Status:
    """From what `systemctl show` prints of `PROPERTIES`."""
    installed = shown.get("LoadState") == "loaded"
    state = shown.get("ActiveState", "unknown") if installed else "not installed"
    if shown.get("SubState") == "auto-restart":
        state = "waiting for a restart"
    restarts = _number(shown.get("NRestarts")) or 0
    return Status(
        state=state,
        enabled=shown.get("UnitFileState") == "enabled",
        says=shown.get("StatusText", ""),
        since=shown.get("ActiveEnterTimestamp", ""),
        restarts=restarts,
        last_exit=_last_exit(shown),
        advice=_advice(state, restarts, shown),
        memory_bytes=_number(shown.get("MemoryCurrent")),
        memory_high_bytes=_number(shown.get("MemoryHigh")),
        memory_max_bytes=_number(shown.get("MemoryMax")),
    )


def _last_exit(shown: Mapping[str, str]) -> str:
    result, code, status = (shown.get(key, "") for key in ("Result", "ExecMainCode", "ExecMainStatus"))
    if result == "watchdog":
        return "the watchdog ended it: the engine made no step"
    if result == "oom-kill":
        return "the kernel ended it: memory was short"
    if result == "timeout":
        return "it took too long"
    if code in _KILLED:
        return f"signal {status} ended it"
    if code == "1":
        number = _number(status) or 0
        return f"exit status {number}" + (f": {_MEANS[number]}" if number in _MEANS else "")
    return ""


def _advice(state: str, restarts: int, shown: Mapping[str, str]) -> str:
    if state == "not installed":
        return "edgeqwen service install"
    if state == "failed" and _number(shown.get("ExecMainStatus")) in _UNCHANGED_BY_A_START:
        return "edgeqwend --config /etc/edgeqwen/edgeqwend.yaml --check-config; then systemctl restart edgeqwend"
    if state in ("failed", "waiting for a restart") or restarts:
        return "edgeqwen service logs"
    return ""


def _number(text: str | None) -> int | None:
    """None too for `infinity` and `[not set]`, and for the largest number, which older systemds say instead."""
    return int(text) if text and text.isdecimal() and int(text) < (1 << 64) - 1 else None
