"""The daemon's configuration: defaults, then a YAML file, then the environment, then flags."""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AfterValidator, BeforeValidator, Field

from ..access.caller import Role
from ..errors import ConfigError, Fault
from ..profile import OPENVINO_DEVICE
from ..validation import StrictModel, parse
from ..yaml_file import parse_yaml, read_yaml
from .access_settings import Identity, Tls, TokenDigest, TokenName, require_consistent
from .limit_config import LimitConfig
from .otel_settings import OtelSettings
from .store_settings import StoreSetting, StoreSettings

ENVIRONMENT_PREFIX = "EDGEQWEN_"
SharePrefix = Literal["client", "all", "off"]
"""Whose KV a request may start from: that of its own client, of everybody, or nobody's."""

DEFAULT_LISTEN = "unix:/run/edgeqwen/edgeqwend.sock"
DEFAULT_STATE_DIR = Path("/var/lib/edgeqwen")


def _listed(value: object) -> object:
    """One address stands for a list of it; a flag and the environment separate several with commas."""
    return value.split(",") if isinstance(value, str) else value


def _distinct(listen: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(listen)) < len(listen):
        raise ValueError("must not name an address twice")
    return listen


Listen = Annotated[str, Field(pattern=r"^(unix:.+|[^:]+:\d{1,5}|\[.+\]:\d{1,5})$")]
Listens = Annotated[
    tuple[Listen, ...],
    BeforeValidator(_listed),
    AfterValidator(_distinct),
    Field(strict=False, min_length=1, max_length=16),
]


class Config(StrictModel):
    """Everything that an operator can set. The profile in the package decides what is left unset."""

    package: Annotated[Path, Field(strict=False)] | None = Field(
        default=None, description="The package to serve; one of this and `store` is required."
    )
    variant: str | None = Field(default=None, description="Its variant; needed if it has several.")
    store: StoreSetting | None = Field(
        default=None, description="The store whose active package to serve: a folder, or `path` and more."
    )
    more_packages: list[Annotated[Path, Field(strict=False)]] = Field(
        default=[], description="Packages to serve beside it, for requests that name their models."
    )
    packages_dir: Annotated[Path, Field(strict=False)] | None = Field(
        default=None,
        description="Folder of packages that may be loaded at run time; unset: that of `package`, or none.",
    )
    adapters_dir: Annotated[Path, Field(strict=False)] | None = Field(
        default=None, description="Folder of adapters (*.onnx_adapter) to offer beside those of the package."
    )
    listen: Listens = Field(default=(DEFAULT_LISTEN,), description="unix:PATH or HOST:PORT, or several of them.")
    socket_group: str = Field(default="edgeqwen", description="The group whose members may connect to unix sockets.")
    connections: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=256, description="Connections at once to unix sockets, as many to TCP ports, and as many over HTTP."
    )
    connections_per_user: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=64,
        description="Of them to unix sockets from one user, and over HTTP from one address of other machines.",
    )
    tls: Tls | None = Field(default=None, description="Makes TCP ports TLS.")
    tokens: Annotated[dict[TokenName, TokenDigest], Field(max_length=1000)] = Field(
        default={}, description="Bearer tokens of TCP clients, by a name each, as `edgeqwen token` prints them."
    )
    clients: Annotated[dict[Identity, list[Role]], Field(max_length=10_000)] = Field(
        default={},
        description="Roles by client, such as `uid:1000: [generate, observe, admin]`; `token:*` for all others.",
    )
    insecure: bool = Field(default=False, description="Allow TCP without TLS off loopback.")
    http_listen: Annotated[str, Field(pattern=r"^(unix:.+|[^:]+:\d{1,5}|\[.+\]:\d{1,5})$")] | None = Field(
        default=None, description="Where to answer the OpenAI API over HTTP: unix:PATH, or HOST:PORT; unset: nowhere."
    )
    metrics_listen: Annotated[str, Field(pattern=r"^(unix:.+|[^:]+:\d{1,5}|\[.+\]:\d{1,5})$")] | None = Field(
        default=None, description="unix:PATH, or HOST:PORT on loopback, where Prometheus finds metrics; unset: nowhere."
    )
    otel: OtelSettings = Field(
        default=OtelSettings(), description="Where OpenTelemetry's metrics and traces go; unset: what OTEL_* says."
    )
    queue_limit: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=64, description="Requests that may wait; more are refused."
    )
    limits: LimitConfig = Field(
        default=LimitConfig(), description="What clients may ask for, by default and by name; unset: as they like."
    )
    drain_timeout_s: Annotated[float, Field(ge=0, le=3600)] = Field(
        default=30.0, description="How long running requests may go on after SIGTERM, in seconds."
    )
    stall_timeout_s: Annotated[float, Field(ge=1, le=3600)] = Field(
        default=30.0,
        description="How long work may wait for the end of a step, in seconds, before health says that it hangs and"
        " systemd's watchdog is no longer fed.",
    )
    low_power_battery_percent: Annotated[float, Field(gt=0, lt=100)] | None = Field(
        default=None,
        description="Save power on a battery that has less, in percent; unset: never.",
    )
    verify: bool = Field(default=True, description="Compare every file with its digest before loading it.")
    threads: Annotated[int, Field(ge=1, le=256)] | None = Field(
        default=None, description="Threads of the model; unset: what was measured here, else the profile's."
    )
    slots: Annotated[int, Field(ge=1, le=64)] | None = Field(
        default=None, description="Requests that decode together; unset: what was measured here, else the profile's."
    )
    context_tokens: Annotated[int, Field(ge=64, le=131_072)] | None = Field(
        default=None, description="Tokens of a prompt and its answer together; unset: the profile's."
    )
    device: Annotated[str, Field(pattern=OPENVINO_DEVICE)] | None = Field(
        default=None, description="Device of OpenVINO to run on, whatever the package is for: CPU, GPU or NPU."
    )
    share_prefix: SharePrefix = Field(
        default="client",
        description="Whose earlier prompts a request may start from: its client's, all, or off. `all` lets clients"
        " learn from timing what others asked.",
    )
    speculate: bool = Field(
        default=True,
        description="Compute tokens that a request's own text suggests together with the next one, where that pays.",
    )
    shrink_kv: bool = Field(
        default=True,
        description="Promise requests less KV, and keep less of earlier ones, while memory is short.",
    )
    simulate: bool = Field(
        default=False, description="Run a package for an NPU in the NPU's simulator, very slowly, to verify it."
    )
    deterministic: bool = Field(False, description="Whether requests are that do not say.")
    state_dir: Annotated[Path, Field(strict=False)] = Field(
        default=DEFAULT_STATE_DIR, description="Where `edgeqwen bench --autotune` keeps what it found."
    )
    max_message_bytes: Annotated[int, Field(ge=1024, le=1 << 28)] = Field(
        default=4 << 20, description="The largest request accepted."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="auto: console on a terminal, JSON elsewhere."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="What is logged.")


