"""HTTP with one registry: who we are, what is allowed, and errors in our words.

Authentication is oras's: Docker's configuration with its credential helpers, and bearer tokens by the distribution
specification. Requests are not: they need time-outs, ranges, and bodies that no memory holds (docs/adr/0027-oci.md).
"""

from __future__ import annotations

import io
import ipaddress
import json
import logging
import os
import socket
import ssl
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from oras.auth.token import TokenAuth
from oras.container import Container
from requests.adapters import HTTPAdapter

from ..errors import EdgeQwenError, PackageNotThere, RemoteRefused, RemoteUnavailable, TransferError, printable
from .rate import Rate

CHUNK_BYTES = 64 << 10
MAX_ANSWER_BYTES = 2 << 20
"""Of what is no blob, such as a token or a document: more of it is left where it is."""

_BLOB_STATUSES = (200, 206)
_TIMEOUT_S = (15.0, 60.0)  # to connect, and between two bytes
_DOCKER_HUB, _DOCKER_HUB_API, _DOCKER_HUB_KEY = "docker.io", "registry-1.docker.io", "https://index.docker.io/v1/"

_WHO = "log in with docker, or give --username and --password-file"

logging.getLogger("oras").setLevel(logging.CRITICAL)  # what it has to say, our line says


@dataclass(frozen=True)
class Access:
    """How a registry is reached.

    Args:
        credentials: user name and password; None: what `auth_file` or Docker's configuration has for it.
        auth_file: as Docker's config.json.
        ca_file: certificates of authorities that are trusted beside the system's.
        proxy: for every request; None: what HTTPS_PROXY, HTTP_PROXY and NO_PROXY say.
        plain_http: without TLS; None: if the registry is on this machine.
        rate: that blobs come at; None: as fast as it goes.
    """

    credentials: tuple[str, str] | None = None
    auth_file: Path | None = None
    ca_file: Path | None = None
    proxy: str | None = None
    plain_http: bool | None = None
    rate: Rate | None = None


Response = requests.Response
Body = bytes | Callable[[], io.RawIOBase] | None
"""What a request carries. A function opens it once more when it has to be sent again."""


