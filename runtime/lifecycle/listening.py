"""The ways in, as the configuration has them: gRPC's entrance, its certificates and rules, and the HTTP listener."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from ..access.call_errors import CallErrors
from ..access.certificates import Certificates, Files
from ..access.entrance import Entrance
from ..access.gate import CALLS_PER_CALLER
from ..access.rules import Rules
from ..api.replies import abort
from ..configuration.access_settings import roles_of
from ..configuration.config import Config
from ..errors import AddressInUse, ConfigError, Fault

if TYPE_CHECKING:
    from ..http.listener import HttpListener


def make_entrance(config: Config) -> Entrance:
    """Raises ConfigError for certificates that cannot be used."""

    return Entrance(
        make_rules(config),
        abort,
        _load_certificates(config),
        socket_group=config.socket_group,
        connections=config.connections,
        connections_per_user=config.connections_per_user,
        calls_per_caller=CALLS_PER_CALLER + config.queue_limit,  # who fills the queue hears that it is full
    )


def check_certificates(config: Config) -> None:
    """Raises ConfigError for certificates that cannot be used."""
    _load_certificates(config)


def make_rules(config: Config) -> Rules:

    return Rules(config.tokens, roles_of(config.clients), os.geteuid())


def _load_certificates(config: Config) -> Certificates | None:
    """None where the configuration has no TLS. Raises ConfigError for certificates that cannot be used."""
    if config.tls is None:
        return None

    return Certificates(Files(config.tls.certificate, config.tls.key, config.tls.client_ca))


def make_http(config: Config, rules: Callable[[], Rules], errors: CallErrors | None = None) -> HttpListener | None:
    """None unless it is asked for. Raises ConfigError or AddressInUse."""
    if config.http_listen is None:
        return None
    try:
        from ..http.callers import Callers
        from ..http.listener import HttpListener
    except ModuleNotFoundError as error:
        message = f"needs {error.name}, which is not installed: pip install 'edgeqwen[http]'"
        raise ConfigError([Fault("http_listen", message)]) from error
    http = HttpListener(
        config.http_listen,
        config.max_message_bytes,
        Callers(rules).admit,
        tls=config.tls,
        insecure=config.insecure,
        socket_group=config.socket_group,
        connections=config.connections,
        connections_per_client=config.connections_per_user,
        errors=errors,
    )
    http.require_free()
    return http


def check_http(config: Config) -> None:
    """Raises ConfigError. Who listens there may be the daemon whose configuration is checked."""
    with suppress(AddressInUse):
        make_http(config, lambda: make_rules(config))
