"""What the daemon will need on this machine, by its configuration and its package."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from ..board.cpu import read_cpu
from ..board.localsettings import LocalSettingsFile
from ..configuration.config import Config, load_config
from ..configuration.served import served_package
from ..configuration.settings import RunSettings, decide
from ..errors import EdgeQwenError, LocalSettingsError
from ..lifecycle.check import memory_of, total_bytes
from ..package import Package, variants_of
from .plan import CONFIG_PATH, STATE_FOLDER, DropIns
from .target import Target

_BACKOFF_SINCE = 254
_DEVICE_GROUPS = frozenset({"render", "video"})


@dataclass(frozen=True)
class Expectation:
    """Drop-ins, and what could not be found out, in a sentence; empty if all could."""

    drop_ins: DropIns
    unknown: str


def expect(target: Target, settings: Mapping[str, object]) -> Expectation:
    """What the target's configuration asks for, or where it has none yet, `settings` alone, as the target calls it."""
    backoff = (target.systemd_version or 0) >= _BACKOFF_SINCE
    file = target.path(CONFIG_PATH)
    try:
        config = load_config(file if file.is_file() else None, {}, {} if file.is_file() else settings)
    except EdgeQwenError as error:
        return Expectation(DropIns(backoff=backoff), f"no limit of memory and no device is set: {error}")
    known = DropIns(
        network=network_of(config), shared_memory=config.store is not None, writes=_writes(config), backoff=backoff
    )
    try:
        return Expectation(_with_packages(known, config, target), "")
    except EdgeQwenError as error:
        unknown = "no device is set" if config.store is not None else "no limit of memory and no device is set"
        return Expectation(known, f"{unknown}: {error}")


def _packages(config: Config, target: Target) -> list[Package]:
    paths = [served_package(config, target.path), *map(target.path, config.more_packages)]
    return [_open(path, config, is_default=path == paths[0]) for path in paths]


def _open(path: Path, config: Config, *, is_default: bool) -> Package:
    variant = config.variant if is_default or config.variant in variants_of(path) else None
    return Package.open(path, variant, verify=False)


def _writes(config: Config) -> str | None:
    """A store that the service could not write to otherwise."""
    if config.store is None or config.store.path.is_relative_to(STATE_FOLDER):
        return None
    return str(config.store.path)


def _with_packages(known: DropIns, config: Config, target: Target) -> DropIns:
    """What the packages need beside."""
    packages = _packages(config, target)
    settings = [(package, _settings(package, config, target)) for package in packages]
    found = {provider_of(package, its.device, simulate=config.simulate) for package, its in settings}
    providers = tuple(sorted(filter(None, found)))
    needs_device = any(provider != "openvino-cpu" for provider in providers)
    memory_bytes = total_bytes([memory_of(package, its) for package, its in settings])
    memory_bytes += sum(_adapters_bytes(package, config, target) for package in packages)
    return replace(
        known,
        providers=providers,
        groups=tuple(sorted(_DEVICE_GROUPS & target.groups())) if needs_device else (),
        memory_bytes=None if known.shared_memory else memory_bytes,
    )


def _settings(package: Package, config: Config, target: Target) -> RunSettings:
    local = None
    file = LocalSettingsFile(target.path(config.state_dir), package.build_digest, read_cpu())
    if target.is_this_machine:
        with suppress(LocalSettingsError):  # the daemon ignores it too, and says so
            local = file.read(verify=False)
    cores = package.build.profile.device.cores
    return decide(config, package, file, local, cores, adapters=bool(config.adapters_dir or package.build.adapters))


def provider_of(package: Package, device: str | None, *, simulate: bool = False) -> str | None:
    """The drop-in of the execution provider that `package` runs on. `device` is OpenVINO's."""
    backend = package.build.profile.execution.backend
    if backend == "openvino":
        return f"openvino-{(device or 'CPU').partition('.')[0].lower()}"
    return None if backend == "ort" or simulate else backend


def network_of(config: Config) -> str | None:
    """`loopback` or `private` if one of the settings named `listen` or `*_listen` is a TCP address, or if there is a
    collector; None for unix sockets only."""
    names = (name for name in Config.model_fields if name == "listen" or name.endswith("_listen"))
    values = [value for name in names for value in _addresses(getattr(config, name))]
    hosts = {value.rpartition(":")[0].strip("[]") for value in values if not value.startswith("unix:")}
    if config.otel.endpoint is not None:
        hosts.add(urlsplit(config.otel.endpoint).hostname or "")
    if not hosts:
        return None
    return "loopback" if all(map(_is_loopback, hosts)) else "private"


def _addresses(setting: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (setting,) if isinstance(setting, str) else setting or ()


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _adapters_bytes(package: Package, config: Config, target: Target) -> int:
    """Each takes the size of its file."""
    files = [package.adapter_file(name) for name in package.build.adapters]
    if config.adapters_dir:
        files += target.path(Path(config.adapters_dir)).glob("*.onnx_adapter")
    return sum(file.stat().st_size for file in files if file.is_file())
