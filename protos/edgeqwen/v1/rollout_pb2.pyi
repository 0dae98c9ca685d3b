from edgeqwen.v1 import health_pb2 as _health_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ActivationPhase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACTIVATION_PHASE_UNSPECIFIED: _ClassVar[ActivationPhase]
    ACTIVATION_PHASE_VERIFYING: _ClassVar[ActivationPhase]
    ACTIVATION_PHASE_WAITING: _ClassVar[ActivationPhase]
    ACTIVATION_PHASE_LOADING: _ClassVar[ActivationPhase]
    ACTIVATION_PHASE_CHECKING: _ClassVar[ActivationPhase]
    ACTIVATION_PHASE_DRAINING: _ClassVar[ActivationPhase]
    ACTIVATION_PHASE_DONE: _ClassVar[ActivationPhase]
ACTIVATION_PHASE_UNSPECIFIED: ActivationPhase
ACTIVATION_PHASE_VERIFYING: ActivationPhase
ACTIVATION_PHASE_WAITING: ActivationPhase
ACTIVATION_PHASE_LOADING: ActivationPhase
ACTIVATION_PHASE_CHECKING: ActivationPhase
ACTIVATION_PHASE_DRAINING: ActivationPhase
ACTIVATION_PHASE_DONE: ActivationPhase

class ActivateRequest(_message.Message):
    __slots__ = ("package", "allow_downgrade")
    PACKAGE_FIELD_NUMBER: _ClassVar[int]
    ALLOW_DOWNGRADE_FIELD_NUMBER: _ClassVar[int]
    package: str
    allow_downgrade: bool
    def __init__(self, package: _Optional[str] = ..., allow_downgrade: _Optional[bool] = ...) -> None: ...

class ActivateResponse(_message.Message):
    __slots__ = ("phase", "checks", "active", "changed")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    phase: ActivationPhase
    checks: _containers.RepeatedCompositeFieldContainer[_health_pb2.Check]
    active: InstalledPackage
    changed: bool
    def __init__(self, phase: _Optional[_Union[ActivationPhase, str]] = ..., checks: _Optional[_Iterable[_Union[_health_pb2.Check, _Mapping]]] = ..., active: _Optional[_Union[InstalledPackage, _Mapping]] = ..., changed: _Optional[bool] = ...) -> None: ...

class RollBackRequest(_message.Message):
    __slots__ = ("why",)
    WHY_FIELD_NUMBER: _ClassVar[int]
    why: str
    def __init__(self, why: _Optional[str] = ...) -> None: ...

class RollBackResponse(_message.Message):
    __slots__ = ("active", "changed")
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    active: InstalledPackage
    changed: bool
    def __init__(self, active: _Optional[_Union[InstalledPackage, _Mapping]] = ..., changed: _Optional[bool] = ...) -> None: ...

class CommitRequest(_message.Message):
    __slots__ = ("why",)
    WHY_FIELD_NUMBER: _ClassVar[int]
    why: str
    def __init__(self, why: _Optional[str] = ...) -> None: ...

class CommitResponse(_message.Message):
    __slots__ = ("active", "changed")
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    active: InstalledPackage
    changed: bool
    def __init__(self, active: _Optional[_Union[InstalledPackage, _Mapping]] = ..., changed: _Optional[bool] = ...) -> None: ...

class GetRolloutRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetRolloutResponse(_message.Message):
    __slots__ = ("active", "previous", "trial", "committed", "history")
    class CommittedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    active: InstalledPackage
    previous: InstalledPackage
    trial: Trial
    committed: _containers.ScalarMap[str, str]
    history: _containers.RepeatedCompositeFieldContainer[RolloutEvent]
    def __init__(self, active: _Optional[_Union[InstalledPackage, _Mapping]] = ..., previous: _Optional[_Union[InstalledPackage, _Mapping]] = ..., trial: _Optional[_Union[Trial, _Mapping]] = ..., committed: _Optional[_Mapping[str, str]] = ..., history: _Optional[_Iterable[_Union[RolloutEvent, _Mapping]]] = ...) -> None: ...

class InstalledPackage(_message.Message):
    __slots__ = ("folder", "name", "version", "variant", "digest", "signer", "slot")
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIGNER_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    folder: str
    name: str
    version: str
    variant: str
    digest: str
    signer: str
    slot: str
    def __init__(self, folder: _Optional[str] = ..., name: _Optional[str] = ..., version: _Optional[str] = ..., variant: _Optional[str] = ..., digest: _Optional[str] = ..., signer: _Optional[str] = ..., slot: _Optional[str] = ...) -> None: ...

class Trial(_message.Message):
    __slots__ = ("since_unix_ms", "starts", "healthy_s", "calls", "commit_after_s", "commit_after_calls", "fault")
    SINCE_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    STARTS_FIELD_NUMBER: _ClassVar[int]
    HEALTHY_S_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    COMMIT_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    COMMIT_AFTER_CALLS_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    since_unix_ms: int
    starts: int
    healthy_s: float
    calls: int
    commit_after_s: float
    commit_after_calls: int
    fault: str
    def __init__(self, since_unix_ms: _Optional[int] = ..., starts: _Optional[int] = ..., healthy_s: _Optional[float] = ..., calls: _Optional[int] = ..., commit_after_s: _Optional[float] = ..., commit_after_calls: _Optional[int] = ..., fault: _Optional[str] = ...) -> None: ...

class RolloutEvent(_message.Message):
    __slots__ = ("time_unix_ms", "event", "package", "version", "digest", "slot", "why", "by")
    TIME_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    PACKAGE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    time_unix_ms: int
    event: str
    package: str
    version: str
    digest: str
    slot: str
    why: str
    by: str
    def __init__(self, time_unix_ms: _Optional[int] = ..., event: _Optional[str] = ..., package: _Optional[str] = ..., version: _Optional[str] = ..., digest: _Optional[str] = ..., slot: _Optional[str] = ..., why: _Optional[str] = ..., by: _Optional[str] = ...) -> None: ...
