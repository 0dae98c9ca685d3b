"""How this device reaches registries: what a file says, and what a command adds to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field, PlainValidator

from ..errors import ConfigError, ReferenceInvalid
from ..validation import StrictModel, parse
from ..yaml_file import read_yaml
from .patience import Patience
from .rate import parse_rate
from .reference import Mirror, parse_mirror

DEFAULT_FILE = Path("/etc/edgeqwen/registries.yaml")


def _mirror(value: object) -> Mirror:
    try:
        return parse_mirror(str(value))
    except ReferenceInvalid as error:
        raise ValueError(str(error)) from error


class RegistriesFile(StrictModel):
    """`registries.yaml`."""

    mirrors: Annotated[list[Annotated[Mirror, PlainValidator(_mirror)]], Field(max_length=32)] = Field(
        default=[], description="Asked before the registry that a reference names, the first first."
    )
    limit_rate: Annotated[int, PlainValidator(lambda value: parse_rate(str(value)))] | None = Field(
        default=None, description="Bytes a second at most, such as 500K or 2M; unset: as fast as it goes."
    )
    proxy: str | None = Field(default=None, description="For every request; unset: as the environment has it.")
    ca_file: Annotated[Path, Field(strict=False)] | None = Field(
        default=None, description="Certificates of authorities to trust beside the system's."
    )
    auth_file: Annotated[Path, Field(strict=False)] | None = Field(
        default=None, description="User names and passwords, as Docker's config.json."
    )
    plain_http: list[str] = Field(default=[], description="HOST:PORT of registries that are asked without TLS.")


@dataclass(frozen=True)
class Settings:
    """How registries are reached.

    Args:
        mirrors: asked before the registry that a reference names.
        bytes_per_s: at most; None: as fast as it goes.
        proxy: for every request; None: as the environment has it.
        ca_file: certificates of authorities that are trusted beside the system's.
        auth_file: user names and passwords, as Docker's config.json.
        plain_hosts: that are spoken to without TLS.
        credentials: for the registry that a reference names, never for a mirror.
        plain_http: of the registry that a reference names; None: on this machine only, and those of `plain_hosts`.
    """

    mirrors: tuple[Mirror, ...] = ()
    bytes_per_s: int | None = None
    proxy: str | None = None
    ca_file: Path | None = None
    auth_file: Path | None = None
    plain_hosts: frozenset[str] = frozenset()
    credentials: tuple[str, str] | None = None
    plain_http: bool | None = None
    patience: Patience = field(default_factory=Patience)


def load_settings(file: Path | None) -> Settings:
    """What `file` says; None: what DEFAULT_FILE does, if it is there. Raises ConfigError with every fault."""
    if file is None and not DEFAULT_FILE.is_file():
        return Settings()
    path = file or DEFAULT_FILE
    said = parse(RegistriesFile, read_yaml(path, ConfigError) or {}, subject=str(path), error=ConfigError)
    return Settings(
        mirrors=tuple(said.mirrors),
        bytes_per_s=said.limit_rate,
        proxy=said.proxy,
        ca_file=said.ca_file,
        auth_file=said.auth_file,
        plain_hosts=frozenset(said.plain_http),
    )
