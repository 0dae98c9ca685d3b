"""Hosts as `ansible-inventory --list` prints them, and the boards that they are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..connection import Connection, checked_target
from .board import Board, Inventory, InventoryError, natural

TARGET = "edgeqwen_target"
_FILES = {"ca": "edgeqwen_client_ca", "certificate": "edgeqwen_client_certificate", "key": "edgeqwen_client_key"}
_TOKEN_FILE = "edgeqwen_client_token_file"
_PROFILE, _GROUP, _METRICS = "edgeqwen_variant", "edgeqwen_fleet_group", "edgeqwen_metrics_target"

_OF_ALL = ("all", "ungrouped")
_TEMPLATE = re.compile(r"{{\s*([A-Za-z_]\w*)\s*}}")
_DEEPEST = 10


@dataclass(frozen=True)
class Identity:
    """How we show who we are to boards of which the inventory does not say."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    token: str | None = None


class Tokens:
    """Tokens by their files, each read once."""

    def __init__(self) -> None:
        self._known: dict[Path, str] = {}

    def of(self, file: Path) -> str:
        """Raises InventoryError."""
        if file not in self._known:
            try:
                self._known[file] = file.read_text(encoding="ascii").strip()
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is no text"
                raise InventoryError(f"cannot read the token in {file}: {reason}") from error
        return self._known[file]


def connection_of(target: str, identity: Identity) -> Connection:
    """Certificates go to TLS only: a fleet may have unix sockets, too. Raises ValueError."""
    if target.startswith(("unix:", "http://")):
        return Connection(target, token=identity.token)
    return Connection(target, identity.ca, identity.certificate, identity.key, identity.token)


def boards_of(listed: Any, identity: Identity, folder: Path) -> Inventory:
    """What `ansible-inventory --list` printed, parsed from JSON. Relative files are below `folder`.

    Raises InventoryError for the first host that cannot be used.
    """
    if not isinstance(listed, dict) or not isinstance(listed.get("_meta"), dict):
        raise InventoryError("it has no _meta: it is to be what `ansible-inventory --list` prints")
    variables = listed["_meta"].get("hostvars")
    if not isinstance(variables, dict) or not all(isinstance(each, dict) for each in variables.values()):
        raise InventoryError("_meta has no hostvars: it is to be what `ansible-inventory --list` prints")
    groups = _groups(listed)
    names = sorted({*variables, *(host for hosts, _ in groups.values() for host in hosts)}, key=natural)
    within: dict[str, list[str]] = {name: [] for name in names}
    for group in sorted(groups.keys() - set(_OF_ALL)):
        for host in _hosts_below(group, groups):
            within[host].append(group)
    tokens, boards, left_out = Tokens(), [], []
    for name in names:
        its = _Host(name, variables.get(name, {}), folder)
        try:
            board = _board(its, tuple(within[name]), identity, tokens)
        except ValueError as error:
            raise InventoryError(f"{name}: {error}") from error
        boards.append(board) if board else left_out.append(name)
    return Inventory(tuple(boards), tuple(left_out))


Groups = dict[str, tuple[tuple[str, ...], tuple[str, ...]]]
"""Of each group its hosts, and the groups within it."""


def _groups(listed: Mapping[str, Any]) -> Groups:
    groups: Groups = {}
    for name, group in listed.items():
        if name == "_meta":
            continue
        if not isinstance(group, dict):
            raise InventoryError(f"group {name} is not an object")
        if group.get("vars"):
            raise InventoryError(f"group {name} has vars: print it with `ansible-inventory --list`, without --export")
        groups[name] = (_names(name, group.get("hosts")), _names(name, group.get("children")))
    return groups


def _names(group: str, given: Any) -> tuple[str, ...]:
    if not (given is None or (isinstance(given, list) and all(isinstance(each, str) for each in given))):
        raise InventoryError(f"hosts and children of group {group} are lists of names")
    return tuple(given or ())


def _hosts_below(group: str, groups: Groups) -> Iterator[str]:
    """Each once, though groups may meet again further down."""
    hosts: set[str] = set()
    seen, waiting = {group}, [group]
    while waiting:
        its_hosts, children = groups.get(waiting.pop(), ((), ()))
        hosts.update(its_hosts)
        waiting += (new := set(children) - seen)
        seen |= new
    yield from hosts


@dataclass(frozen=True)
class _Host:
    """A host's variables, which may name others of its own as {{ name }}: Ansible prints them unfilled."""

    name: str
    variables: Mapping[str, Any]
    folder: Path

    def text(self, variable: str) -> str | None:
        """Filled in; None where it is not set. Raises ValueError."""
        if self.variables.get(variable) is None:
            return None
        return self._filled(variable, _DEEPEST)

    def file(self, variable: str) -> Path | None:
        """Below the inventory's folder, unless it is absolute."""
        text = self.text(variable)
        return None if text is None else self.folder / Path(text).expanduser()

    def _filled(self, variable: str, deepest: int) -> str:
        value = self.variables.get(variable)
        if value is None and variable in ("ansible_host", "inventory_hostname"):
            return self.name
        if value is None and variable == "inventory_hostname_short":
            return self.name.partition(".")[0]
        if value is None:
            raise ValueError(f"{variable}, which another variable names, is not set")
        if deepest == 0:
            raise ValueError(f"{variable} names itself")
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise InventoryError(f"{variable} must be text (a secret of Ansible's vault cannot be read here)")
        filled = _TEMPLATE.sub(lambda found: self._filled(found[1], deepest - 1), str(value))
        if "{{" in filled or "{%" in filled:
            raise ValueError(
                f"{variable} has a template that is more than {{{{ variable }}}}: write it without filters"
            )
        return filled


def _board(host: _Host, groups: tuple[str, ...], identity: Identity, tokens: Tokens) -> Board | None:
    """None for a host without a daemon. Raises ValueError."""
    target = host.text(TARGET)
    if target is None:
        return None
    files = {name: host.file(variable) for name, variable in _FILES.items()}
    if files["certificate"] is None and files["key"] is None:
        files["certificate"], files["key"] = identity.certificate, identity.key
    token_file = host.file(_TOKEN_FILE)
    its = Identity(
        files["ca"] or identity.ca,
        files["certificate"],
        files["key"],
        identity.token if token_file is None else tokens.of(token_file),
    )
    connection = connection_of(target, its)
    connection.require_files()
    group = host.text(_GROUP) or (groups[0] if groups else "")
    metrics = host.text(_METRICS)
    if metrics is not None and (metrics.startswith(("unix:", "http")) or checked_target(metrics) != metrics):
        raise InventoryError(f"{_METRICS} is HOST:PORT (got {metrics!r})")
    return Board(host.name, connection, groups, group, host.text(_PROFILE) or "", metrics)
