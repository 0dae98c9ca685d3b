"""What belongs where on a board that runs the daemon under systemd."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

UNIT = "edgeqwend.service"
UNIT_PATH = f"/etc/systemd/system/{UNIT}"
DROP_INS = f"{UNIT_PATH}.d"
SYSUSERS_PATH = "/etc/sysusers.d/edgeqwen.conf"
TMPFILES_PATH = "/etc/tmpfiles.d/edgeqwen.conf"
CONFIG_PATH = "/etc/edgeqwen/edgeqwend.yaml"
CONFIG_FOLDER, STATE_FOLDER = "/etc/edgeqwen", "/var/lib/edgeqwen"
STORE_FOLDER = f"{STATE_FOLDER}/store"
BIN_FOLDER = "/usr/local/bin"
PROGRAMS = ("edgeqwend", "edgeqwen")

NO_PACKAGE = """\
# Settings of edgeqwend: `edgeqwend --help` lists them. After a change: edgeqwen service install, which adapts the
# service's limits to it, and systemctl restart edgeqwend.
# package: /var/lib/edgeqwen/NAME.ortpackage   # or store: /var/lib/edgeqwen/store
"""

_SHARE = """\
# Packages of a store come and go, and two are in memory while one takes the other's place.
[Service]
MemoryHigh=75%
MemoryMax=85%
"""


@dataclass(frozen=True)
class Entry:
    """One path of the plan.

    Args:
        path: absolute, as the target calls it.
        content: of a file; None for a link, or for nothing.
        link: where a link points to. Neither content nor link: nothing may be there.
        mode: of a file.
        keep: whether what is there stays as it is.
    """

    path: str
    content: str | None = None
    link: str | None = None
    mode: int = 0o644
    keep: bool = False


@dataclass(frozen=True)
class DropIns:
    """What of the drop-ins this machine and package need.

    Args:
        providers: of `cuda`, `qnn`, `openvino-gpu`, ...; none: no device.
        groups: that may use the providers' devices.
        network: `loopback` or `private`; None: unix sockets only.
        memory_bytes: what the daemon takes; None: not known, so no limit.
        shared_memory: whether it takes what its packages need, which change by themselves: then it may have a share of
            the machine's.
        writes: a folder outside of `STATE_FOLDER` that it writes to; None: none.
        backoff: whether systemd knows how to wait longer each time.
    """

    providers: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    network: str | None = None
    memory_bytes: int | None = None
    shared_memory: bool = False
    writes: str | None = None
    backoff: bool = False


def units_folder() -> Path:
    """Where the units are: in the installed package, or in a checkout."""
    installed = Path(str(resources.files("runtime"))) / "systemd"
    return installed if installed.is_dir() else installed.parent.parent / "systemd"


def plan(drop_ins: DropIns, bin_folder: str, config: str) -> list[Entry]:
    """Everything that is placed, in this order; `config` is written only where there is none.

    Args:
        bin_folder: where the target has edgeqwend and edgeqwen.
    """
    return [
        Entry(SYSUSERS_PATH, _text("sysusers.d/edgeqwen.conf")),
        Entry(TMPFILES_PATH, _text("tmpfiles.d/edgeqwen.conf")),
        Entry(CONFIG_PATH, config, mode=0o640, keep=True),
        *(_link(name, bin_folder) for name in PROGRAMS if bin_folder != BIN_FOLDER),
        Entry(UNIT_PATH, _text(UNIT)),
        *_drop_ins(drop_ins),
    ]


def placed_paths() -> list[str]:
    """What `plan` ever places, but for the configuration: what is removed with the service."""
    entries = plan(DropIns(), "", "")
    return [entry.path for entry in entries if not entry.keep]


def _link(name: str, bin_folder: str) -> Entry:
    return Entry(f"{BIN_FOLDER}/{name}", link=f"{bin_folder}/{name}")


def _drop_ins(wanted: DropIns) -> Iterable[Entry]:
    """Numbers leave room before and behind; `systemctl edit` writes override.conf, which counts last."""
    provider = "\n".join(_text(f"drop-ins/provider-{name}.conf") for name in wanted.providers) or None
    if provider and wanted.groups:
        provider += f"SupplementaryGroups={' '.join(wanted.groups)}\n"
    network = _text(f"drop-ins/network-{wanted.network}.conf") if wanted.network else None
    memory = _memory(wanted.memory_bytes) if wanted.memory_bytes else _SHARE if wanted.shared_memory else None
    store = f"[Service]\nReadWritePaths={_quoted(f'-{wanted.writes}')}\n" if wanted.writes else None
    backoff = _text("drop-ins/backoff.conf") if wanted.backoff else None
    return [
        Entry(f"{DROP_INS}/10-provider.conf", provider),
        Entry(f"{DROP_INS}/20-memory.conf", memory),
        Entry(f"{DROP_INS}/30-network.conf", network),
        Entry(f"{DROP_INS}/40-backoff.conf", backoff),
        Entry(f"{DROP_INS}/50-store.conf", store),
    ]


def _quoted(text: str) -> str:
    """As systemd.syntax(7) has it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'


def _memory(expected_bytes: int) -> str:
    """MemoryHigh a quarter above what is expected, MemoryMax a half: docs/adr/0021-systemd.md has why."""
    high, most = (-(-expected_bytes * times // 4 >> 20) for times in (5, 6))
    return (
        f"# Package and settings take {expected_bytes >> 20} MiB; `edgeqwen service install` writes this again.\n"
        f"[Service]\nMemoryHigh={high}M\nMemoryMax={most}M\n"
    )


def _text(name: str) -> str:
    return (units_folder() / name).read_text(encoding="utf-8")
