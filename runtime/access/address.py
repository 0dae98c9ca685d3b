"""Where the daemon listens: sockets that are made, taken over from the dead, and removed."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import AddressInUse, ConfigError, Fault
from .places import UNIX, host_and_port, is_loopback, max_public_bytes


class Address:
    """One place where the daemon listens: a unix socket for its owner and group only, or a TCP port."""

    def __init__(self, listen: str, *, off_loopback: bool = False) -> None:
        """Reads `unix:PATH` or `HOST:PORT`. Raises ConfigError for an address that is not allowed.

        Args:
            off_loopback: whether TCP ports may be open to other machines.
        """
        self._listen = listen
        self._path: Path | None = None
        self._file: tuple[int, int] | None = None  # device and inode of the socket that we made
        if listen.startswith(UNIX):
            self._path = Path(listen.removeprefix(UNIX))
            _require_room(self._path)
        else:
            _require_allowed(*host_and_port(listen), off_loopback=off_loopback)

    def require_free(self) -> None:
        """Raises AddressInUse if a process listens here, or ConfigError if something else is in the way."""
        if self._path is not None:
            _require_nobody(self._path)
            return
        host, port = host_and_port(self._listen)
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(address)
                except OSError as error:
                    self._refuse(error)

    def bind(self, add_port: Callable[[str], int]) -> str:
        """Binds by `add_port`, which takes the address and returns the port; returns the address with that port.

        Takes over a socket file that a dead daemon left. Raises as `require_free` does.
        """
        if self._path is None:
            self.require_free()
            port = self._add(add_port)
            return f"{self._listen.rpartition(':')[0]}:{port}"
        with _alone_in(self._path.parent):
            _require_nobody(self._path)
            self._remove_dead()
            mask = os.umask(0o117)
            try:
                self._add(add_port)
            finally:
                os.umask(mask)
            self._file = _identity(self._path)
        return self._listen

    def release(self) -> None:
        """Removes the socket file, unless it is another's."""
        if self._path is not None and self._file is not None:
            with _alone_in(self._path.parent):
                if _identity(self._path) == self._file:
                    self._path.unlink()

    def _remove_dead(self) -> None:
        assert self._path is not None
        try:
            self._path.unlink(missing_ok=True)
        except PermissionError as error:
            message = f"{self._path} was left by another user's daemon: let that user remove it"
            raise ConfigError([Fault("listen", message)]) from error

    def _add(self, add_port: Callable[[str], int]) -> int:
        try:
            return add_port(self._listen)
        except (OSError, RuntimeError) as error:  # gRPC does not say why
            raise AddressInUse(f"cannot listen at {self._listen}: is another process there?") from error

    def _refuse(self, error: OSError) -> None:
        """Other errors do not count: of all that `localhost` means, a machine may lack some."""
        if error.errno == errno.EADDRINUSE:
            raise _in_use(self._listen) from error
        if error.errno == errno.EACCES:
            message = f"this user may not listen at {self._listen}: choose a port above 1023"
            raise ConfigError([Fault("listen", message)]) from error


def _in_use(listen: str) -> AddressInUse:
    return AddressInUse(f"another process listens at {listen}: stop it, or choose another --listen")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Daemons that start together look and bind one after the other. gRPC would replace a live socket in silence."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _require_nobody(path: Path) -> None:
    """Raises unless nothing is at `path`, or a socket where nobody listens."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError([Fault("listen", f"{path} is there and is not a socket: remove it")])
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a daemon with a full backlog answers too, in its way
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except OSError:  # it lives, and is busy or another user's
            pass
    raise _in_use(f"{UNIX}{path}")


def _require_room(path: Path) -> None:
    """Raises ConfigError unless a socket can be made at `path`."""
    folder = path.parent
    if not folder.is_dir():
        raise ConfigError([Fault("listen", f"the folder {folder} does not exist: create it")])
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigError([Fault("listen", f"this user may not write to the folder {folder}: choose another")])
    if len(os.fsencode(path)) > max_public_bytes():
        message = f"the path is longer than the {max_public_bytes()} bytes that it can have: {path}"
        raise ConfigError([Fault("listen", message)])


def _require_allowed(host: str, port: int, *, off_loopback: bool) -> None:
    if not (off_loopback or is_loopback(host)):
        message = (
            f"must be a unix socket or a loopback address, as nothing protects {host} from others on the network:"
            " set `tls`, or `insecure: true` if they may read and send everything"
        )
        raise ConfigError([Fault("listen", message)])
    if port > 65535:
        raise ConfigError([Fault("listen", f"has no port above 65535 (got {port})")])
