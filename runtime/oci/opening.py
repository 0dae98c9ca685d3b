"""From a reference to the places where its package is."""

from __future__ import annotations

from collections.abc import Callable

from .folder import FolderRemote
from .layout import LayoutRemote
from .reference import FolderReference, LayoutReference, Mirror, Reference, RegistryReference
from .registry import RegistryRemote
from .settings import Settings
from .source import Source
from .transport import Access, Transport


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
    remotes = [
        RegistryRemote(Transport(mirror.host, _access_of_mirror(mirror, settings)), mirror.of(reference))
        for mirror in settings.mirrors
    ]
    remotes.append(RegistryRemote(open_transport(reference, settings), reference))
    return Source(remotes, reference.digest, settings.patience, note)


def open_transport(reference: RegistryReference, settings: Settings) -> Transport:
    """To the registry that `reference` names. Raises TransferError if `settings` cannot be used."""
    plain = settings.plain_http
    if plain is None and reference.host in settings.plain_hosts:
        plain = True
    access = Access(settings.credentials, settings.auth_file, settings.ca_file, settings.proxy, plain)
    return Transport(reference.host, access)


def _access_of_mirror(mirror: Mirror, settings: Settings) -> Access:
    plain = True if mirror.plain_http is None and mirror.host in settings.plain_hosts else mirror.plain_http
    return Access(None, settings.auth_file, settings.ca_file, settings.proxy, plain)
