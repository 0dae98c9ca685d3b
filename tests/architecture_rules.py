"""The rules of docs/architecture.md as data.

A module that is in no rule is a violation: whoever adds one decides where it stands and what it may open.
"""

from __future__ import annotations

# Each row may import the rows below it, in the same package; modules of one row do not know each other. A package in
# another stands there in a row, and has rows of its own.
LAYERS = {
    "runtime": (
        "daemon commands detect_command token_command deploy",
        "lifecycle",
        "kserve http",
        "api",
        "telemetry health metrics otel",
        "bench",
        "models",
        "requests",
        "configuration",
        "engine",
        "sessions",
        "board",
        "access",
        "footprint presets",
        "package",
        "profile",
        "validation",
        "logs memory_limits",
        "sensing",
        "memory pressure outlet notify fingerprint",
        "errors",
    ),
    "runtime.access": (
        "entrance address",
        "gate",
        "relay rules certificates",
        "methods pair",
        "caller tokens seldom places group",
        "clients",
        "limits",
    ),
    "runtime.api": (
        "models_service health_report control reflection",
        "service telemetry wellformed",
        "generator",
        "replies open_calls",
    ),
    "runtime.bench": (
        "measuring",
        "bench autotune",
    ),
    "runtime.board": (
        "localsettings",
        "tuning",
        "detect",
        "machine cpu",
    ),
    "runtime.configuration": (
        "settings",
        "config",
        "limit_config",
        "access_settings",
        "otel_settings",
    ),
    "runtime.deploy": (
        "command",
        "apply expectation manager status",
        "plan",
        "target",
    ),
    "runtime.engine": (
        "engine grammar",
        "live lowering",
        "completion",
        "turn_text lateness",
        "scheduler sampler tokenizer stop request_meter",
        "kvcache observer fairqueue",
        "sequence stats speculation",
        "turn",
        "structure histogram",
        "throttle progress",
        "pace",
    ),
    "runtime.health": (
        "caretaker",
        "health",
        "governor checks",
        "battery",
    ),
    "runtime.http": (
        "listener",
        "app callers",
        "exchange",
        "failures",
        "asking answers",
        "schemas",
    ),
    "runtime.kserve": (
        "service",
        "asking",
        "tensors",
    ),
    "runtime.lifecycle": (
        "running",
        "assembly listening",
        "services observability",
        "check supervision",
        "watchdog",
        "reload",
        "startup",
    ),
    "runtime.metrics": (
        "between families server",
        "machine_families",
        "building exposition",
    ),
    "runtime.models": (
        "registry",
        "model",
        "repository",
        "loading pressure_watch",
        "expectation",
    ),
    "runtime.otel": (
        "pipeline",
        "recorder interceptor",
        "instruments delivery context",
    ),
    "runtime.requests": (
        "reader chat_json",
        "conversations",
        "chat",
        "strict_json fields",
    ),
    "runtime.sensing": (
        "rates",
        "board",
        "disk gpu memory network power processor temperature throttle",
        "hwmon nvml",
        "files",
    ),
    "runtime.sessions": (
        "openvino_session",
        "openvino_paged openvino_stateful",
        "openvino_device ort_session plain_session cuda_session qnn_pipeline",
        "static_session",
        "session",
        "adapters inference",
    ),
    "runtime.telemetry": (
        "messages",
        "snapshots",
    ),
    "toolchain": (
        "cli",
        "build doctor sweep_command evaluate_command advise_command",
        "sweep_report",
        "sweep",
        "openvino_variant optimum_variant ort_variant qnn_variant report_page",
        "evaluation report_plots",
        "report scoring stages budget_options",
        "activations evaluate float_reference material budget advise",
        "answers choices divergence fidelity_gate heldout loops structured",
        "models",
        "package",
        "host",
        "variant",
        "compile",
        "adapters",
        "surgery",
        "calibrate kvscales",
        "openvino_recipe optimum_recipe recipe_qnn sources sizes",
        "recipe",
        "fisher_mixed_precision ordered_gptq rotary_tables smooth_activations",
        "smoothing",
        "candidates presets tables",
        "cache",
        "progress exhaustion weights context",
        "olive_environment requirements",
    ),
    "edgeqwen": (
        "cli",
        "flags batch status watch health_command",
        "client printing watch_view",
        "observing operations",
        "requests retrying newest history",
        "messages connection",
        "errors",
    ),
}

