from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetSnapshotRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("interval_ms",)
    INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    interval_ms: int
    def __init__(self, interval_ms: _Optional[int] = ...) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ("time_unix_ms", "uptime_s", "models", "process", "machine", "energy", "rates_s", "clients", "warnings", "daemon_version", "served", "call_errors")
    TIME_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    ENERGY_FIELD_NUMBER: _ClassVar[int]
    RATES_S_FIELD_NUMBER: _ClassVar[int]
    CLIENTS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    DAEMON_VERSION_FIELD_NUMBER: _ClassVar[int]
    SERVED_FIELD_NUMBER: _ClassVar[int]
    CALL_ERRORS_FIELD_NUMBER: _ClassVar[int]
    time_unix_ms: int
    uptime_s: float
    models: _containers.RepeatedCompositeFieldContainer[LoadedModel]
    process: ProcessInfo
    machine: MachineInfo
    energy: Energy
    rates_s: float
    clients: _containers.RepeatedCompositeFieldContainer[ClientInfo]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    daemon_version: str
    served: ServedPackage
    call_errors: _containers.RepeatedCompositeFieldContainer[CallErrors]
    def __init__(self, time_unix_ms: _Optional[int] = ..., uptime_s: _Optional[float] = ..., models: _Optional[_Iterable[_Union[LoadedModel, _Mapping]]] = ..., process: _Optional[_Union[ProcessInfo, _Mapping]] = ..., machine: _Optional[_Union[MachineInfo, _Mapping]] = ..., energy: _Optional[_Union[Energy, _Mapping]] = ..., rates_s: _Optional[float] = ..., clients: _Optional[_Iterable[_Union[ClientInfo, _Mapping]]] = ..., warnings: _Optional[_Iterable[str]] = ..., daemon_version: _Optional[str] = ..., served: _Optional[_Union[ServedPackage, _Mapping]] = ..., call_errors: _Optional[_Iterable[_Union[CallErrors, _Mapping]]] = ...) -> None: ...

class CallErrors(_message.Message):
    __slots__ = ("method", "code", "total")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    method: str
    code: str
    total: int
    def __init__(self, method: _Optional[str] = ..., code: _Optional[str] = ..., total: _Optional[int] = ...) -> None: ...

class ServedPackage(_message.Message):
    __slots__ = ("model", "version", "slot", "trial", "rollbacks_total")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    ROLLBACKS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    slot: str
    trial: bool
    rollbacks_total: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., slot: _Optional[str] = ..., trial: _Optional[bool] = ..., rollbacks_total: _Optional[int] = ...) -> None: ...

class ClientInfo(_message.Message):
    __slots__ = ("name", "waiting", "running", "requests_total", "refused_total", "prompt_tokens_total", "completion_tokens_total", "limits")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    REFUSED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    name: str
    waiting: int
    running: int
    requests_total: int
    refused_total: int
    prompt_tokens_total: int
    completion_tokens_total: int
    limits: ClientLimits
    def __init__(self, name: _Optional[str] = ..., waiting: _Optional[int] = ..., running: _Optional[int] = ..., requests_total: _Optional[int] = ..., refused_total: _Optional[int] = ..., prompt_tokens_total: _Optional[int] = ..., completion_tokens_total: _Optional[int] = ..., limits: _Optional[_Union[ClientLimits, _Mapping]] = ...) -> None: ...

class ClientLimits(_message.Message):
    __slots__ = ("requests_per_minute", "tokens_per_minute", "concurrent_requests", "prompt_tokens", "output_tokens")
    REQUESTS_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    CONCURRENT_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    requests_per_minute: int
    tokens_per_minute: int
    concurrent_requests: int
    prompt_tokens: int
    output_tokens: int
    def __init__(self, requests_per_minute: _Optional[int] = ..., tokens_per_minute: _Optional[int] = ..., concurrent_requests: _Optional[int] = ..., prompt_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ...) -> None: ...

