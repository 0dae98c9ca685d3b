"""Every error that a user can meet, in one small tree. Each message is one sentence that says what to do next."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Fault:
    """One thing wrong with an input, and where: `memory.kv_bytes: must be > 0 (got -1)`."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class EdgeQwenError(Exception):
    """The root of the tree. `exit_code` is what a command exits with when this ends it."""

    exit_code = 1


class InvalidInput(EdgeQwenError):
    """Something from outside that can never work as it is; `faults` has every reason at once, sorted by path."""

    exit_code = 3

    def __init__(self, faults: Iterable[Fault], subject: str = "") -> None:
        self.faults = tuple(sorted(faults))
        self.subject = subject
        listed = "; ".join(map(str, self.faults))
        super().__init__(f"{subject}: {listed}" if subject else listed)


class ConfigError(InvalidInput):
    """The daemon's configuration cannot be used."""


class ProfileError(InvalidInput):
    """A device profile cannot be used."""


class PresetError(InvalidInput):
    """A file of prompt presets cannot be used."""


class MaterialError(InvalidInput):
    """The text or the questions that a package is to be evaluated on cannot be used."""


class RequestError(InvalidInput):
    """A request that can never succeed: gRPC INVALID_ARGUMENT."""


class PackageError(EdgeQwenError):
    """A package is missing, incomplete, or not for this device."""

    exit_code = 4


class PackageCorrupt(PackageError):
    """A file of the package is not what was built."""


class AdapterError(PackageError):
    """An adapter is damaged, or not for the package that it was given to."""


class SessionError(EdgeQwenError):
    """The model cannot be loaded or run by the execution provider that was asked for."""

    exit_code = 5


class AddressInUse(EdgeQwenError):
    """Another process listens where the daemon was told to."""

    exit_code = 6


class DeployError(EdgeQwenError):
    """The service cannot be placed, changed or looked at on this machine."""


class LocalSettingsError(EdgeQwenError):
    """What was measured on this board cannot be read or kept."""


class GrammarError(EdgeQwenError):
    """An answer cannot be held to its structure any longer."""


class SourceError(EdgeQwenError):
    """A checkpoint cannot be found or read."""

    exit_code = 7


class UnsupportedArchitecture(SourceError):
    """The checkpoint is readable, but not of an architecture that edgeqwen compiles."""


class BuildError(EdgeQwenError):
    """A step of the build failed."""

    exit_code = 8


class OutOfDisk(BuildError):
    """There is no room for what the build writes."""


class OutOfMemory(BuildError):
    """There is not enough memory for a step of the build."""


class BudgetError(EdgeQwenError):
    """No recipe keeps to the bytes or the divergence that were allowed, or no model to a board's memory and speed."""

    exit_code = 9


class ModelNotFound(EdgeQwenError):
    """No model or package of that name is here: gRPC NOT_FOUND."""


class NoRoom(EdgeQwenError):
    """A model does not fit into the memory that is left: gRPC FAILED_PRECONDITION."""


class Unavailable(EdgeQwenError):
    """The daemon cannot take the request now; another time it may: gRPC UNAVAILABLE."""


class QueueFull(Unavailable):
    """As many requests wait as may: gRPC RESOURCE_EXHAUSTED. `retry_after_s` estimates when a place is free."""

    def __init__(self, limit: int, retry_after_s: float) -> None:
        self.limit = limit
        self.retry_after_s = retry_after_s
        super().__init__(f"the queue is full ({limit} requests wait); try again in {retry_after_s:.1f} s")