class Transport:
    """Requests to the registry `host`. Every method raises TransferError."""

    def __init__(self, host: str, access: Access) -> None:
        self.host = host
        self._access = access
        is_plain = is_loopback(host) if access.plain_http is None else access.plain_http
        self._base = f"{'http' if is_plain else 'https'}://{_DOCKER_HUB_API if host == _DOCKER_HUB else host}"
        self._session = _session(access, self._base)
        self._credentials: TokenAuth | None = None
        self._authorization: str | None = None

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        *,
        stream: bool = False,
    ) -> Response:
        """Asks for `url`, whole or from `/v2/` on, as whoever has to ask; what the answer is, its status says.

        Raises RemoteUnavailable if there is none.
        """
        with _in_words_of(self.host):
            response = self._send(method, url, headers, body, stream=stream)
            if response.status_code == 401 and self._authorize(response):
                response.close()
                response = self._send(method, url, headers, body, stream=stream)
            return response

    def streamed(self, response: Response) -> Generator[bytes]:
        """The body of a response to `stream`, some at a time. Raises RemoteUnavailable if it breaks off."""
        with _in_words_of(self.host), response:
            for chunk in response.raw.stream(CHUNK_BYTES, decode_content=False):
                if self._access.rate:
                    self._access.rate.take(len(chunk))
                yield chunk

    def error_of(self, response: Response, what: str) -> EdgeQwenError:
        """The error that `response`, which is not what was wanted, is of `what`."""
        status, said = response.status_code, _said(response)
        details = f"status {status}{f', {said}' if said else ''}"
        if status == 404:
            return PackageNotThere(f"there is no {what}{f' ({said})' if said else ''}")
        if status in (401, 403):
            is_known = self._authorization or self._access.credentials
            hint = "check user name and password" if is_known else _WHO
            return RemoteRefused(f"{self.host} does not let us have {what} ({details}): {hint}")
        if status == 429 or status >= 500:
            after = response.headers.get("Retry-After", "")
            waits_s = float(after) if after.isascii() and after.isdigit() and len(after) < 6 else None
            return RemoteUnavailable(f"{self.host} cannot answer now ({details})", waits_s)
        return TransferError(f"{self.host} does not take what was asked of {what} ({details})")

    def _send(self, method: str, url: str, headers: Mapping[str, str] | None, body: Body, *, stream: bool) -> Response:
        whole = urljoin(self._base, url)
        ours = urlsplit(whole).netloc == urlsplit(self._base).netloc  # an upload may go elsewhere: not our secrets
        own = {"Authorization": self._authorization} if self._authorization and ours else {}
        data = body() if callable(body) else body
        try:
            return self._session.request(method, whole, data=data, headers={**(headers or {}), **own}, stream=stream)
        finally:
            if isinstance(data, io.RawIOBase):
                data.close()

    def _authorize(self, response: Response) -> bool:
        """Whether there is another answer to a demand for authentication than what was sent."""
        before, challenge = self._authorization, response.headers.get("Www-Authenticate", "")
        try:
            if self._credentials is None:
                self._credentials = self._load_credentials()
            if challenge.lower().startswith("basic"):
                basic = getattr(self._credentials, "_basic_auth", None)
                self._authorization = f"Basic {basic}" if basic else None
            else:
                headers, _ = self._credentials.authenticate_request(response, {}, refresh=True)
                self._authorization = headers.get("Authorization")
        # of oras, on what it did not expect
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            if isinstance(error, requests.RequestException):
                raise
            raise RemoteRefused(
                f"{self.host} cannot be authenticated to: credentials or its token are unusable"
            ) from error
        return self._authorization not in (None, before)

    def _load_credentials(self) -> TokenAuth:
        found = TokenAuth()
        found.session, found.prefix, found._tls_verify = self._session, urlsplit(self._base).scheme, True
        if self._access.credentials is not None:
            found.set_basic_auth(*self._access.credentials)
        else:
            found._auth_config = _docker_config(self._access.auth_file)
            found.load_configs(
                Container("any/any", registry=_DOCKER_HUB_KEY if self.host == _DOCKER_HUB else self.host)
            )
        return found


def _docker_config(auth_file: Path | None) -> dict[str, Any]:
    """What Docker's configuration says of credentials, and `auth_file`, which counts more.

    oras would read them in any order. Raises TransferError and, if they say something else, AttributeError or
    ValueError.
    """
    folder = os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker"
    merged: dict[str, Any] = {"auths": {}, "credHelpers": {}, "credsStore": None}
    for path in (Path(folder) / "config.json", auth_file):
        if path is None or (path is not auth_file and not path.is_file()):
            continue
        try:
            said = json.loads(path.read_bytes())
        except OSError as error:
            raise TransferError(f"cannot read the credentials in {path} ({error.strerror})") from error
        merged["auths"] |= said.get("auths", {})
        merged["credHelpers"] |= said.get("credHelpers", {})
        merged["credsStore"] = said.get("credsStore") or merged["credsStore"]
    return merged


@contextmanager
def _in_words_of(host: str) -> Iterator[None]:
    """Turns what requests, urllib3 and the system raise in the block into TransferError."""
    try:
        yield
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise _in_words(error, host) from error


def _in_words(error: BaseException, host: str) -> TransferError:
    if isinstance(error, _PlainHttp):
        return TransferError(f"{error.url} would be asked without TLS: give --plain-http if that is as it should be")
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = cause.verify_message
            return TransferError(f"the certificate of {host} is not trusted ({why}): name its authority with --ca-file")
        if isinstance(cause, ssl.SSLError) and cause.reason == "WRONG_VERSION_NUMBER":
            return TransferError(f"{host} has no TLS: give --plain-http if that is as it should be")
    if isinstance(error, requests.exceptions.TooManyRedirects):
        return TransferError(f"{host} leads from one place to another without end")
    if isinstance(error, ValueError):  # of an address, in what was given or where a registry leads
        return TransferError(f"{host} cannot be asked: {printable(error)}")
    return RemoteUnavailable(f"{host} does not answer: {_reason(causes)}")