class Energy(_message.Message):
    __slots__ = ("watts", "covers", "joules", "counted_s", "joules_per_token", "window_s")
    WATTS_FIELD_NUMBER: _ClassVar[int]
    COVERS_FIELD_NUMBER: _ClassVar[int]
    JOULES_FIELD_NUMBER: _ClassVar[int]
    COUNTED_S_FIELD_NUMBER: _ClassVar[int]
    JOULES_PER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    WINDOW_S_FIELD_NUMBER: _ClassVar[int]
    watts: float
    covers: _containers.RepeatedScalarFieldContainer[str]
    joules: float
    counted_s: float
    joules_per_token: float
    window_s: float
    def __init__(self, watts: _Optional[float] = ..., covers: _Optional[_Iterable[str]] = ..., joules: _Optional[float] = ..., counted_s: _Optional[float] = ..., joules_per_token: _Optional[float] = ..., window_s: _Optional[float] = ...) -> None: ...

class LoadedModel(_message.Message):
    __slots__ = ("model", "engine")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    model: ModelInfo
    engine: EngineInfo
    def __init__(self, model: _Optional[_Union[ModelInfo, _Mapping]] = ..., engine: _Optional[_Union[EngineInfo, _Mapping]] = ...) -> None: ...

class ModelInfo(_message.Message):
    __slots__ = ("name", "variant", "precision", "provider_requested", "provider", "context_tokens", "weights_bytes", "build_digest", "presets", "prefill_threads", "decode_threads", "threads_from", "slots_from", "adapters", "package_version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_REQUESTED_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_BYTES_FIELD_NUMBER: _ClassVar[int]
    BUILD_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PRESETS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_THREADS_FIELD_NUMBER: _ClassVar[int]
    DECODE_THREADS_FIELD_NUMBER: _ClassVar[int]
    THREADS_FROM_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FROM_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    PACKAGE_VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    variant: str
    precision: str
    provider_requested: str
    provider: str
    context_tokens: int
    weights_bytes: int
    build_digest: str
    presets: _containers.RepeatedCompositeFieldContainer[PresetInfo]
    prefill_threads: int
    decode_threads: int
    threads_from: str
    slots_from: str
    adapters: _containers.RepeatedScalarFieldContainer[str]
    package_version: str
    def __init__(self, name: _Optional[str] = ..., variant: _Optional[str] = ..., precision: _Optional[str] = ..., provider_requested: _Optional[str] = ..., provider: _Optional[str] = ..., context_tokens: _Optional[int] = ..., weights_bytes: _Optional[int] = ..., build_digest: _Optional[str] = ..., presets: _Optional[_Iterable[_Union[PresetInfo, _Mapping]]] = ..., prefill_threads: _Optional[int] = ..., decode_threads: _Optional[int] = ..., threads_from: _Optional[str] = ..., slots_from: _Optional[str] = ..., adapters: _Optional[_Iterable[str]] = ..., package_version: _Optional[str] = ...) -> None: ...

class PresetInfo(_message.Message):
    __slots__ = ("name", "description", "values")
    class ValuesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    values: _containers.ScalarMap[str, str]
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ..., values: _Optional[_Mapping[str, str]] = ...) -> None: ...