# What else of this project a module may import: dotted prefixes, by pattern of the importing module.
ACROSS = {
    "toolchain.*": (
        "runtime.profile",
        "runtime.package",
        "runtime.presets",
        "runtime.footprint",
        "runtime.errors",
    ),
    "toolchain.calibrate": (
        "runtime.sessions.ort_session",
        "runtime.engine.sampler",
        "runtime.engine.sequence",
        "runtime.sessions.session",
    ),
    "toolchain.adapters": ("runtime.sessions.adapters",),
    "toolchain.openvino_variant": ("runtime.sessions.openvino_session",),
    "toolchain.optimum_variant": ("runtime.sessions.plain_session",),
    "toolchain.ort_variant": ("runtime.sessions.adapters",),
    "toolchain.activations": ("runtime.sessions.qnn_pipeline",),
    "toolchain.qnn_variant": (
        "runtime.sessions.qnn_pipeline",
        "runtime.sessions.session",
        "runtime.sessions.static_session",
    ),
    "toolchain.answers": (
        "runtime.requests.chat",
        "runtime.engine.engine",
        "runtime.engine.sequence",
        "runtime.sessions.session",
        "runtime.engine.structure",
        "runtime.engine.tokenizer",
        "runtime.engine.turn",
    ),
    "toolchain.choices": ("runtime.engine.tokenizer",),
    "toolchain.evaluation": (
        "runtime.engine.grammar",
        "runtime.models.loading",
        "runtime.sessions.session",
        "runtime.configuration.settings",
        "runtime.engine.speculation",
        "runtime.engine.tokenizer",
    ),
    "toolchain.report": ("runtime.engine.tokenizer",),
    "toolchain.scoring": ("runtime.sessions.session",),
    "toolchain.stages": ("runtime.sessions.session",),
    "toolchain.sweep": ("runtime.sessions.session",),
    "toolchain.structured": (
        "runtime.engine.grammar",
        "runtime.engine.tokenizer",
    ),
    "toolchain.evaluate": (
        "runtime.sessions.adapters",
        "runtime.sessions.cuda_session",
        "runtime.sessions.inference",
        "runtime.sessions.ort_session",
        "runtime.sessions.session",
    ),
    "toolchain.kvscales": (
        "runtime.sessions.cuda_session",
        "runtime.sessions.ort_session",
        "runtime.sessions.session",
    ),
    "toolchain.surgery": ("runtime.sessions.adapters",),
    "runtime.requests.conversations": ("edgeqwen.v1",),
    "runtime.api.generator": ("edgeqwen.v1",),
    "runtime.api.replies": ("edgeqwen.v1",),
    "runtime.requests.reader": ("edgeqwen.v1",),
    "runtime.metrics.between": ("edgeqwen.v1",),
    "runtime.metrics.families": ("edgeqwen.v1",),
    "runtime.metrics.machine_families": ("edgeqwen.v1",),
    "runtime.api.models_service": ("edgeqwen.v1",),
    "runtime.lifecycle.observability": ("edgeqwen.v1",),
    "runtime.api.service": ("edgeqwen.v1",),
    "runtime.telemetry.messages": ("edgeqwen.v1",),
    "runtime.api.telemetry": ("edgeqwen.v1",),
    "runtime.requests.chat_json": ("edgeqwen.v1",),
    "runtime.api.control": ("edgeqwen.v1",),
    "runtime.api.health_report": ("edgeqwen.v1",),
    "runtime.http.*": ("edgeqwen.v1",),
    "runtime.kserve.*": (
        "edgeqwen.v1",
        "edgeqwen.kserve",
    ),
    "runtime.api.reflection": ("edgeqwen.kserve",),
    "runtime.lifecycle.services": (
        "edgeqwen.v1",
        "edgeqwen.kserve",
    ),
    "edgeqwen.*": ("edgeqwen.v1",),
}

