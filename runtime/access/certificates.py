"""The server's certificate: read, looked at, and read again when its files change, without a restart."""

from __future__ import annotations

import os
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
import structlog

from ..errors import ConfigError, Fault

EXPIRES_SOON_DAYS = 30.0

_DAY_S = 86_400.0
_PEM_BEGIN, _PEM_END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


@dataclass(frozen=True)
class Files:
    """PEM files.

    Args:
        certificate: of the server, with those that lead to its root behind it.
        key: its private key.
        client_ca: the certificates that must have signed those of clients; None asks clients for none.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True)
class _Loaded:
    chain: bytes
    key: bytes
    client_ca: bytes | None
    expires_s: float

    @property
    def configuration(self) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(self.key, self.chain)], self.client_ca)


class Certificates:
    """What TLS connections are made with. gRPC asks at each handshake, on threads of its own.

    Raises ConfigError if the files cannot be used. Later, files that cannot be used are said once in the log, and the
    ones before stay in use.

    Args:
        clock: Unix time in seconds.
    """

    def __init__(self, files: Files, clock: Callable[[], float] = time.time) -> None:
        self._files, self._clock = files, clock
        self._log = structlog.get_logger()
        self._lock = threading.Lock()
        self._seen = _states(files)
        try:
            self._loaded = _load(files)
        except (OSError, ValueError) as error:
            raise ConfigError([Fault("tls", _reason(error))]) from error
        self._said_s = float("-inf")
        self._say_expiry()

    def credentials(self) -> grpc.ServerCredentials:
        """For a port of gRPC's. Where there is a `client_ca`, every client must have a certificate of it."""
        return grpc.dynamic_ssl_server_credentials(
            self._loaded.configuration,
            self._changed,  # type: ignore[arg-type]  # the stubs do not know that None is an answer
            require_client_authentication=self._files.client_ca is not None,
        )

    @property
    def days_left(self) -> float:
        """Until the certificate in use expires; negative afterwards."""
        return (self._loaded.expires_s - self._clock()) / _DAY_S

    def reload(self) -> bool:
        """Reads the files again if they have changed; whether what they hold is used from here on."""
        with self._lock:
            states = _states(self._files)
            if states == self._seen:
                return False
            self._seen = states
            try:
                loaded = _load(self._files)
            except (OSError, ValueError) as error:
                self._log.error("new certificate ignored", reason=_reason(error))
                return False
            if loaded == self._loaded:
                return False
            self._loaded = loaded
            self._said_s = float("-inf")
        self._log.info("certificate reloaded", days_left=round(self.days_left, 1))
        return True

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """None has gRPC go on with what it has."""
        changed = self.reload()
        self._say_expiry()
        return self._loaded.configuration if changed else None

    def _say_expiry(self) -> None:
        """Once a day, as long as connections are made."""
        now_s = self._clock()
        if self.days_left > EXPIRES_SOON_DAYS or now_s - self._said_s < _DAY_S:
            return
        self._said_s = now_s
        event = "certificate has expired" if self.days_left <= 0 else "certificate expires soon"
        self._log.warning(event, days_left=round(self.days_left, 1), file=str(self._files.certificate))


def expiry_of(pem: str) -> float:
    """When the first certificate in `pem` expires, in Unix seconds. Raises ValueError if there is none.

    Reads what RFC 5280, 4.1 lays out, as the standard library shows only certificates of others.
    """
    begin, end = pem.find(_PEM_BEGIN), pem.find(_PEM_END)
    if begin < 0 or end < begin:
        raise ValueError("it has no certificate in PEM")
    try:
        certificate = ssl.PEM_cert_to_DER_cert(pem[begin : end + len(_PEM_END)])
        fields = _parts(_parts(_parts(certificate)[0][1])[0][1])  # of the TBSCertificate
        if fields[0][0] == 0xA0:  # the version, which the first kind of certificate has not
            fields = fields[1:]
        kind, text = _parts(fields[3][1])[1]  # behind serial number, signature, issuer: validity, notAfter
        year = "%y" if kind == 0x17 else "%Y"  # UTCTime has two digits: 1950 to 2049
        found = datetime.strptime(text.decode("ascii"), f"{year}%m%d%H%M%SZ").replace(tzinfo=UTC)
    except (IndexError, ValueError) as error:
        raise ValueError("its certificate is damaged") from error
    if kind == 0x17 and found.year >= 2050:
        found = found.replace(year=found.year - 100)
    return found.timestamp()


def _parts(content: bytes) -> list[tuple[int, bytes]]:
    """Tag and content of each value in DER. Raises IndexError or ValueError for what is cut short."""
    parts, at = [], 0
    while at < len(content):
        tag, length, at = content[at], content[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(content[at : at + size], "big"), at + size
        if at + length > len(content):
            raise ValueError("cut short")
        parts.append((tag, content[at : at + length]))
        at += length
    return parts


def _load(files: Files) -> _Loaded:
    """Raises OSError or ValueError, whose message says what to do."""
    chain, key = files.certificate.read_bytes(), files.key.read_bytes()
    client_ca = files.client_ca.read_bytes() if files.client_ca is not None else None
    try:
        expires_s = expiry_of(chain.decode("ascii"))
    except ValueError as error:
        raise ValueError(f"{files.certificate} cannot be used: {error}") from error
    try:
        # gRPC accepts anything, and refuses every client afterwards. A password would be asked for at a terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.certificate, files.key, password=lambda: b"")
    except ssl.SSLError as error:
        reason = "does not belong to it" if "MISMATCH" in str(error) else "is no key in PEM without a password"
        raise ValueError(f"{files.certificate} cannot be used: {files.key} {reason}") from error
    if client_ca is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=client_ca.decode("ascii"))
        except (ssl.SSLError, ValueError) as error:
            raise ValueError(f"{files.client_ca} cannot be used: it has no certificate in PEM") from error
    return _Loaded(chain, key, client_ca, expires_s)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fspath(error.filename)} cannot be read: {error.strerror}"
    return str(error)


def _states(files: Files) -> tuple[tuple[int, int, int] | None, ...]:
    """Tells whether a file was changed or replaced."""
    return tuple(_state(path) for path in (files.certificate, files.key, files.client_ca) if path is not None)


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