class EngineInfo(_message.Message):
    __slots__ = ("queue_depth", "queue_limit", "running", "slots", "kv_used_tokens", "kv_reserved_tokens", "kv_budget_tokens", "kv_bytes_per_token", "kv_warm_tokens", "requests_total", "requests_finished_total", "requests_cancelled_total", "requests_rejected_total", "prompt_tokens_total", "cached_prompt_tokens_total", "completion_tokens_total", "guessed_tokens_total", "right_guesses_total", "steps_total", "window_s", "completion_tokens_per_second", "prompt_tokens_per_second", "time_to_first_token_p50_ms", "time_to_first_token_p95_ms", "last_step_age_ms", "draining", "time_per_token_p50_ms", "time_per_token_p95_ms", "decode_step_p50_ms", "failures_in_a_row", "throttle")
    QUEUE_DEPTH_FIELD_NUMBER: _ClassVar[int]
    QUEUE_LIMIT_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    KV_USED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    KV_RESERVED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    KV_BUDGET_TOKENS_FIELD_NUMBER: _ClassVar[int]
    KV_BYTES_PER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    KV_WARM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FINISHED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_CANCELLED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_REJECTED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    CACHED_PROMPT_TOKENS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    GUESSED_TOKENS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    RIGHT_GUESSES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    STEPS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    WINDOW_S_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    TIME_TO_FIRST_TOKEN_P50_MS_FIELD_NUMBER: _ClassVar[int]
    TIME_TO_FIRST_TOKEN_P95_MS_FIELD_NUMBER: _ClassVar[int]
    LAST_STEP_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    TIME_PER_TOKEN_P50_MS_FIELD_NUMBER: _ClassVar[int]
    TIME_PER_TOKEN_P95_MS_FIELD_NUMBER: _ClassVar[int]
    DECODE_STEP_P50_MS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_IN_A_ROW_FIELD_NUMBER: _ClassVar[int]
    THROTTLE_FIELD_NUMBER: _ClassVar[int]
    queue_depth: int
    queue_limit: int
    running: int
    slots: int
    kv_used_tokens: int
    kv_reserved_tokens: int
    kv_budget_tokens: int
    kv_bytes_per_token: int
    kv_warm_tokens: int
    requests_total: int
    requests_finished_total: int
    requests_cancelled_total: int
    requests_rejected_total: int
    prompt_tokens_total: int
    cached_prompt_tokens_total: int
    completion_tokens_total: int
    guessed_tokens_total: int
    right_guesses_total: int
    steps_total: int
    window_s: float
    completion_tokens_per_second: float
    prompt_tokens_per_second: float
    time_to_first_token_p50_ms: float
    time_to_first_token_p95_ms: float
    last_step_age_ms: float
    draining: bool
    time_per_token_p50_ms: float
    time_per_token_p95_ms: float
    decode_step_p50_ms: float
    failures_in_a_row: int
    throttle: Throttle
    def __init__(self, queue_depth: _Optional[int] = ..., queue_limit: _Optional[int] = ..., running: _Optional[int] = ..., slots: _Optional[int] = ..., kv_used_tokens: _Optional[int] = ..., kv_reserved_tokens: _Optional[int] = ..., kv_budget_tokens: _Optional[int] = ..., kv_bytes_per_token: _Optional[int] = ..., kv_warm_tokens: _Optional[int] = ..., requests_total: _Optional[int] = ..., requests_finished_total: _Optional[int] = ..., requests_cancelled_total: _Optional[int] = ..., requests_rejected_total: _Optional[int] = ..., prompt_tokens_total: _Optional[int] = ..., cached_prompt_tokens_total: _Optional[int] = ..., completion_tokens_total: _Optional[int] = ..., guessed_tokens_total: _Optional[int] = ..., right_guesses_total: _Optional[int] = ..., steps_total: _Optional[int] = ..., window_s: _Optional[float] = ..., completion_tokens_per_second: _Optional[float] = ..., prompt_tokens_per_second: _Optional[float] = ..., time_to_first_token_p50_ms: _Optional[float] = ..., time_to_first_token_p95_ms: _Optional[float] = ..., last_step_age_ms: _Optional[float] = ..., draining: _Optional[bool] = ..., time_per_token_p50_ms: _Optional[float] = ..., time_per_token_p95_ms: _Optional[float] = ..., decode_step_p50_ms: _Optional[float] = ..., failures_in_a_row: _Optional[int] = ..., throttle: _Optional[_Union[Throttle, _Mapping]] = ...) -> None: ...

class Throttle(_message.Message):
    __slots__ = ("level", "reason", "rows", "threads", "share")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    level: int
    reason: str
    rows: int
    threads: int
    share: float
    def __init__(self, level: _Optional[int] = ..., reason: _Optional[str] = ..., rows: _Optional[int] = ..., threads: _Optional[int] = ..., share: _Optional[float] = ...) -> None: ...

