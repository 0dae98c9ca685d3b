"""What the daemon will need on this machine, by its configuration and its package."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from ..check import memory_of
from ..config import Config, load_config
from ..cpu import read_cpu
from ..errors import EdgeQwenError, LocalSettingsError
from ..localsettings import LocalSettingsFile
from ..package import Package
from ..settings import decide
from .plan import CONFIG_PATH, DropIns
from .target import Target

_BACKOFF_SINCE = 254
_DEVICE_GROUPS = frozenset({"render", "video"})


@dataclass(frozen=True)
class Expectation:
    """Drop-ins, and what could not be found out, in a sentence; empty if all could."""

    drop_ins: DropIns
    unknown: str


def expect(target: Target, package: str | None, variant: str | None) -> Expectation:
    """What the target's configuration asks for, or where it has none yet, `package` alone, as the target calls it."""
    backoff = (target.systemd_version or 0) >= _BACKOFF_SINCE
    file = target.path(CONFIG_PATH)
    flags: dict[str, object] = {} if file.is_file() else {"package": package, "variant": variant}
    try:
        config = load_config(file if file.is_file() else None, {}, flags)
        found = Package.open(target.path(config.package), config.variant, verify=False)
        drop_ins = _drop_ins(config, found, target, backoff=backoff)
    except EdgeQwenError as error:
        return Expectation(DropIns(backoff=backoff), f"no limit of memory and no device is set: {error}")
    return Expectation(drop_ins, "")


def _drop_ins(config: Config, package: Package, target: Target, *, backoff: bool) -> DropIns:
    local = None
    file = LocalSettingsFile(target.path(config.state_dir), package.build_digest, read_cpu())
    if target.is_this_machine:
        try:
            local = file.read(verify=False)
        except LocalSettingsError:
            local = None  # the daemon ignores it too, and says so
    cores = package.build.profile.device.cores
    settings = decide(config, package, file, local, cores, adapters=bool(config.adapters_dir or package.build.adapters))
    provider = provider_of(package, settings.device, simulate=config.simulate)
    needs_device = provider not in (None, "openvino-cpu")
    memory_bytes = memory_of(package, settings).total_bytes + _adapters_bytes(package, config, target)
    return DropIns(
        provider=provider,
        groups=tuple(sorted(_DEVICE_GROUPS & target.groups())) if needs_device else (),
        network=network_of(config),
        memory_bytes=memory_bytes,
        backoff=backoff,
    )


def provider_of(package: Package, device: str | None, *, simulate: bool = False) -> str | None:
    """The drop-in of the execution provider that `package` runs on. `device` is OpenVINO's."""
    backend = package.build.profile.execution.backend
    if backend == "openvino":
        return f"openvino-{(device or 'CPU').partition('.')[0].lower()}"
    return None if backend == "ort" or simulate else backend


def network_of(config: Config) -> str | None:
    """`loopback` or `private` if one of the settings named `listen` or `*_listen` is a TCP address."""
    names = (name for name in Config.model_fields if name == "listen" or name.endswith("_listen"))
    values = [value for value in (getattr(config, name) for name in names) if isinstance(value, str)]
    hosts = {value.rpartition(":")[0].strip("[]") for value in values if not value.startswith("unix:")}
    if not hosts:
        return None
    return "loopback" if all(map(_is_loopback, hosts)) else "private"


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
