"""Whether the daemon can start with a configuration, found without loading the model: every fault there is, at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from .address import Address
from .config import Config
from .cpu import read_cpu
from .errors import AddressInUse, ConfigError, EdgeQwenError, Fault, InvalidInput, LocalSettingsError
from .footprint import Footprint, footprint_of, megabytes
from .localsettings import LocalSettings, LocalSettingsFile
from .machine import read_machine
from .package import Package
from .presets import read_presets
from .settings import RunSettings, decide

Extra = Callable[[Config], None]
"""Raises EdgeQwenError for what it finds wrong, such as a certificate that cannot be read."""


@dataclass(frozen=True)
class Checked:
    """What was found.

    Args:
        faults: what keeps the daemon from starting; the first decides its exit status.
        warnings: what does not, and is worth knowing.
        runs: what it would run with, by name; what faults hide is not in it.
    """

    faults: tuple[EdgeQwenError, ...]
    warnings: tuple[str, ...]
    runs: dict[str, str | int]

    @property
    def exit_code(self) -> int:
        return self.faults[0].exit_code if self.faults else 0

    @property
    def lines(self) -> list[str]:
        """Each fault in a line."""
        return [line for error in self.faults for line in _lines(error)]

    def as_json(self) -> dict[str, object]:
        return {
            "ok": not self.faults,
            "exit_code": self.exit_code,
            "faults": self.lines,
            "warnings": list(self.warnings),
            "runs": self.runs,
        }


def _lines(error: EdgeQwenError) -> list[str]:
    if not isinstance(error, InvalidInput):
        return [str(error)]
    return [f"{error.subject}: {fault}" if error.subject else str(fault) for fault in error.faults]


def check(config: Config, *, extras: tuple[Extra, ...] = (), root: Path = Path("/")) -> Checked:
    """Looks at everything that `config` names. Digests are not compared: the daemon does that when it starts.

    Args:
        extras: further checks.
        root: where /proc is, for the memory of this machine.
    """
    found = _Findings()
    found.runs["listen"] = config.listen
    with found.noted():
        _check_address(config, found)
    for extra in extras:
        with found.noted():
            extra(config)
    with found.noted():
        package = Package.open(config.package, config.variant, verify=False)
        build = package.build
        found.runs |= {
            "package": str(package.root),
            "model": build.name,
            "variant": build.variant,
            "precision": build.precision,
            "provider": build.runs_on,
            "build_digest": package.build_digest,
        }
        with found.noted():
            package.require_this_machine(simulate=config.simulate)
        with found.noted():
            read_presets(package.root)
        with found.noted():
            found.runs["adapters"] = adapters = _count_adapters(package, config)
            settings = _settings(package, config, found, adapters=bool(adapters))
            found.runs |= {
                "prefill_threads": settings.prefill_threads,
                "decode_threads": settings.decode_threads,
                "threads_from": settings.threads_from,
                "slots": settings.slots,
                "slots_from": settings.slots_from,
                "context_tokens": settings.context_tokens,
            }
            _check_memory(memory_of(package, settings), root, found)
    return Checked(tuple(found.faults), tuple(found.warnings), found.runs)


def memory_of(package: Package, settings: RunSettings) -> Footprint:
    """What the daemon takes at most: with all rows in use, and those that keep what earlier requests left."""
    build = package.build
    footprint = footprint_of(
        build.profile, build.memory.weights_bytes, build.memory.kv_bytes_per_token, build.model.context_tokens
    )
    weights_bytes = footprint.weights_bytes
    if settings.graph.parent != package.variant_dir:  # packed for this processor, and larger
        weights_bytes = sum(path.stat().st_size for path in settings.graph.parent.iterdir())
    return replace(
        footprint,
        weights_bytes=weights_bytes,
        context_tokens=settings.context_tokens,
        rows=settings.session_slots,
        kv_limit_bytes=settings.kv_budget_bytes,
    )


class _Findings:
    def __init__(self) -> None:
        self.faults: list[EdgeQwenError] = []
        self.warnings: list[str] = []
        self.runs: dict[str, str | int] = {}

    @contextmanager
    def noted(self) -> Iterator[None]:
        """An error within ends what is within, and is a fault."""
        try:
            yield
        except EdgeQwenError as error:
            self.faults.append(error)


def _check_address(config: Config, found: _Findings) -> None:
    """A daemon that answers there is no fault: it may be the one whose configuration is checked."""
    try:
        Address(config.listen).require_free()
    except AddressInUse:
        found.warnings.append(f"a process listens at {config.listen} now: a second daemon could not start there")


def _count_adapters(package: Package, config: Config) -> int:
    """Of the package and of the folder; onnxruntime, which reads them, is loaded only if there are any."""
    names = set(package.build.adapters)
    if not names and config.adapters_dir is None:
        return 0
    from .adapters import find_adapters

    return len(find_adapters(package, config.adapters_dir))


def _settings(package: Package, config: Config, found: _Findings, *, adapters: bool) -> RunSettings:
    file = LocalSettingsFile(config.state_dir, package.build_digest, read_cpu())
    local: LocalSettings | None = None
    try:
        local = file.read(verify=False)
    except LocalSettingsError as error:
        found.warnings.append(f"local settings ignored: {error}")
    return decide(config, package, file, local, len(os.sched_getaffinity(0)), adapters=adapters)


def _check_memory(footprint: Footprint, root: Path, found: _Findings) -> None:
    found.runs |= {"memory_bytes": footprint.total_bytes, "memory": str(footprint)}
    have_bytes = read_machine(root).memory_mb << 20
    if have_bytes and footprint.total_bytes > have_bytes:
        message = (
            f"it takes {footprint}, and this machine has {megabytes(have_bytes)}: lower slots or context_tokens, or"
            " choose a smaller package"
        )
        raise ConfigError([Fault("memory", message)])
