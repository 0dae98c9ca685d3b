"""The folder of a device's packages, and the one file that says which of them serves.

FOLDER/state.json             the only truth: replaced by a rename, synced before and after
FOLDER/state.json.previous    what it was one change ago
FOLDER/lock                   whoever changes the state holds it
FOLDER/packages/              whole, verified packages of one variant each; nothing in them ever changes
FOLDER/incoming/              downloads under way, packages that are being put together, and what is being removed
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import StateUnusable, StoreError
from .disk import Disk, LocalDisk
from .state import Installed, State
from .state_file import decoded, encoded

STATE_FILE = "state.json"
PREVIOUS_FILE = "state.json.previous"
LOCK_FILE = "lock"
PACKAGES = "packages"
INCOMING = "incoming"

LOCK_WAIT_S = 30.0

Step = Callable[[State], State]
"""From a state to the next; the same one where nothing is to change."""


class Store:
    """The packages of a device. What cannot be read or written raises StoreError.

    Args:
        folder: such as /var/lib/edgeqwen/store; it need not be there yet.
        disk: what may change it; None: this machine's.
    """

    def __init__(self, folder: Path, disk: Disk | None = None) -> None:
        self.folder = folder
        self.disk: Disk = disk or LocalDisk.for_store(folder)

    @property
    def packages(self) -> Path:
        return self.folder / PACKAGES

    @property
    def incoming(self) -> Path:
        return self.folder / INCOMING

    def path(self, package: Installed) -> Path:
        """Where `package` is."""
        return self.packages / package.folder

    def read(self) -> State:
        """The state as it is; that of a device which never had a package where there is none. Raises StateUnusable."""
        path = self.folder / STATE_FILE
        try:
            return decoded(path.read_bytes())
        except FileNotFoundError:
            return State()
        except OSError as error:
            raise StoreError(f"cannot read {path} ({error.strerror}): run as root, or in the group edgeqwen") from error
        except ValueError as error:
            raise StateUnusable(f"{path} cannot be used: {error}") from error

    def open(self) -> State:
        """`read` for whoever is about to serve: what is damaged is put right first, if anything whole is here."""
        return self.read()

    def active(self) -> Path | None:
        """The package that serves, or will when the daemon starts."""
        package = self.read().active_package
        return self.path(package) if package else None

    def previous(self) -> Path | None:
        """The package that a rollback goes back to."""
        package = self.read().previous_package
        return self.path(package) if package else None

    def change(self, step: Step) -> State:
        """Takes `step`, on disk when this returns, and returns the state that it led to.

        Whenever the power fails, the state is the one before or the one after. Raises what `step` raises, StoreBusy and
        StateUnusable; then nothing has changed.
        """
        try:
            self._make_folders()
            with self.disk.lock(self.folder / LOCK_FILE, LOCK_WAIT_S):
                before = self.read()
                after = step(before)
                if after is not before:
                    self._publish(after)
                return after
        except OSError as error:
            raise self._cannot_write(error) from error

    def _publish(self, state: State) -> None:
        new, path = self.folder / f"{STATE_FILE}.new", self.folder / STATE_FILE
        self.disk.write(new, encoded(state))
        self.disk.fsync(new)
        self.disk.rename(new, path)
        self.disk.sync_dir(self.folder)

    def _make_folders(self) -> None:
        for path in (self.folder, self.packages, self.incoming):
            if not path.is_dir():
                self.disk.mkdir(path)
                self.disk.sync_dir(path.parent)

    def _cannot_write(self, error: OSError) -> StoreError:
        return StoreError(f"cannot write to {self.folder} ({error.strerror}): run as root or as the daemon's user")