class ProcessInfo(_message.Message):
    __slots__ = ("pid", "rss_bytes", "cpu_cores", "threads", "open_files")
    PID_FIELD_NUMBER: _ClassVar[int]
    RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    CPU_CORES_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    OPEN_FILES_FIELD_NUMBER: _ClassVar[int]
    pid: int
    rss_bytes: int
    cpu_cores: float
    threads: int
    open_files: int
    def __init__(self, pid: _Optional[int] = ..., rss_bytes: _Optional[int] = ..., cpu_cores: _Optional[float] = ..., threads: _Optional[int] = ..., open_files: _Optional[int] = ...) -> None: ...

class MachineInfo(_message.Message):
    __slots__ = ("cores", "cpu_busy", "memory_total_bytes", "memory_available_bytes", "temperatures", "load_1m", "cpu_cores", "swap_total_bytes", "swap_free_bytes", "memory_pressure", "cpu_pressure", "io_pressure", "throttling", "gpus", "rails", "disks", "network")
    CORES_FIELD_NUMBER: _ClassVar[int]
    CPU_BUSY_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_AVAILABLE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURES_FIELD_NUMBER: _ClassVar[int]
    LOAD_1M_FIELD_NUMBER: _ClassVar[int]
    CPU_CORES_FIELD_NUMBER: _ClassVar[int]
    SWAP_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    SWAP_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_PRESSURE_FIELD_NUMBER: _ClassVar[int]
    CPU_PRESSURE_FIELD_NUMBER: _ClassVar[int]
    IO_PRESSURE_FIELD_NUMBER: _ClassVar[int]
    THROTTLING_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    RAILS_FIELD_NUMBER: _ClassVar[int]
    DISKS_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    cores: int
    cpu_busy: float
    memory_total_bytes: int
    memory_available_bytes: int
    temperatures: _containers.RepeatedCompositeFieldContainer[Temperature]
    load_1m: float
    cpu_cores: _containers.RepeatedCompositeFieldContainer[CpuCore]
    swap_total_bytes: int
    swap_free_bytes: int
    memory_pressure: Pressure
    cpu_pressure: Pressure
    io_pressure: Pressure
    throttling: Throttling
    gpus: _containers.RepeatedCompositeFieldContainer[Gpu]
    rails: _containers.RepeatedCompositeFieldContainer[Rail]
    disks: _containers.RepeatedCompositeFieldContainer[Disk]
    network: _containers.RepeatedCompositeFieldContainer[NetworkInterface]
    def __init__(self, cores: _Optional[int] = ..., cpu_busy: _Optional[float] = ..., memory_total_bytes: _Optional[int] = ..., memory_available_bytes: _Optional[int] = ..., temperatures: _Optional[_Iterable[_Union[Temperature, _Mapping]]] = ..., load_1m: _Optional[float] = ..., cpu_cores: _Optional[_Iterable[_Union[CpuCore, _Mapping]]] = ..., swap_total_bytes: _Optional[int] = ..., swap_free_bytes: _Optional[int] = ..., memory_pressure: _Optional[_Union[Pressure, _Mapping]] = ..., cpu_pressure: _Optional[_Union[Pressure, _Mapping]] = ..., io_pressure: _Optional[_Union[Pressure, _Mapping]] = ..., throttling: _Optional[_Union[Throttling, _Mapping]] = ..., gpus: _Optional[_Iterable[_Union[Gpu, _Mapping]]] = ..., rails: _Optional[_Iterable[_Union[Rail, _Mapping]]] = ..., disks: _Optional[_Iterable[_Union[Disk, _Mapping]]] = ..., network: _Optional[_Iterable[_Union[NetworkInterface, _Mapping]]] = ...) -> None: ...

