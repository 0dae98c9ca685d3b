"""Where a daemon is, and how a client shows who it is."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import grpc

DEFAULT_TARGET = "unix:/run/edgeqwen/edgeqwend.sock"
TARGET_VARIABLE = "EDGEQWEN_TARGET"

MAX_SOCKET_PATH_BYTES = 107  # sockaddr_un has 108, with a zero at the end

Channel = TypeVar("Channel")

_TLS, _PLAIN = "https://", "http://"

OPTIONS = [
    # A daemon that starts is found within a quarter of a second, not after the default two minutes.
    ("grpc.max_reconnect_backoff_ms", 250),
    ("grpc.initial_reconnect_backoff_ms", 50),
    # A proxy set for the web is not the way to a daemon on this machine or the next one.
    ("grpc.enable_http_proxy", 0),
]


def default_target() -> str:
    """EDGEQWEN_TARGET, or the socket of the system's daemon."""
    return os.environ.get(TARGET_VARIABLE) or DEFAULT_TARGET


def checked_target(target: str) -> str:
    """The same target. Raises ValueError if it is neither unix:PATH nor HOST:PORT, with or without https:// or http://."""
    if target.startswith("unix:"):
        path = target.removeprefix("unix:").removeprefix("//")
        if not path:
            raise ValueError("the path after unix: is missing")
        if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
            raise ValueError(f"a socket's path has at most {MAX_SOCKET_PATH_BYTES} bytes (got {path})")
        return target
    host, _, port = target.removeprefix(_TLS).removeprefix(_PLAIN).rpartition(":")
    path_in_it = target.startswith((_TLS, _PLAIN)) and "/" in host  # gRPC has schemes of its own, such as dns:///
    if host and not path_in_it and port.isdecimal() and 0 < int(port) < 1 << 16:
        return target
    hint = f"; did you mean unix:{target}?" if "/" in target and "//" not in target else ""
    raise ValueError(f"a target is unix:PATH or HOST:PORT, after https:// for TLS (got {target!r}){hint}")


@dataclass(frozen=True)
class Connection:
    """How to reach a daemon. Raises ValueError for what cannot be meant.

    Args:
        target: "unix:/path/to.sock"; "https://host:port" for TLS; "host:port" for TLS where `ca` or `certificate` is
            given, else for plaintext; "http://host:port" for plaintext.
        ca: file of the certificates, in PEM, of which one signed the daemon's; None takes those that gRPC comes with.
        certificate: file of the certificate, in PEM, that shows who this client is, and `key`, that of its key.
        token: a bearer token that shows who this client is. It is sent to TLS ports, to this machine, and to http://.
    """

    target: str
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        checked_target(self.target)
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a certificate and its key belong together: give both")
        named = self.ca is not None or self.certificate is not None
        if named and self.target.startswith(("unix:", _PLAIN)):
            raise ValueError(f"{self.target} is not TLS: leave out certificates, or use https://HOST:PORT")
        if self.token is not None:
            if not (self.token.isascii() and self.token.isprintable()) or not self.token or " " in self.token:
                raise ValueError("the token has characters that no token has")
            if not (self.encrypted or self.target.startswith(("unix:", _PLAIN)) or _is_here(self.address)):
                raise ValueError(
                    f"a token would go to {self.target} where all can read it: use https://{self.target},"
                    f" or http://{self.target} if that is as it should be"
                )

    @property
    def encrypted(self) -> bool:
        """Whether it is TLS."""
        return self.target.startswith(_TLS) or self.ca is not None or self.certificate is not None

    @property
    def address(self) -> str:
        """As gRPC has it."""
        return self.target.removeprefix(_TLS).removeprefix(_PLAIN)

    @property
    def is_here(self) -> bool:
        """Whether it leads to this machine, and nowhere else."""
        return self.address.startswith("unix:") or _is_here(self.address)

    def require_files(self) -> None:
        """Raises ValueError for a file that cannot be read."""
        for path in (self.ca, self.certificate, self.key):
            _content(path)

    def open(self) -> grpc.Channel:
        """A channel for threads. Raises ValueError for a file that cannot be read."""
        return self._showing(
            grpc.secure_channel(self.address, self._credentials(), options=OPTIONS)
            if self.encrypted
            else grpc.insecure_channel(self.address, options=OPTIONS)
        )

    def open_async(self) -> grpc.aio.Channel:
        """A channel for asyncio. Raises ValueError for a file that cannot be read."""
        return self._showing(
            grpc.aio.secure_channel(self.address, self._credentials(), options=OPTIONS)
            if self.encrypted
            else grpc.aio.insecure_channel(self.address, options=OPTIONS)
        )

    def _credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(
            root_certificates=_content(self.ca),
            private_key=_content(self.key),
            certificate_chain=_content(self.certificate),
        )

    def _showing(self, channel: Channel) -> Channel:
        """The channel, whose calls show the token. At a unix socket the kernel says who calls, so there is no need."""
        if self.token is None or self.target.startswith("unix:"):
            return channel
        return cast(Channel, _Showing(channel, (("authorization", f"Bearer {self.token}"),)))


def connection_to(
    target: str | Connection | None,
    *,
    ca: str | Path | None = None,
    certificate: str | Path | None = None,
    key: str | Path | None = None,
    token: str | None = None,
) -> Connection:
    """`target` where it is a Connection, else one of these; None is `default_target()`. Raises ValueError."""
    if isinstance(target, Connection):
        return target
    ca, certificate, key = (Path(path) if path is not None else None for path in (ca, certificate, key))
    return Connection(target or default_target(), ca, certificate, key, token)


class _Showing:
    """A channel whose calls all have `metadata`. gRPC's own way, call credentials, works with TLS only."""

    def __init__(self, channel: Any, metadata: tuple[tuple[str, str], ...]) -> None:
        self._channel = channel
        self._metadata = metadata

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._channel, name)
        return partial(self._callable, found) if name in _CALLABLES else found

    def _callable(self, make: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return partial(make(*args, **kwargs), metadata=self._metadata)


_CALLABLES = frozenset({"unary_unary", "unary_stream", "stream_unary", "stream_stream"})


def _content(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error


def _is_here(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
