from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CheckStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CHECK_STATUS_UNSPECIFIED: _ClassVar[CheckStatus]
    CHECK_STATUS_OK: _ClassVar[CheckStatus]
    CHECK_STATUS_DEGRADED: _ClassVar[CheckStatus]
    CHECK_STATUS_FAILED: _ClassVar[CheckStatus]
CHECK_STATUS_UNSPECIFIED: CheckStatus
CHECK_STATUS_OK: CheckStatus
CHECK_STATUS_DEGRADED: CheckStatus
CHECK_STATUS_FAILED: CheckStatus

class GetHealthReportRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HealthReport(_message.Message):
    __slots__ = ("status", "checks", "time_unix_ms")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    TIME_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    status: CheckStatus
    checks: _containers.RepeatedCompositeFieldContainer[Check]
    time_unix_ms: int
    def __init__(self, status: _Optional[_Union[CheckStatus, str]] = ..., checks: _Optional[_Iterable[_Union[Check, _Mapping]]] = ..., time_unix_ms: _Optional[int] = ...) -> None: ...

class Check(_message.Message):
    __slots__ = ("name", "model", "status", "summary", "recommendation", "value", "bound", "unit")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    RECOMMENDATION_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    BOUND_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    name: str
    model: str
    status: CheckStatus
    summary: str
    recommendation: str
    value: float
    bound: float
    unit: str
    def __init__(self, name: _Optional[str] = ..., model: _Optional[str] = ..., status: _Optional[_Union[CheckStatus, str]] = ..., summary: _Optional[str] = ..., recommendation: _Optional[str] = ..., value: _Optional[float] = ..., bound: _Optional[float] = ..., unit: _Optional[str] = ...) -> None: ...
