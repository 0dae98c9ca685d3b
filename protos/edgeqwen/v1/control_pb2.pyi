from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PowerMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    POWER_MODE_UNSPECIFIED: _ClassVar[PowerMode]
    POWER_MODE_NORMAL: _ClassVar[PowerMode]
    POWER_MODE_LOW: _ClassVar[PowerMode]
POWER_MODE_UNSPECIFIED: PowerMode
POWER_MODE_NORMAL: PowerMode
POWER_MODE_LOW: PowerMode

class SetPowerModeRequest(_message.Message):
    __slots__ = ("mode",)
    MODE_FIELD_NUMBER: _ClassVar[int]
    mode: PowerMode
    def __init__(self, mode: _Optional[_Union[PowerMode, str]] = ...) -> None: ...

class SetPowerModeResponse(_message.Message):
    __slots__ = ("mode", "saving_power")
    MODE_FIELD_NUMBER: _ClassVar[int]
    SAVING_POWER_FIELD_NUMBER: _ClassVar[int]
    mode: PowerMode
    saving_power: str
    def __init__(self, mode: _Optional[_Union[PowerMode, str]] = ..., saving_power: _Optional[str] = ...) -> None: ...
