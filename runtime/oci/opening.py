"""From a reference to the places where its package is.

What speaks with registries is loaded for registries only: folders and sticks need no more than the runtime.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import TransferError
from .folder import FolderRemote
from .layout import LayoutRemote
from .rate import Rate
from .reference import FolderReference, LayoutReference, Reference, RegistryReference
from .settings import Settings
from .source import Source

if TYPE_CHECKING:
    from .transport import Transport


def open_source(reference: Reference, settings: Settings, note: Callable[[str], None] = lambda _: None) -> Source:
    """Where `reference` can be had: mirrors first, if it is in a registry. Nothing is asked yet.

    Args:
        note: is told, in one line, of whatever did not go as it should and did not end it.

    Raises TransferError if `settings` cannot be used.
    """
    if isinstance(reference, FolderReference):
        return Source([FolderRemote(reference)], note=note)
    if isinstance(reference, LayoutReference):
        return Source([LayoutRemote(reference)], note=note)
    from .registry import RegistryRemote

    rate = Rate(settings.bytes_per_s) if settings.bytes_per_s else None  # one for all
    remotes = [
        RegistryRemote(_transport(mirror.host, settings, None, mirror.plain_http, rate), mirror.of(reference))
        for mirror in settings.mirrors
    ]
    remotes.append(RegistryRemote(open_transport(reference, settings, rate), reference))
    return Source(remotes, reference.digest, settings.patience, note)


def open_transport(reference: RegistryReference, settings: Settings, rate: Rate | None = None) -> Transport:
    """To the registry that `reference` names. Raises TransferError if `settings` cannot be used."""
    return _transport(reference.host, settings, settings.credentials, settings.plain_http, rate)


def _transport(
    host: str,
    settings: Settings,
    credentials: tuple[str, str] | None,
    plain_http: bool | None,
    rate: Rate | None,
) -> Transport:
    """`plain_http`: None: as `settings` has it for `host`, else only on this machine."""
    try:
        from .transport import Access, Transport
    except ImportError as error:
        raise _not_installed(error) from error
    if plain_http is None and host in settings.plain_hosts:
        plain_http = True
    access = Access(credentials, settings.auth_file, settings.ca_file, settings.proxy, plain_http, rate)
    return Transport(host, access)


def _not_installed(error: ImportError) -> TransferError:
    return TransferError(f"a registry needs {error.name}, which is not installed: pip install 'edgeqwen[oci]'")
