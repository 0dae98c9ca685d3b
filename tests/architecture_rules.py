"""The rules of docs/architecture.md as data.

A module that is in no rule is a violation: whoever adds one decides where it stands and what it may open.
"""

from __future__ import annotations

# Each row may import the rows below it, in the same package; modules of one row do not know each other. A package in
# another stands there in a row, and has rows of its own.
LAYERS = {
    "runtime": (
        "daemon commands detect_command token_command deploy updates",
        "lifecycle",
        "kserve http",
        "api",
        "rollout",
        "telemetry health metrics otel",
        "bench",
        "models",
        "requests",
        "configuration",
        "engine",
        "sessions",
        "store",
        "oci",
        "board",
        "access",
        "footprint presets trust",
        "package",
        "profile",
        "validation",
        "logs memory_limits",
        "sensing",
        "memory pressure outlet notify fingerprint disk reach one_line progress yaml_file whole_file",
        "errors",
    ),
    "runtime.access": (
        "entrance address",
        "gate",
        "relay rules certificates call_errors",
        "methods pair acceptor",
        "caller tokens seldom shares places group",
        "clients",
        "limits",
    ),
    "runtime.api": (
        "models_service rollout_service health_report control reflection",
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
        "settings served",
        "config",
        "limit_config",
        "access_settings",
        "otel_settings store_settings",
    ),
    "runtime.deploy": (
        "command",
        "apply expectation manager status",
        "plan",
        "target",
    ),
    "runtime.engine": (
        "engine grammar",
        "runner",
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
    "runtime.oci": (
        "command",
        "options opening",
        "settings",
        "pulling",
        "fetching",
        "download",
        "source choosing folder",
        "layout registry",
        "remote contents transport",
        "documents",
        "patience rate reference",
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
    "runtime.rollout": (
        "rollouts",
        "boot standing witness",
        "canary",
        "golden gate",
        "asking",
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
    "runtime.store": (
        "collect",
        "store",
        "recovery state_file tree",
        "state",
    ),
    "runtime.trust": (
        "command",
        "trust",
        "roots",
        "library certificates folder",
        "bundle",
    ),
    "runtime.telemetry": (
        "messages",
        "snapshots",
    ),
    "runtime.updates": (
        "command lookups",
        "options",
        "installing switching place",
    ),
    "toolchain": (
        "cli",
        "commands",
        "matrix",
        "build doctor",
        "publishing",
        "sweeping",
        "variants",
        "evaluation sizing",
        "package",
        "host",
        "variant",
        "compile",
        "passes",
        "checkpoints",
        "graphs calibrate",
        "recipes",
        "presets tables",
        "cache",
        "progress exhaustion",
        "requirements",
    ),
    "toolchain.checkpoints": (
        "adapters",
        "sources smoothing",
        "weights",
    ),
    "toolchain.commands": ("advise evaluate matrix publish sign sweep", "budget_options"),
    "toolchain.evaluation": (
        "report_page",
        "evaluation report_plots",
        "report scoring",
        "packaged float_reference material",
        "answers choices divergence fidelity_gate heldout loops structured",
    ),
    "toolchain.graphs": ("activations", "kvscales surgery"),
    "toolchain.matrix": (
        "run",
        "cluster transfer",
        "building worker",
        "inputs record room versions work",
        "plan",
        "file",
    ),
    "toolchain.passes": ("fisher_mixed_precision ordered_gptq rotary_tables smooth_activations olive_environment",),
    "toolchain.publishing": (
        "push export",
        "publication uploads keys sign",
    ),
    "toolchain.recipes": (
        "openvino optimum qnn",
        "recipe context",
    ),
    "toolchain.sizing": (
        "advise budget",
        "models",
        "sizes",
    ),
    "toolchain.sweeping": ("report", "sweep", "candidates"),
    "toolchain.variants": ("openvino optimum ort qnn", "stages"),
    "edgeqwen": (
        "cli",
        "fleet",
        "flags batch status watch health_command",
        "client printing watch_view",
        "observing operations connected",
        "requests retrying newest history",
        "messages connection",
        "errors",
    ),
    "edgeqwen.fleet": (
        "command",
        "inventory survey targets view",
        "hosts finding",
        "board",
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
        "runtime.yaml_file",
        "runtime.whole_file",
    ),
    "toolchain.calibrate": (
        "runtime.sessions.ort_session",
        "runtime.engine.sampler",
        "runtime.engine.sequence",
        "runtime.sessions.session",
    ),
    "toolchain.checkpoints.adapters": ("runtime.sessions.adapters",),
    "toolchain.variants.openvino": ("runtime.sessions.openvino_session",),
    "toolchain.variants.optimum": ("runtime.sessions.plain_session",),
    "toolchain.variants.ort": ("runtime.sessions.adapters",),
    "toolchain.progress": ("runtime.progress",),
    "toolchain.publishing.keys": ("runtime.trust",),
    "toolchain.publishing.sign": ("runtime.trust",),
    "toolchain.graphs.activations": ("runtime.sessions.qnn_pipeline",),
    "toolchain.variants.qnn": (
        "runtime.sessions.qnn_pipeline",
        "runtime.sessions.session",
        "runtime.sessions.static_session",
    ),
    "toolchain.commands.publish": ("runtime.oci",),
    "toolchain.publishing.*": ("runtime.oci", "runtime.disk"),
    "toolchain.evaluation.answers": (
        "runtime.requests.chat",
        "runtime.engine.engine",
        "runtime.engine.sequence",
        "runtime.sessions.session",
        "runtime.engine.structure",
        "runtime.engine.tokenizer",
        "runtime.engine.turn",
    ),
    "toolchain.evaluation.choices": ("runtime.engine.tokenizer",),
    "toolchain.evaluation.evaluation": (
        "runtime.engine.grammar",
        "runtime.models.loading",
        "runtime.sessions.session",
        "runtime.configuration.settings",
        "runtime.engine.speculation",
        "runtime.engine.tokenizer",
    ),
    "toolchain.evaluation.report": ("runtime.engine.tokenizer",),
    "toolchain.evaluation.scoring": ("runtime.sessions.session",),
    "toolchain.variants.stages": ("runtime.sessions.session",),
    "toolchain.matrix.file": ("runtime.validation",),
    "toolchain.matrix.record": ("runtime.validation",),
    "toolchain.sweeping.sweep": ("runtime.sessions.session",),
    "toolchain.evaluation.structured": ("runtime.engine.grammar", "runtime.engine.tokenizer"),
    "toolchain.evaluation.packaged": (
        "runtime.sessions.adapters",
        "runtime.sessions.cuda_session",
        "runtime.sessions.inference",
        "runtime.sessions.ort_session",
        "runtime.sessions.session",
    ),
    "toolchain.graphs.kvscales": (
        "runtime.sessions.cuda_session",
        "runtime.sessions.ort_session",
        "runtime.sessions.session",
    ),
    "toolchain.graphs.surgery": ("runtime.sessions.adapters",),
    "runtime.lifecycle.observability": ("edgeqwen.v1",),
    "runtime.telemetry.messages": ("edgeqwen.v1",),
    "runtime.api.*": ("edgeqwen.v1",),
    "runtime.metrics.*": ("edgeqwen.v1",),
    "runtime.requests.*": ("edgeqwen.v1",),
    "runtime.http.*": ("edgeqwen.v1",),
    "runtime.kserve.*": ("edgeqwen.v1", "edgeqwen.kserve"),
    "runtime.api.reflection": ("edgeqwen.kserve",),
    "runtime.lifecycle.services": ("edgeqwen.v1", "edgeqwen.kserve"),
    "runtime.updates.command": ("edgeqwen.client",),
    "runtime.updates.switching": ("edgeqwen.client", "edgeqwen.v1"),
    "edgeqwen.*": ("edgeqwen.v1",),
    "runtime.oci.download": ("runtime.disk",),
    "runtime.oci.fetching": ("runtime.disk",),
    "runtime.oci.pulling": ("runtime.disk",),
}

# Third-party libraries by import name, and the modules that may open each. Any other is refused.
DOORS = {
    "click": "runtime.commands runtime.daemon runtime.deploy.command runtime.detect_command runtime.oci.command"
    " runtime.oci.options runtime.one_line runtime.progress runtime.token_command runtime.trust.command"
    " runtime.updates.command runtime.updates.lookups runtime.updates.options toolchain.cli toolchain.commands.advise"
    " toolchain.commands.budget_options toolchain.commands.evaluate toolchain.commands.matrix"
    " toolchain.commands.publish toolchain.commands.sign toolchain.commands.sweep edgeqwen.batch edgeqwen.cli"
    " edgeqwen.flags edgeqwen.fleet.command edgeqwen.health_command edgeqwen.printing edgeqwen.status edgeqwen.watch",
    "cryptography": "runtime.trust.certificates runtime.trust.roots toolchain.publishing.keys"
    " toolchain.publishing.sign",
    "dask": "toolchain.matrix.cluster",
    "distributed": "toolchain.matrix.cluster toolchain.matrix.run toolchain.matrix.transfer toolchain.matrix.worker",
    "gguf": "toolchain.checkpoints.sources",
    "google.protobuf": "runtime.api.reflection runtime.api.replies runtime.api.wellformed runtime.requests.fields"
    " edgeqwen.errors edgeqwen.status edgeqwen.watch",
    "google.rpc": "runtime.api.replies runtime.http.failures edgeqwen.errors",
    "grpc": "runtime.access.certificates runtime.access.entrance runtime.access.gate runtime.api.control"
    " runtime.api.health_report runtime.api.models_service runtime.api.open_calls runtime.api.reflection"
    " runtime.api.replies runtime.api.rollout_service runtime.api.service runtime.api.telemetry runtime.api.wellformed"
    " runtime.health.health"
    " runtime.kserve.service runtime.lifecycle.observability runtime.lifecycle.services runtime.otel.interceptor"
    " edgeqwen.client edgeqwen.connected edgeqwen.connection edgeqwen.errors edgeqwen.operations",
    "grpc_health": "runtime.health.health edgeqwen.client edgeqwen.connected",
    "grpc_reflection": "runtime.api.reflection",
    "grpc_status": "runtime.api.replies",
    "h11": "runtime.metrics.server",
    "huggingface_hub": "toolchain.checkpoints.sources",
    "jinja2": "runtime.requests.chat",
    "llguidance": "runtime.engine.grammar",
    "matplotlib": "toolchain.evaluation.report_plots toolchain.sweeping.report",
    "model_signing": "runtime.trust.library",
    "numpy": "runtime.engine.completion runtime.engine.grammar runtime.engine.sampler runtime.engine.structure"
    " runtime.engine.turn runtime.sessions.adapters runtime.sessions.cuda_session runtime.sessions.openvino_device"
    " runtime.sessions.openvino_paged runtime.sessions.openvino_stateful runtime.sessions.ort_session"
    " runtime.sessions.plain_session runtime.sessions.qnn_pipeline runtime.sessions.session"
    " runtime.sessions.static_session toolchain.checkpoints.adapters toolchain.checkpoints.smoothing"
    " toolchain.checkpoints.weights toolchain.evaluation.choices toolchain.evaluation.divergence"
    " toolchain.evaluation.float_reference toolchain.evaluation.packaged toolchain.evaluation.report"
    " toolchain.evaluation.report_plots toolchain.evaluation.scoring toolchain.graphs.activations"
    " toolchain.graphs.kvscales toolchain.passes.rotary_tables toolchain.passes.smooth_activations",
    "olive": "toolchain.compile toolchain.passes.fisher_mixed_precision toolchain.passes.olive_environment"
    " toolchain.passes.ordered_gptq toolchain.passes.rotary_tables toolchain.passes.smooth_activations",
    "onnx": "toolchain.graphs.activations toolchain.graphs.surgery toolchain.passes.rotary_tables"
    " toolchain.variants.qnn",
    "onnxruntime": "runtime.sessions.adapters runtime.sessions.cuda_session runtime.sessions.inference"
    " runtime.sessions.ort_session runtime.sessions.plain_session runtime.sessions.qnn_pipeline"
    " toolchain.graphs.activations",
    "onnxruntime_qnn": "runtime.sessions.qnn_pipeline",
    "OpenSSL": "runtime.trust.certificates",
    "opentelemetry": "runtime.otel.delivery runtime.otel.instruments runtime.otel.pipeline runtime.otel.recorder",
    "openvino": "runtime.sessions.openvino_device runtime.sessions.openvino_paged runtime.sessions.openvino_stateful",
    "oras": "runtime.oci.transport",
    "packaging": "toolchain.doctor",
    "peft": "toolchain.checkpoints.adapters toolchain.evaluation.float_reference",
    "prometheus_client": "runtime.lifecycle.observability runtime.metrics.building runtime.metrics.exposition"
    " runtime.metrics.families runtime.metrics.machine_families",
    "psutil": "runtime.telemetry.snapshots",
    "pynvml": "runtime.sensing.nvml",
    "pydantic": "runtime.board.localsettings runtime.configuration.access_settings runtime.configuration.config"
    " runtime.configuration.limit_config runtime.configuration.otel_settings runtime.configuration.store_settings"
    " runtime.http.schemas runtime.oci.documents runtime.oci.settings runtime.package runtime.presets runtime.profile"
    " runtime.requests.chat_json runtime.store.state_file runtime.trust.roots runtime.validation toolchain.cli"
    " toolchain.matrix.file toolchain.matrix.record",
    "requests": "runtime.oci.transport",
    "rich": "runtime.commands runtime.progress runtime.updates.lookups toolchain.cli"
    " toolchain.commands.advise toolchain.commands.evaluate toolchain.commands.matrix toolchain.progress"
    " toolchain.sweeping.report toolchain.tables edgeqwen.fleet.command edgeqwen.fleet.view edgeqwen.status"
    " edgeqwen.watch edgeqwen.watch_view",
    "safetensors": "toolchain.checkpoints.adapters toolchain.checkpoints.weights",
    "starlette": "runtime.http.app runtime.http.callers runtime.http.exchange",
    "structlog": "runtime.access.acceptor runtime.access.certificates runtime.access.entrance runtime.access.gate"
    " runtime.access.group runtime.api.generator runtime.api.models_service runtime.api.service"
    " runtime.health.caretaker runtime.http.callers runtime.http.listener runtime.lifecycle.observability"
    " runtime.lifecycle.running runtime.lifecycle.supervision runtime.logs runtime.metrics.server"
    " runtime.models.model runtime.models.pressure_watch runtime.models.registry runtime.otel.delivery"
    " runtime.otel.pipeline runtime.rollout.boot runtime.rollout.rollouts",
    "tokenizers": "runtime.engine.tokenizer toolchain.checkpoints.sources toolchain.evaluation.packaged"
    " toolchain.graphs.kvscales",
    "torch": "toolchain.checkpoints.adapters toolchain.checkpoints.sources toolchain.evaluation.divergence"
    " toolchain.evaluation.float_reference toolchain.evaluation.packaged toolchain.passes.fisher_mixed_precision"
    " toolchain.passes.ordered_gptq toolchain.passes.rotary_tables toolchain.passes.smooth_activations",
    "tqdm": "toolchain.passes.fisher_mixed_precision toolchain.passes.smooth_activations",
    "transformers": "toolchain.calibrate toolchain.checkpoints.adapters toolchain.checkpoints.sources"
    " toolchain.evaluation.float_reference toolchain.evaluation.packaged",
    "urllib3": "runtime.oci.transport",
    "uvicorn": "runtime.http.listener",
    "yaml": "runtime.yaml_file toolchain.calibrate toolchain.cli toolchain.evaluation.structured"
    " toolchain.sizing.models",
}

# No I/O, no clock, no thread: these see each other and what is listed, nothing else of Python or of us.
PURE = frozenset(
    {
        "runtime.access.limits",
        "runtime.access.shares",
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
        "runtime.rollout.gate",
        "runtime.store.state",
    }
)
PURE_MAY_IMPORT = frozenset(
    {"__future__", "abc", "array", "bisect", "collections", "dataclasses", "enum"}
    | {"functools", "heapq", "ipaddress", "itertools", "math", "numpy", "operator", "statistics", "typing"}
)
IMPURE_BUILTINS = frozenset({"breakpoint", "eval", "exec", "input", "open", "print"})
HIDDEN_IMPORTS = frozenset({"__import__", "import_module"})

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 80
