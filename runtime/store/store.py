"""The folder of a device's packages, and the one file that says which of them serves.

FOLDER/state.json             the only truth: replaced by a rename, synced before and after
FOLDER/state.json.previous    what it was one change ago, for when it cannot be read
FOLDER/state.json.damaged     what could not be read, for whoever wants to know why
FOLDER/lock                   whoever changes the state holds it
FOLDER/installing             whoever adds or removes packages holds it
FOLDER/serving                a daemon that serves from here holds it, or whoever changes what serves while none does
FOLDER/packages/              whole, verified packages of one variant each; nothing in them ever changes
FOLDER/incoming/              downloads under way, and packages that are being put together
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ..disk import Disk, LocalDisk
from ..errors import PackageCorrupt, PackageError, StateNewer, StateUnusable, StoreBusy, StoreError
from ..package import Package, file_digest
from .recovery import recovered
from .state import Cause, Installed, State, install, repaired
from .state_file import decoded, encoded
from .tree import below, remove_tree, sync_tree

STATE_FILE = "state.json"
PREVIOUS_FILE = "state.json.previous"
DAMAGED_FILE = "state.json.damaged"
LOCK_FILE = "lock"
INSTALLING_FILE = "installing"
SERVING_FILE = "serving"
PACKAGES = "packages"
INCOMING = "incoming"

LOCK_WAIT_S = 30.0
SERVING_WAIT_S = 2.0  # no longer: a daemon holds it for all its life, and others for a moment

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
        """The state as it is; that of a device which never had a package where there is none.

        Raises StateUnusable, and StateNewer where a newer edgeqwen wrote it.
        """
        path = self.folder / STATE_FILE
        try:
            return decoded(path.read_bytes())
        except FileNotFoundError as error:
            if not (self.folder / PREVIOUS_FILE).exists():
                return State()
            raise StateUnusable(_unusable(path, "it is gone")) from error
        except ValueError as error:
            raise StateUnusable(_unusable(path, str(error))) from error
        except OSError as error:
            if error.errno == errno.EIO:
                raise StateUnusable(_unusable(path, str(error.strerror))) from error
            raise StoreError(f"cannot read {path} ({error.strerror}): run as root, or in the group edgeqwen") from error

    def look(self) -> State:
        """`read`; of a damaged state what `open` would put it right to. Nothing is written."""
        try:
            return self.read()
        except StateNewer:
            raise
        except StateUnusable as error:
            return self._recovered(error)

    def open(self) -> State:
        """`read` for whoever is about to serve: what is damaged is put right first, if anything whole is here."""
        return self.change(lambda state: state)

    def active(self) -> Path | None:
        """The package that serves, or will when the daemon starts."""
        package = self.read().active_package
        return self.path(package) if package else None

    def previous(self) -> Path | None:
        """The package that a rollback goes back to."""
        package = self.read().previous_package
        return self.path(package) if package else None

    def require_way_back(self, state: State, *, verify: bool = True) -> None:
        """Raises PackageCorrupt if a rollback would go back to what is damaged: what it leaves keeps no slot.

        Args:
            verify: compares digests, too, for which all files are read.
        """
        package = state.previous_package
        if package is None:
            return
        try:
            Package.open(self.path(package), package.variant, verify=verify)
        except PackageError as error:
            raise PackageCorrupt(f"not rolled back, as {package} could not serve: {error}") from error

    def change(self, step: Step) -> State:
        """Takes `step`, on disk when this returns, and returns the state that it led to.

        Whenever the power fails, the state is the one before or the one after. A state that is damaged is put right
        first. Raises what `step` raises, StoreBusy and StateNewer; then nothing has changed.
        """
        return self.change_told(step)[0]

    def change_told(self, step: Step) -> tuple[State, bool]:
        """`change`, and whether there was anything to change."""
        try:
            self._make_folders()
            with self.disk.lock(self.folder / LOCK_FILE, LOCK_WAIT_S):
                before = self._whole()
                after = step(before)
                if after is not before:
                    self._publish(after)
                return after, after is not before
        except OSError as error:
            raise self.cannot_write(error) from error

    @contextmanager
    def installing(self) -> Iterator[None]:
        """For whoever puts a package into the store, or removes one: one at a time. Raises StoreBusy at once.

        Also what the disk refuses within becomes a StoreError.
        """
        try:
            self._make_folders()
            with self.disk.lock(self.folder / INSTALLING_FILE, 0):
                yield
        except OSError as error:
            raise self.cannot_write(error) from error

    @contextmanager
    def serving(self, wait_s: float = SERVING_WAIT_S) -> Iterator[None]:
        """For a daemon, from before it reads what to serve until its end, and for whoever changes that while none is
        there: what a daemon loads is then what the state says. Raises StoreBusy after `wait_s`."""
        with ExitStack() as held:
            try:
                self._make_folders()
                held.enter_context(self.disk.lock(self.folder / SERVING_FILE, wait_s))
            except StoreBusy as error:
                raise StoreBusy(
                    f"an edgeqwend has {self.folder} and does not answer here: try again if it starts or ends, else say"
                    " where it listens (--target)"
                ) from error
            except OSError as error:
                raise self.cannot_write(error) from error
            yield

    @property
    def is_served(self) -> bool:
        """Whether a daemon has it, be it at its start or its end."""
        if not (self.folder / SERVING_FILE).exists():
            return False
        try:
            with self.serving(0):
                return False
        except StoreBusy:
            return True

    def add(self, staged: Path, package: Installed, cause: Cause) -> State:
        """Takes in `staged`, a whole and verified package below `incoming`: it is on disk before the state names it.

        Of a package that is there, damaged files are replaced; what is in its place and in no record goes. Whoever
        calls this holds `installing`.
        """
        sync_tree(self.disk, staged)
        target = self.path(package)
        mended = False
        if package.folder in self.open().packages and target.is_dir():
            mended = self._mend(target, staged)
        else:
            if target.exists():
                self.discard(target)
            self.disk.rename(staged, target)
            self.disk.sync_dir(self.packages)
        self.disk.sync_dir(self.incoming)

        def step(state: State) -> State:
            after = install(state, package, cause)
            return repaired(after, package.folder, cause) if mended else after

        return self.change(step)

    def _mend(self, target: Path, staged: Path) -> bool:
        """Whether any file had to be replaced. One by one, as `target` may be in a slot: whenever the power fails, each
        is what it was or is good."""
        files = [path.relative_to(staged) for path, is_folder in below(staged) if not is_folder]
        damaged = [file for file in files if not _is_same(target / file, staged / file)]
        for file in damaged:
            for folder in reversed(file.parents):
                if not (target / folder).is_dir():
                    self.disk.mkdir(target / folder)
            self.disk.rename(staged / file, target / file)
        sync_tree(self.disk, target)
        self.discard(staged)
        return bool(damaged)

    def discard(self, path: Path) -> None:
        """Removes what is in `packages` or `incoming` and in no record. Whoever calls this holds `installing`."""
        remove_tree(self.disk, path)
        self.disk.sync_dir(path.parent)

    def cannot_write(self, error: OSError) -> StoreError:
        """`error`, which came from `disk`, in words."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return StoreError(f"the disk of {self.folder} is full: free some, or `edgeqwen collect --budget 0`")
        hint = "run as root or as the daemon's user"
        if error.errno in (errno.EROFS, errno.EIO):
            hint = "`dmesg` has why, unless the service may not write there: `edgeqwen service install` allows it"
        return StoreError(f"cannot write to {self.folder} ({error.strerror}): {hint}")

    def _whole(self) -> State:
        """The state, put right where it has to be."""
        try:
            return self.read()
        except StateNewer:
            raise
        except StateUnusable as error:
            state = self._recovered(error)
            self._publish(state, keep_as=DAMAGED_FILE)
            return state

    def _recovered(self, error: StateUnusable) -> State:
        return recovered(self._earlier(), self.packages, Cause(time.time(), "edgeqwen", str(error)))

    def _earlier(self) -> State | None:
        try:
            return decoded((self.folder / PREVIOUS_FILE).read_bytes())
        except (OSError, ValueError):
            return None

    def _publish(self, state: State, keep_as: str = PREVIOUS_FILE) -> None:
        """The file that `state` takes the place of stays under another name."""
        new, path, old = self.folder / f"{STATE_FILE}.new", self.folder / STATE_FILE, self.folder / keep_as
        self.disk.write(new, encoded(state))
        self.disk.fsync(new)
        if path.exists():
            if old.exists():
                self.disk.unlink(old)
            self.disk.link(path, old)
        self.disk.rename(new, path)
        self.disk.sync_dir(self.folder)

    def _make_folders(self) -> None:
        for path in (self.folder, self.packages, self.incoming):
            if not path.is_dir():
                self.disk.mkdir(path)
                self.disk.sync_dir(path.parent)


def _is_same(one: Path, other: Path) -> bool:
    """Whether both are names of one file, or files of one content."""
    if not one.is_file() or one.is_symlink():
        return False
    try:
        return one.samefile(other) or file_digest(one) == file_digest(other)
    except OSError:  # a bad block
        return False


def _unusable(path: Path, why: str) -> str:
    return f"{path} cannot be used ({why}): edgeqwend puts that right when it starts, and so does `edgeqwen install`"