# Third-party libraries by import name, and the modules that may open each. Any other is refused.
DOORS = {
    "click": "runtime.commands runtime.daemon runtime.deploy.command runtime.detect_command runtime.token_command"
    " toolchain.advise_command toolchain.budget_options toolchain.cli toolchain.evaluate_command"
    " toolchain.sweep_command edgeqwen.batch edgeqwen.cli edgeqwen.flags edgeqwen.health_command edgeqwen.printing"
    " edgeqwen.status edgeqwen.watch",
    "gguf": "toolchain.sources",
    "google.protobuf": "runtime.api.reflection runtime.api.replies runtime.api.wellformed runtime.requests.fields"
    " edgeqwen.status edgeqwen.watch",
    "google.rpc": "runtime.api.replies runtime.http.failures edgeqwen.errors",
    "grpc": "runtime.access.certificates runtime.access.entrance runtime.access.gate runtime.api.control"
    " runtime.api.health_report runtime.api.models_service runtime.api.open_calls runtime.api.reflection"
    " runtime.api.replies runtime.api.service runtime.api.telemetry runtime.api.wellformed runtime.health.health"
    " runtime.kserve.service runtime.lifecycle.observability runtime.lifecycle.services runtime.otel.interceptor"
    " edgeqwen.client edgeqwen.connection edgeqwen.errors edgeqwen.operations",
    "grpc_health": "runtime.health.health edgeqwen.client",
    "grpc_reflection": "runtime.api.reflection",
    "grpc_status": "runtime.api.replies",
    "h11": "runtime.metrics.server",
    "huggingface_hub": "toolchain.sources",
    "jinja2": "runtime.requests.chat",
    "llguidance": "runtime.engine.grammar",
    "matplotlib": "toolchain.report_plots toolchain.sweep_report",
    "numpy": "runtime.engine.completion runtime.engine.grammar runtime.engine.sampler runtime.engine.structure"
    " runtime.engine.turn runtime.sessions.adapters runtime.sessions.cuda_session runtime.sessions.openvino_device"
    " runtime.sessions.openvino_paged runtime.sessions.openvino_stateful runtime.sessions.ort_session"
    " runtime.sessions.plain_session runtime.sessions.qnn_pipeline runtime.sessions.session"
    " runtime.sessions.static_session toolchain.activations toolchain.adapters toolchain.choices"
    " toolchain.divergence toolchain.evaluate toolchain.float_reference toolchain.kvscales toolchain.report"
    " toolchain.report_plots toolchain.rotary_tables toolchain.scoring toolchain.smooth_activations"
    " toolchain.smoothing toolchain.weights",
    "olive": "toolchain.compile toolchain.fisher_mixed_precision toolchain.olive_environment toolchain.ordered_gptq"
    " toolchain.rotary_tables toolchain.smooth_activations",
    "onnx": "toolchain.activations toolchain.qnn_variant toolchain.rotary_tables toolchain.surgery",
    "onnxruntime": "runtime.sessions.adapters runtime.sessions.cuda_session runtime.sessions.inference"
    " runtime.sessions.ort_session runtime.sessions.plain_session runtime.sessions.qnn_pipeline"
    " toolchain.activations",
    "onnxruntime_qnn": "runtime.sessions.qnn_pipeline",
    "opentelemetry": "runtime.otel.delivery runtime.otel.instruments runtime.otel.pipeline runtime.otel.recorder",
    "openvino": "runtime.sessions.openvino_device runtime.sessions.openvino_paged runtime.sessions.openvino_stateful",
    "packaging": "toolchain.doctor",
    "peft": "toolchain.adapters toolchain.float_reference",
    "prometheus_client": "runtime.lifecycle.observability runtime.metrics.building runtime.metrics.exposition"
    " runtime.metrics.families runtime.metrics.machine_families",
    "psutil": "runtime.telemetry.snapshots",
    "pynvml": "runtime.sensing.nvml",
    "pydantic": "runtime.board.localsettings runtime.configuration.access_settings runtime.configuration.config"
    " runtime.configuration.limit_config runtime.configuration.otel_settings runtime.http.schemas runtime.package"
    " runtime.presets runtime.profile runtime.requests.chat_json runtime.validation toolchain.cli",
    "rich": "runtime.commands toolchain.advise_command toolchain.cli toolchain.evaluate_command toolchain.progress"
    " toolchain.sweep_report toolchain.tables edgeqwen.status edgeqwen.watch edgeqwen.watch_view",
    "safetensors": "toolchain.adapters toolchain.weights",
    "starlette": "runtime.http.app runtime.http.callers runtime.http.exchange",
    "structlog": "runtime.access.certificates runtime.access.entrance runtime.access.gate runtime.access.group"
    " runtime.access.relay runtime.api.generator runtime.api.models_service runtime.api.service"
    " runtime.health.caretaker runtime.http.callers runtime.http.listener runtime.lifecycle.observability"
    " runtime.lifecycle.running runtime.lifecycle.supervision runtime.logs runtime.metrics.server"
    " runtime.models.model runtime.models.pressure_watch runtime.models.registry runtime.otel.delivery"
    " runtime.otel.pipeline",
    "tokenizers": "runtime.engine.tokenizer toolchain.evaluate toolchain.kvscales toolchain.sources",
    "torch": "toolchain.adapters toolchain.divergence toolchain.evaluate toolchain.fisher_mixed_precision"
    " toolchain.float_reference toolchain.ordered_gptq toolchain.rotary_tables toolchain.smooth_activations"
    " toolchain.sources",
    "tqdm": "toolchain.fisher_mixed_precision toolchain.smooth_activations",
    "transformers": "toolchain.adapters toolchain.calibrate toolchain.evaluate toolchain.float_reference"
    " toolchain.sources",
    "uvicorn": "runtime.http.listener",
    "yaml": "runtime.configuration.config runtime.profile toolchain.calibrate toolchain.cli toolchain.models"
    " toolchain.presets toolchain.structured",
}

# No I/O, no clock, no thread: these see each other and what is listed, nothing else of Python or of us.
PURE = frozenset(
    {
        "runtime.access.limits",
        "runtime.board.tuning",
        "runtime.engine.fairqueue",
        "runtime.engine.histogram",
        "runtime.engine.kvcache",
        "runtime.engine.lateness",
        "runtime.engine.observer",
        "runtime.engine.pace",
        "runtime.engine.progress",
        "runtime.engine.request_meter",
        "runtime.engine.sampler",
        "runtime.engine.scheduler",
        "runtime.engine.sequence",
        "runtime.engine.speculation",
        "runtime.engine.structure",
        "runtime.engine.throttle",
        "runtime.engine.turn",
        "runtime.errors",
        "runtime.health.checks",
        "runtime.health.governor",
        "runtime.pressure",
    }
)
PURE_MAY_IMPORT = frozenset(
    {"__future__", "abc", "array", "bisect", "collections", "dataclasses", "enum"}
    | {"functools", "heapq", "itertools", "math", "numpy", "operator", "statistics", "typing"}
)
IMPURE_BUILTINS = frozenset({"breakpoint", "eval", "exec", "input", "open", "print"})
HIDDEN_IMPORTS = frozenset({"__import__", "import_module"})

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 80
