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


_SHOWN_CHARS = 160


def printable(said: object) -> str:
    """What others wrote, so that it can be shown: one line, short, nothing that a terminal obeys."""
    line = one_line(" ".join(str(said).split()))
    return line if len(line) <= _SHOWN_CHARS else f"{line[: _SHOWN_CHARS - 3]}..."


def one_line(text: str) -> str:
    """A line in which nothing is obeyed by a terminal, whatever got into it."""
    return "".join(char if char.isprintable() else "?" for char in " ".join(text.splitlines()))


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


class MatrixError(InvalidInput):
    """A file of builds cannot be used."""


class MaterialError(InvalidInput):
    """The text or the questions that a package is to be evaluated on cannot be used."""


class RequestError(InvalidInput):
    """A request that can never succeed: gRPC INVALID_ARGUMENT."""


class PackageError(EdgeQwenError):
    """A package is missing, incomplete, or not for this device."""

    exit_code = 4


class PackageCorrupt(PackageError):
    """A file of the package is not what was built."""


class PackageUnreadable(PackageCorrupt):
    """A file of the package cannot be read now, as of a bad block or a disk that went: another attempt may."""

    exit_code = 1


class NotTrusted(EdgeQwenError):
    """A package is not signed, or by nobody whom this machine trusts: gRPC FAILED_PRECONDITION."""

    exit_code = 5


class AdapterError(PackageError):
    """An adapter is damaged, or not for the package that it was given to."""


class PackageNotInstalled(PackageError):
    """No package of that name is in the store."""


class StoreError(EdgeQwenError):
    """The packages of this device cannot be looked at or changed."""


class StateUnusable(StoreError):
    """What the store knows of itself is damaged."""


class StateNewer(StateUnusable):
    """What the store knows of itself was written by a newer edgeqwen, which nobody may guess at."""

    def __init__(self, have: int, known: int) -> None:
        super().__init__(f"the store's state has format {have} and this edgeqwen knows {known}: update edgeqwen")


class NothingToRollBackTo(StoreError):
    """The package that serves is the first."""


class DowngradeRefused(StoreError):
    """A version below the highest that was ever committed here."""

    exit_code = 6

    def __init__(self, name: str, version: str, highest: str) -> None:
        self.highest = highest
        super().__init__(
            f"{name} {version} is older than {highest}, which was committed here:"
            " say --allow-downgrade if that is as it should be"
        )


class NoStore(StoreError):
    """The daemon serves packages of its configuration, which no call changes."""


class StoreBusy(StoreError):
    """Somebody else changes the store now."""

    exit_code = 75


class ReferenceInvalid(EdgeQwenError):
    """What was given to say where a package is says nothing."""

    exit_code = 2


class PackageNotThere(PackageError):
    """A registry or a layout has no package or file of that name."""


class TransferError(EdgeQwenError):
    """A package cannot be fetched from where it is, or be put where it should be."""


class RemoteRefused(TransferError):
    """A registry wants to know who asks, or does not let whoever asks."""

    exit_code = 77


class RemoteUnavailable(TransferError):
    """A registry does not answer, or breaks off; another time it may answer.

    Args:
        retry_after_s: how long it asks to be left alone.
    """

    exit_code = 69

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class TransferInterrupted(TransferError):
    """Part of a package is there. The same again goes on from it."""

    exit_code = 75


class SessionError(EdgeQwenError):
    """The model cannot be loaded or run by the execution provider that was asked for."""

    exit_code = 5


class CanaryFailed(EdgeQwenError):
    """A package was tried and found wanting before any request went to it, or the one that served had to come back."""

    exit_code = 7


class StillOnTrial(EdgeQwenError):
    """A package serves and is neither kept nor rolled back yet: another time it will be."""

    exit_code = 75


class TooHot(EdgeQwenError):
    """The board is too hot to tell whether a package is as fast as it should be: another time it may not be."""

    exit_code = 75


class AddressInUse(EdgeQwenError):
    """Another process listens where the daemon was told to."""

    exit_code = 6


class DeployError(EdgeQwenError):
    """The service cannot be placed, changed or looked at on this machine."""


class LocalSettingsError(EdgeQwenError):
    """What was measured on this board cannot be read or kept."""


class SigningError(EdgeQwenError):
    """A package cannot be signed with what was given."""


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


class Exhausted(Unavailable):
    """Not now, but in `retry_after_s` seconds: gRPC RESOURCE_EXHAUSTED.

    Args:
        client: who has to wait.
        quota: what is used up, in words.
    """

    def __init__(self, message: str, client: str, quota: str, retry_after_s: float) -> None:
        self.client = client
        self.quota = quota
        self.retry_after_s = retry_after_s
        super().__init__(f"{message}; try again in {retry_after_s:.1f} s")


class QueueFull(Exhausted):
    """As many requests wait as may. `retry_after_s` estimates when a place is free.

    Args:
        gave_way: whether the request waited already, and had to leave for a client that has fewer.
    """

    def __init__(self, limit: int, retry_after_s: float, client: str = "", *, gave_way: bool = False) -> None:
        self.limit = limit
        full = f"the queue is full ({limit} requests wait)"
        message = f"{full} and most in it was this client's, so its newest made room" if gave_way else full
        super().__init__(message, client, f"queue_limit: {limit} requests of all clients may wait", retry_after_s)


_RATES = {
    "requests_per_minute": "requests a minute",
    "tokens_per_minute": "tokens a minute, of prompts and answers together",
    "concurrent_requests": "requests at once, those that wait included",
    "open_calls": "calls open at once, those that watch included",
}


class RateLimited(Exhausted):
    """A client has had what it may have for now. `limit` is the name of the setting, `most` its value."""

    def __init__(self, client: str, limit: str, most: int, retry_after_s: float) -> None:
        self.limit = limit
        allowed = f"{most} {_RATES[limit]}"
        super().__init__(f"{client or 'a client'} may have {allowed}", client, f"{limit}: {allowed}", retry_after_s)


class DeadlineTooShort(EdgeQwenError):
    """The deadline will have passed before a first token can be there: gRPC DEADLINE_EXCEEDED.

    Args:
        expected_s: until a first token, as things are.
        left_s: until the deadline.
    """

    def __init__(self, expected_s: float, left_s: float) -> None:
        super().__init__(
            f"a first token would take about {expected_s:.1f} s and the deadline is in {left_s:.1f} s;"
            " allow more time, or ask when less is waiting"
        )


class Unauthenticated(EdgeQwenError):
    """Nothing shows who calls: gRPC UNAUTHENTICATED. Never says what was wrong, as that helps who tries."""

    def __init__(self) -> None:
        super().__init__(
            "this daemon has to know who calls: send a bearer token or a client certificate that it accepts"
        )


class PermissionDenied(EdgeQwenError):
    """The caller may not do that: gRPC PERMISSION_DENIED. `role` is the one that it lacks, None if none would help."""

    def __init__(self, caller: str, role: str | None) -> None:
        self.caller = caller
        self.role = role
        wanted = f"needs the role {role}: its operator can give it under `clients`" if role else "is for nobody"
        super().__init__(f"{caller} may not do this, which {wanted}")