class _PlainHttp(requests.RequestException):
    """TLS was to be done without."""

    def __init__(self, url: str) -> None:
        self.url = url
        super().__init__(url)


class _Session(requests.Session):
    """Takes no secrets to where it is led, nor any of ~/.netrc."""

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: Response) -> None:
        if self.should_strip_auth(response.request.url or "", prepared_request.url or ""):
            prepared_request.headers.pop("Authorization", None)


class _Adapter(HTTPAdapter):
    """Trusts the system's authorities; has time-outs and a bound on answers; refuses to do without TLS.

    Args:
        plain_host: the only one that is spoken to without TLS; None: none is. Any port will do, for its tokens may
            come from another.
    """

    def __init__(self, context: ssl.SSLContext, plain_host: str | None) -> None:
        self._context, self._plain_host = context, plain_host
        super().__init__()

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **more: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, ssl_context=self._context, **more)

    def proxy_manager_for(self, proxy: str, **more: Any) -> Any:
        return super().proxy_manager_for(proxy, ssl_context=self._context, **more)

    def send(self, request: requests.PreparedRequest, stream: bool = False, *more: Any, **named: Any) -> Response:
        url = urlsplit(request.url or "")
        if url.scheme != "https" and url.hostname != self._plain_host:
            raise _PlainHttp(f"{url.scheme}://{url.netloc}")
        named["timeout"] = named.get("timeout") or _TIMEOUT_S
        response = super().send(request, stream, *more, **named)
        if not (stream and response.status_code in _BLOB_STATUSES):
            with response.raw as raw:
                response.raw = io.BytesIO(_at_most(raw.stream(CHUNK_BYTES, decode_content=False), MAX_ANSWER_BYTES))
        return response


def is_loopback(host: str) -> bool:
    """Whether HOST[:PORT] is this machine."""
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _session(access: Access, base: str) -> requests.Session:
    context = ssl.create_default_context()
    if access.ca_file is not None:
        try:
            context.load_verify_locations(access.ca_file)
        except OSError as error:
            raise TransferError(
                f"{access.ca_file} cannot be read as certificates: {error.strerror or error}"
            ) from error
    session = _Session()
    url = urlsplit(base)
    adapter = _Adapter(context, url.hostname if url.scheme == "http" else None)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    session.headers.update({"User-Agent": f"edgeqwen/{version('edgeqwen')}", "Accept-Encoding": "identity"})
    session.auth = lambda request: request  # or ~/.netrc would take the place of our token
    if access.proxy is not None:
        session.trust_env = False  # its proxies would come first
        session.proxies = {"http": access.proxy, "https": access.proxy}
    return session


def _at_most(chunks: Iterator[bytes], limit: int) -> bytes:
    content = bytearray()
    while len(content) < limit and (chunk := next(chunks, b"")):
        content += chunk
    return bytes(content)


def _said(response: Response) -> str:
    """What a registry says about an error (distribution specification, error codes); nothing if it does not."""
    try:
        message = json.loads(next(response.iter_content(CHUNK_BYTES), b""))["errors"][0]["message"]
    except (
        ValueError,
        LookupError,
        TypeError,
        RecursionError,
        requests.RequestException,
        urllib3.exceptions.HTTPError,
    ):
        return ""
    return printable(message)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """What led to an error, as requests and urllib3 wrap it: the outermost first."""
    waiting, seen = [error], set()
    while waiting:
        each = waiting.pop(0)
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            wrapped = (*each.args, getattr(each, "reason", None), each.__cause__, each.__context__)
            waiting += [it for it in wrapped if isinstance(it, BaseException)]


def _reason(causes: list[BaseException]) -> str:
    """In words, the innermost that there are."""
    for cause in reversed(causes):
        if isinstance(cause, socket.gaierror):
            return "its name is not known"
        if isinstance(cause, TimeoutError | urllib3.exceptions.TimeoutError):
            return "it is silent"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
        if isinstance(cause, OSError) and str(cause).startswith("Tunnel connection failed"):
            return f"the proxy says {str(cause).partition(': ')[2]}"
    return "the connection broke off"