def load_config(file: Path | None, environ: Mapping[str, str], flags: Mapping[str, object]) -> Config:
    """The layers put together; a flag that is None was not given. Raises ConfigError with every fault.

    Args:
        file: YAML mapping of the fields of `Config`.
        environ: `EDGEQWEN_QUEUE_LIMIT` and the like; others are not looked at.
    """
    origin: dict[str, str] = {}
    merged: dict[str, object] = {}
    for source, layer in (
        (str(file), _read(file)),
        ("environment", _from_environment(environ)),
        ("flag", {key: value for key, value in flags.items() if value is not None}),
    ):
        merged = _without_other_source(merged, layer) | layer
        origin |= dict.fromkeys(layer, source)
    try:
        config = _parse(merged)
        named: dict[str, Iterable[str]] = {"clients": config.clients, "limits.clients": config.limits.clients}
        require_consistent(config.tls, config.tokens, named, insecure=config.insecure)
    except ConfigError as error:
        faults = [_with_origin(fault, origin) for fault in error.faults]
        raise ConfigError(faults, error.subject) from error
    return config


class _StoreAlone(StrictModel):
    store: StoreSetting | None = None


def configured_store(file: Path | None, environ: Mapping[str, str]) -> StoreSettings | None:
    """What file and environment say of a store, whatever else they say. Raises ConfigError."""
    said = (_read(file) | _from_environment(environ)).get("store")
    return parse(_StoreAlone, {"store": said}, subject="configuration", error=ConfigError).store


def _without_other_source(settings: dict[str, object], above: Mapping[str, object]) -> dict[str, object]:
    """Where what is above says by `package` or `store` what to serve, the other one of below does not hold."""
    dropped = {"package", "variant"} if above.get("store") else {"store"} if above.get("package") else set()
    return {key: value for key, value in settings.items() if key not in dropped}


def _parse(settings: Mapping[str, object]) -> Config:
    """Raises ConfigError with every fault."""
    faults: list[Fault] = []
    given = {name for name in ("package", "variant", "store") if settings.get(name) is not None}
    if not given & {"package", "store"}:
        faults.append(Fault("package", "is required, unless there is a `store`"))
    if "store" in given:
        faults += [Fault(name, "cannot be set beside `store`") for name in given - {"store"}]
    try:
        config = parse(Config, settings, subject="configuration", error=ConfigError)
    except ConfigError as error:
        raise ConfigError([*error.faults, *faults], error.subject) from error
    if faults:
        raise ConfigError(faults, "configuration")
    return config


def _with_origin(fault: Fault, origin: Mapping[str, str]) -> Fault:
    source = origin.get(re.split(r"[.\[]", fault.path)[0])
    return Fault(f"{fault.path} (from {source})", fault.message) if source else fault


def _read(file: Path | None) -> dict[str, object]:
    if file is None:
        return {}
    data = read_yaml(file, ConfigError)
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError([Fault("", "must be a mapping of settings")], str(file))
    return {str(key): value for key, value in data.items()}


def _from_environment(environ: Mapping[str, str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, field in Config.model_fields.items():
        value = environ.get(ENVIRONMENT_PREFIX + key.upper())
        if value is not None:
            found[key] = _typed(value, field.annotation)
    return found


def _typed(value: str, annotation: Any) -> object:
    """A number, truth value or mapping where the field wants one and the text is one; a list of what stands between
    commas; else the text, to be refused as such."""
    if isinstance(annotation, type) and issubclass(annotation, StrictModel):
        try:
            return parse_yaml(value.encode())
        except ValueError:
            return value
    wanted = set(get_args(annotation)) if get_origin(annotation) in (Union, types.UnionType) else {annotation}
    wanted |= {get_args(each)[0] for each in wanted if get_origin(each) is Annotated}
    if StoreSettings in wanted:
        return _typed(value, StoreSettings)
    if any(get_origin(each) is list for each in wanted):
        return value.split(",")
    if bool in wanted:
        return {"true": True, "1": True, "false": False, "0": False}.get(value.lower(), value)
    for kind in (int, float):
        if kind in wanted:
            try:
                return kind(value)
            except ValueError:
                return value
    return value
