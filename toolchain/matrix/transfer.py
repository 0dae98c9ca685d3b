"""Fetches packages from workers that do not share the output folder.

Parts of a file come one after the other through the scheduler, which is all that has to be reachable, so no more than a
part is in memory. A package appears whole, once every digest was right.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from distributed import Client

from runtime.package import File

from ..cache import flush
from ..package import publish, scratch_folder
from .work import BuildDied
from .worker import discard, read_part

PART_BYTES = 8 << 20


def fetch(client: Client, address: str, root: Path, files: Mapping[str, File], out: Path) -> None:
    """The package that the worker at `address` has at `root` is in the folder `out` then, and not there any longer.

    Raises BuildDied if the worker is gone, or has something else than `files` says.
    """
    if address not in client.scheduler_info(n_workers=-1)["workers"]:
        raise BuildDied(f"{address} is gone, with the package that it had built")
    with scratch_folder(out, f".{root.name}-") as scratch:
        package = scratch / root.name
        for name, file in files.items():
            target = package / name
            target.parent.mkdir(parents=True, exist_ok=True)
            _fetch_file(client, address, root, name, file, target)
        for path in (package, *package.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        flush(package)
        publish(package, out / root.name)
    _ask(client, address, discard, root)


def _fetch_file(client: Client, address: str, root: Path, name: str, file: File, target: Path) -> None:
    digest = hashlib.sha256()
    with target.open("wb") as written:
        for offset in range(0, file.size_bytes, PART_BYTES):
            part = _ask(client, address, read_part, root, name, offset, min(PART_BYTES, file.size_bytes - offset))
            assert isinstance(part, bytes)
            digest.update(part)
            written.write(part)
    if digest.hexdigest() != file.sha256:
        raise BuildDied(f"{name} came from {address} with another digest than it had there")


def _ask(client: Client, address: str, function: object, *arguments: object) -> object:
    try:
        return client.run(function, *arguments, workers=[address])[address]
    except Exception as error:  # whatever a worker raises, or the loss of it
        raise BuildDied(f"{address} could not give its package away: {error}") from error
