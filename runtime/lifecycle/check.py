"""Whether the daemon can start with a configuration, found without loading the model: every fault there is, at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ..access.address import Address
from ..board.cpu import read_cpu
from ..board.localsettings import LocalSettings, LocalSettingsFile
from ..board.machine import read_machine
from ..configuration.config import Config
from ..configuration.served import served_package
from ..configuration.settings import RunSettings, decide
from ..errors import AddressInUse, ConfigError, EdgeQwenError, Fault, InvalidInput, LocalSettingsError
from ..footprint import Footprint, megabytes
from ..package import Package, variants_of
from ..presets import read_presets

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
    found.runs["listen"] = " ".join(config.listen)
    for listen in config.listen:
        with found.noted():
            _check_address(listen, config, found)
    for extra in extras:
        with found.noted():
            extra(config)
    footprints = []
    with found.noted():
        footprints += _check_package(served_package(config), config, found, is_default=True)
    for path in config.more_packages:
        with found.noted():
            footprints += _check_package(path, config, found, is_default=False)
    if footprints:
        with found.noted():
            _check_memory(total_bytes(footprints), root, found)
    return Checked(tuple(found.faults), tuple(found.warnings), found.runs)


def memory_of(package: Package, settings: RunSettings) -> Footprint:
    """What a model takes at most: with all rows in use, and those that keep what earlier requests left."""
    footprint = replace(settings.footprint(package.build), rows=settings.session_slots)
    if settings.graph.parent == package.variant_dir:
        return footprint
    packed_bytes = sum(
        path.stat().st_size for path in settings.graph.parent.iterdir()
    )  # for this processor, and larger
    return replace(footprint, weights_bytes=packed_bytes)


def total_bytes(footprints: Sequence[Footprint]) -> int:
    """Of models in one daemon: libraries and scratch memory serve all of them."""
    return sum(each.weights_bytes + each.kv_bytes for each in footprints) + max(
        each.buffers_bytes for each in footprints
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


def _check_address(listen: str, config: Config, found: _Findings) -> None:
    """A daemon that answers there is no fault: it may be the one whose configuration is checked."""
    try:
        Address(listen, off_loopback=config.tls is not None or config.insecure).require_free()
    except AddressInUse:
        found.warnings.append(f"a process listens at {listen} now: a second daemon could not start there")


def _check_package(path: Path, config: Config, found: _Findings, *, is_default: bool) -> list[Footprint]:
    """What its model would take, or nothing if that cannot be told. Raises PackageError where there is no package."""
    variant = config.variant if is_default or config.variant in variants_of(path) else None
    package = Package.open(path, variant, verify=False)
    build = package.build
    if is_default:
        found.runs |= {
            "package": str(package.root),
            "model": build.name,
            "variant": build.variant,
            "precision": build.precision,
            "provider": build.runs_on,
            "build_digest": package.build_digest,
        }
    else:
        found.runs["more_models"] = ", ".join(filter(None, (str(found.runs.get("more_models", "")), build.name)))
    with found.noted():
        package.require_this_machine(simulate=config.simulate)
    with found.noted():
        read_presets(package.root)
    adapters_dir = config.adapters_dir if is_default else None
    with found.noted():
        adapters = _count_adapters(package, adapters_dir)
        settings = _settings(package, config, found, adapters=bool(adapters))
        if is_default:
            found.runs |= {
                "adapters": adapters,
                "prefill_threads": settings.prefill_threads,
                "decode_threads": settings.decode_threads,
                "threads_from": settings.threads_from,
                "slots": settings.slots,
                "slots_from": settings.slots_from,
                "context_tokens": settings.context_tokens,
            }
        return [memory_of(package, settings)]
    return []


def _count_adapters(package: Package, folder: Path | None) -> int:
    """Of the package and of the folder; onnxruntime, which reads them, is loaded only if there are any."""
    names = set(package.build.adapters)
    if not names and folder is None:
        return 0
    from ..sessions.adapters import find_adapters

    return len(find_adapters(package, folder))


def _settings(package: Package, config: Config, found: _Findings, *, adapters: bool) -> RunSettings:
    file = LocalSettingsFile(config.state_dir, package.build_digest, read_cpu())
    local: LocalSettings | None = None
    try:
        local = file.read(verify=False)
    except LocalSettingsError as error:
        found.warnings.append(f"local settings ignored: {error}")
    return decide(config, package, file, local, len(os.sched_getaffinity(0)), adapters=adapters)


def _check_memory(needed_bytes: int, root: Path, found: _Findings) -> None:
    found.runs["memory_bytes"] = needed_bytes
    have_bytes = read_machine(root).memory_mb << 20
    if have_bytes and needed_bytes > have_bytes:
        message = (
            f"all rows full take {megabytes(needed_bytes)}, and this machine has {megabytes(have_bytes)}: lower slots"
            " or context_tokens, or choose a smaller package"
        )
        raise ConfigError([Fault("memory", message)])