class Temperature(_message.Message):
    __slots__ = ("sensor", "celsius")
    SENSOR_FIELD_NUMBER: _ClassVar[int]
    CELSIUS_FIELD_NUMBER: _ClassVar[int]
    sensor: str
    celsius: float
    def __init__(self, sensor: _Optional[str] = ..., celsius: _Optional[float] = ...) -> None: ...

class CpuCore(_message.Message):
    __slots__ = ("number", "busy", "frequency_hz", "max_frequency_hz")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    BUSY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_HZ_FIELD_NUMBER: _ClassVar[int]
    MAX_FREQUENCY_HZ_FIELD_NUMBER: _ClassVar[int]
    number: int
    busy: float
    frequency_hz: int
    max_frequency_hz: int
    def __init__(self, number: _Optional[int] = ..., busy: _Optional[float] = ..., frequency_hz: _Optional[int] = ..., max_frequency_hz: _Optional[int] = ...) -> None: ...

class Pressure(_message.Message):
    __slots__ = ("some_avg10", "some_avg60", "full_avg10", "full_avg60")
    SOME_AVG10_FIELD_NUMBER: _ClassVar[int]
    SOME_AVG60_FIELD_NUMBER: _ClassVar[int]
    FULL_AVG10_FIELD_NUMBER: _ClassVar[int]
    FULL_AVG60_FIELD_NUMBER: _ClassVar[int]
    some_avg10: float
    some_avg60: float
    full_avg10: float
    full_avg60: float
    def __init__(self, some_avg10: _Optional[float] = ..., some_avg60: _Optional[float] = ..., full_avg10: _Optional[float] = ..., full_avg60: _Optional[float] = ...) -> None: ...

class Throttling(_message.Message):
    __slots__ = ("reasons",)
    REASONS_FIELD_NUMBER: _ClassVar[int]
    reasons: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, reasons: _Optional[_Iterable[str]] = ...) -> None: ...

class Gpu(_message.Message):
    __slots__ = ("name", "busy", "frequency_hz", "memory_used_bytes", "memory_total_bytes", "celsius", "watts")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BUSY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_HZ_FIELD_NUMBER: _ClassVar[int]
    MEMORY_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    CELSIUS_FIELD_NUMBER: _ClassVar[int]
    WATTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    busy: float
    frequency_hz: int
    memory_used_bytes: int
    memory_total_bytes: int
    celsius: float
    watts: float
    def __init__(self, name: _Optional[str] = ..., busy: _Optional[float] = ..., frequency_hz: _Optional[int] = ..., memory_used_bytes: _Optional[int] = ..., memory_total_bytes: _Optional[int] = ..., celsius: _Optional[float] = ..., watts: _Optional[float] = ...) -> None: ...

class Rail(_message.Message):
    __slots__ = ("name", "watts")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WATTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    watts: float
    def __init__(self, name: _Optional[str] = ..., watts: _Optional[float] = ...) -> None: ...

class Disk(_message.Message):
    __slots__ = ("folder", "total_bytes", "free_bytes", "read_bytes_per_second", "written_bytes_per_second")
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    READ_BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    folder: str
    total_bytes: int
    free_bytes: int
    read_bytes_per_second: float
    written_bytes_per_second: float
    def __init__(self, folder: _Optional[str] = ..., total_bytes: _Optional[int] = ..., free_bytes: _Optional[int] = ..., read_bytes_per_second: _Optional[float] = ..., written_bytes_per_second: _Optional[float] = ...) -> None: ...

class NetworkInterface(_message.Message):
    __slots__ = ("name", "received_bytes", "sent_bytes", "received_bytes_per_second", "sent_bytes_per_second")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    name: str
    received_bytes: int
    sent_bytes: int
    received_bytes_per_second: float
    sent_bytes_per_second: float
    def __init__(self, name: _Optional[str] = ..., received_bytes: _Optional[int] = ..., sent_bytes: _Optional[int] = ..., received_bytes_per_second: _Optional[float] = ..., sent_bytes_per_second: _Optional[float] = ...) -> None: ...
