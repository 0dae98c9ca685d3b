"""The rules of docs/architecture.md as data, and a checker that reads sources with `ast`.

A module that is in no rule is a violation: whoever adds one decides where it stands and what it may open.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

# Each row may import the rows below it, in the same package; modules of one row do not know each other. A package in
# another stands there in a row, and has rows of its own.
LAYERS = {
    "runtime": (
        "daemon commands detect_command token_command deploy",
        "running",
        "assembly listening",
        "services observability",
        "models_service health_report control check supervision kserve reflection http",
        "caretaker",
        "service health telemetry address metrics otel wellformed",
        "snapshot_messages generator",
        "snapshots",
        "models",
        "model",
        "replies repository open_calls",
        "requests board chat_json",
        "conversations",
        "bench autotune loading pressure_watch",
        "engine grammar",
        "live lowering",
        "completion",
        "turn_text lateness",
        "openvino_session",
        "openvino_paged openvino_stateful",
        "scheduler openvino_device ort_session plain_session cuda_session qnn_pipeline sampler tokenizer stop chat"
        " request_meter",
        "static_session kvcache observer fairqueue",
        "expectation",
        "settings",
        "watchdog",
        "clients sequence session stats speculation",
        "turn",
        "structure histogram",
        "reload",
        "governor checks",
        "throttle progress",
        "adapters inference config localsettings presets startup",
        "tuning limit_config",
        "package detect footprint limits pace access_settings",
        "profile otel_settings",
        "validation",
        "battery",
        "memory_limits",
        "logs",
        "outlet machine memory notify pressure sensing cpu access fingerprint strict_json fields",
        "errors",
    ),
    "runtime.access": (
        "entrance",
        "gate",
        "relay rules certificates",
        "methods pair",
        "caller tokens seldom places group",
    ),
    "runtime.deploy": ("command", "apply expectation manager status", "plan", "target"),
    "runtime.http": ("listener", "app callers", "exchange", "failures", "asking answers", "schemas"),
    "runtime.kserve": ("service", "asking", "tensors"),
    "runtime.sensing": (
        "rates",
        "board",
        "disk gpu memory network power processor temperature throttle",
        "hwmon nvml",
        "files",
    ),
    "runtime.metrics": ("between families server", "machine_families", "building exposition"),
    "runtime.otel": ("pipeline", "recorder interceptor", "instruments delivery context"),
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
    "toolchain.*": ("runtime.profile", "runtime.package", "runtime.presets", "runtime.footprint", "runtime.errors"),
    "toolchain.calibrate": ("runtime.ort_session", "runtime.sampler", "runtime.sequence", "runtime.session"),
    "toolchain.adapters": ("runtime.adapters",),
    "toolchain.openvino_variant": ("runtime.openvino_session",),
    "toolchain.optimum_variant": ("runtime.plain_session",),
    "toolchain.ort_variant": ("runtime.adapters",),
    "toolchain.activations": ("runtime.qnn_pipeline",),
    "toolchain.qnn_variant": ("runtime.qnn_pipeline", "runtime.session", "runtime.static_session"),
    "toolchain.answers": (
        "runtime.chat",
        "runtime.engine",
        "runtime.sequence",
        "runtime.session",
        "runtime.structure",
        "runtime.tokenizer",
        "runtime.turn",
    ),
    "toolchain.choices": ("runtime.tokenizer",),
    "toolchain.evaluation": (
        "runtime.grammar",
        "runtime.loading",
        "runtime.session",
        "runtime.settings",
        "runtime.speculation",
        "runtime.tokenizer",
    ),
    "toolchain.report": ("runtime.tokenizer",),
    "toolchain.scoring": ("runtime.session",),
    "toolchain.stages": ("runtime.session",),
    "toolchain.sweep": ("runtime.session",),
    "toolchain.structured": ("runtime.grammar", "runtime.tokenizer"),
    "toolchain.evaluate": (
        "runtime.adapters",
        "runtime.cuda_session",
        "runtime.inference",
        "runtime.ort_session",
        "runtime.session",
    ),
    "toolchain.kvscales": ("runtime.cuda_session", "runtime.ort_session", "runtime.session"),
    "toolchain.surgery": ("runtime.adapters",),
    "runtime.conversations": ("edgeqwen.v1",),
    "runtime.generator": ("edgeqwen.v1",),
    "runtime.replies": ("edgeqwen.v1",),
    "runtime.requests": ("edgeqwen.v1",),
    "runtime.metrics.between": ("edgeqwen.v1",),
    "runtime.metrics.families": ("edgeqwen.v1",),
    "runtime.metrics.machine_families": ("edgeqwen.v1",),
    "runtime.models_service": ("edgeqwen.v1",),
    "runtime.observability": ("edgeqwen.v1",),
    "runtime.service": ("edgeqwen.v1",),
    "runtime.snapshot_messages": ("edgeqwen.v1",),
    "runtime.telemetry": ("edgeqwen.v1",),
    "runtime.chat_json": ("edgeqwen.v1",),
    "runtime.control": ("edgeqwen.v1",),
    "runtime.health_report": ("edgeqwen.v1",),
    "runtime.http.*": ("edgeqwen.v1",),
    "runtime.kserve.*": ("edgeqwen.v1", "edgeqwen.kserve"),
    "runtime.reflection": ("edgeqwen.kserve",),
    "runtime.services": ("edgeqwen.v1", "edgeqwen.kserve"),
    "edgeqwen.*": ("edgeqwen.v1",),
}

# Third-party libraries by import name, and the modules that may open each. Any other is refused.
DOORS = {
    "click": "runtime.commands runtime.daemon runtime.deploy.command runtime.detect_command runtime.token_command"
    " toolchain.advise_command"
    " toolchain.budget_options toolchain.cli toolchain.evaluate_command toolchain.sweep_command edgeqwen.batch"
    " edgeqwen.cli edgeqwen.flags edgeqwen.health_command edgeqwen.printing edgeqwen.status edgeqwen.watch",
    "gguf": "toolchain.sources",
    "google.protobuf": "runtime.fields runtime.reflection runtime.replies runtime.wellformed edgeqwen.status"
    " edgeqwen.watch",
    "google.rpc": "runtime.http.failures runtime.replies edgeqwen.errors",
    "grpc": "runtime.access.certificates runtime.access.entrance runtime.access.gate runtime.control runtime.health"
    " runtime.health_report runtime.kserve.service runtime.models_service runtime.observability"
    " runtime.open_calls runtime.otel.interceptor runtime.reflection runtime.replies runtime.service runtime.services"
    " runtime.telemetry runtime.wellformed edgeqwen.client edgeqwen.connection"
    " edgeqwen.errors edgeqwen.operations",
    "grpc_health": "runtime.health edgeqwen.client",
    "grpc_reflection": "runtime.reflection",
    "grpc_status": "runtime.replies",
    "h11": "runtime.metrics.server",
    "huggingface_hub": "toolchain.sources",
    "jinja2": "runtime.chat",
    "llguidance": "runtime.grammar",
    "matplotlib": "toolchain.report_plots toolchain.sweep_report",
    "numpy": "runtime.adapters runtime.completion runtime.cuda_session runtime.grammar runtime.openvino_device"
    " runtime.openvino_paged runtime.openvino_stateful runtime.ort_session runtime.plain_session"
    " runtime.qnn_pipeline runtime.sampler runtime.session runtime.static_session runtime.structure runtime.turn"
    " toolchain.activations toolchain.adapters toolchain.choices toolchain.divergence toolchain.evaluate"
    " toolchain.float_reference toolchain.kvscales toolchain.report toolchain.report_plots toolchain.rotary_tables"
    " toolchain.scoring toolchain.smooth_activations toolchain.smoothing toolchain.weights",
    "olive": "toolchain.compile toolchain.fisher_mixed_precision toolchain.olive_environment toolchain.ordered_gptq"
    " toolchain.rotary_tables toolchain.smooth_activations",
    "onnx": "toolchain.activations toolchain.qnn_variant toolchain.rotary_tables toolchain.surgery",
    "onnxruntime": "runtime.adapters runtime.cuda_session runtime.inference runtime.ort_session"
    " runtime.plain_session runtime.qnn_pipeline toolchain.activations",
    "onnxruntime_qnn": "runtime.qnn_pipeline",
    "opentelemetry": "runtime.otel.delivery runtime.otel.instruments runtime.otel.pipeline runtime.otel.recorder",
    "openvino": "runtime.openvino_device runtime.openvino_paged runtime.openvino_stateful",
    "packaging": "toolchain.doctor",
    "peft": "toolchain.adapters toolchain.float_reference",
    "prometheus_client": "runtime.metrics.building runtime.metrics.exposition runtime.metrics.families"
    " runtime.metrics.machine_families runtime.observability",
    "psutil": "runtime.snapshots",
    "pynvml": "runtime.sensing.nvml",
    "pydantic": "runtime.access_settings runtime.chat_json runtime.config runtime.http.schemas runtime.limit_config"
    " runtime.localsettings runtime.otel_settings runtime.package runtime.presets runtime.profile runtime.validation"
    " toolchain.cli",
    "rich": "runtime.commands toolchain.advise_command toolchain.cli toolchain.evaluate_command toolchain.progress"
    " toolchain.sweep_report toolchain.tables edgeqwen.status edgeqwen.watch edgeqwen.watch_view",
    "safetensors": "toolchain.adapters toolchain.weights",
    "starlette": "runtime.http.app runtime.http.callers runtime.http.exchange",
    "structlog": "runtime.access.certificates runtime.access.entrance runtime.access.gate runtime.access.group"
    " runtime.access.relay runtime.caretaker runtime.generator runtime.http.callers"
    " runtime.http.listener runtime.logs runtime.metrics.server runtime.model runtime.models runtime.models_service"
    " runtime.observability runtime.otel.delivery runtime.otel.pipeline runtime.pressure_watch runtime.running"
    " runtime.service runtime.supervision",
    "tokenizers": "runtime.tokenizer toolchain.evaluate toolchain.kvscales toolchain.sources",
    "torch": "toolchain.adapters toolchain.divergence toolchain.evaluate toolchain.fisher_mixed_precision"
    " toolchain.float_reference toolchain.ordered_gptq toolchain.rotary_tables toolchain.smooth_activations"
    " toolchain.sources",
    "tqdm": "toolchain.fisher_mixed_precision toolchain.smooth_activations",
    "transformers": "toolchain.adapters toolchain.calibrate toolchain.evaluate toolchain.float_reference"
    " toolchain.sources",
    "uvicorn": "runtime.http.listener",
    "yaml": "runtime.config runtime.profile toolchain.calibrate toolchain.cli toolchain.models toolchain.presets"
    " toolchain.structured",
}

# No I/O, no clock, no thread: these see each other and what is listed, nothing else of Python or of us.
PURE = frozenset(
    {"runtime.errors", "runtime.structure", "runtime.turn", "runtime.sequence", "runtime.kvcache"}
    | {"runtime.scheduler", "runtime.sampler", "runtime.speculation", "runtime.tuning"}
    | {"runtime.histogram", "runtime.observer", "runtime.request_meter"}
    | {"runtime.throttle", "runtime.progress", "runtime.governor", "runtime.checks"}
    | {"runtime.fairqueue", "runtime.lateness", "runtime.limits", "runtime.pace", "runtime.pressure"}
)
PURE_MAY_IMPORT = frozenset(
    {"__future__", "abc", "array", "bisect", "collections", "dataclasses", "enum"}
    | {"functools", "heapq", "itertools", "math", "numpy", "operator", "statistics", "typing"}
)
IMPURE_BUILTINS = frozenset({"breakpoint", "eval", "exec", "input", "open", "print"})
HIDDEN_IMPORTS = frozenset({"__import__", "import_module"})

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 80


@dataclass(frozen=True)
class Import:
    """`name` is absolute: `from .errors import Fault` in runtime/engine.py is `runtime.errors.Fault`."""

    line: int
    name: str
    relative: bool

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]


def violations(sources: Mapping[str, str], standard_library: frozenset[str]) -> list[str]:
    """Everything wrong in `sources` (dotted module name to its text), one line each."""
    found = []
    for module, source in sorted(sources.items()):
        tree = ast.parse(source, module)
        if module in LAYERS:
            found += [f"{module}: __init__ holds more than a docstring"] if len(tree.body) > 1 else []
            continue
        if _row(module, module.rpartition(".")[0]) is None:
            found.append(f"{module}: has no place in LAYERS")
        for imported in _imports(module, tree):
            fault = _own_fault(module, imported) if imported.top in LAYERS else None
            if imported.top not in LAYERS and imported.top not in standard_library:
                fault = _door_fault(module, imported.name)
            if fault is None and module in PURE:
                fault = _purity_fault(imported)
            if fault is not None:
                found.append(f"{module}:{imported.line}: {fault}")
        found += [f"{module}:{line}: {fault}" for line, fault in _call_faults(module, tree)]
    return found


def unused_doors(sources: Mapping[str, str]) -> list[str]:
    """Doors that nobody goes through: a permission that has outlived its reason."""
    opened = {
        (library, module)
        for module, source in sources.items()
        for imported in _imports(module, ast.parse(source, module))
        for library in DOORS
        if _within(imported.name, library)
    }
    return sorted(f"{m} -> {lib}" for lib, doors in DOORS.items() for m in doors.split() if (lib, m) not in opened)


def size_violations(path: str, source: str) -> list[str]:
    """Files and functions that are too long to read at once."""
    lines = len(source.splitlines())
    found = [f"{path}: {lines} lines, at most {MAX_FILE_LINES}"] if lines > MAX_FILE_LINES else []
    for node in ast.walk(ast.parse(source, path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                found.append(f"{path}:{node.lineno}: {node.name} has {length} lines, at most {MAX_FUNCTION_LINES}")
    return found


def _imports(module: str, tree: ast.Module) -> Iterator[Import]:
    """Every import, those inside functions and under TYPE_CHECKING too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, alias.name, relative=False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            base = [*parents, *([node.module] if node.module else [])]
            for alias in node.names:
                yield Import(node.lineno, ".".join([*base, alias.name]), relative=node.level > 0)


def _own_fault(module: str, imported: Import) -> str | None:
    allowed = [prefix for pattern, row in ACROSS.items() if fnmatchcase(module, pattern) for prefix in row]
    if any(_within(imported.name, prefix) for prefix in allowed):
        return None
    if imported.top != module.partition(".")[0]:
        return f"may not import {imported.name}"
    if not imported.relative:
        return f"imports {imported.name} of its own package; make it relative"
    package = _package_of_both(module, imported.name)
    above, below = _row(module, package), _row(imported.name, package)
    if below is None:
        return f"imports {imported.name}, which has no place in LAYERS"
    if above is not None and below <= above:
        return f"imports {imported.name}, which does not stand below it"
    return None


def _package_of_both(module: str, other: str) -> str:
    """The innermost package that holds both."""
    return max((package for package in LAYERS if _within(module, package) and _within(other, package)), key=len)


def _row(name: str, package: str) -> int | None:
    """Where in `package` its module or package stands that `name` is, or is within; counted from the top."""
    child = name.removeprefix(f"{package}.").partition(".")[0]
    return next((i for i, row in enumerate(LAYERS.get(package, ())) if child in row.split()), None)


def _door_fault(module: str, name: str) -> str | None:
    library = next((library for library in DOORS if _within(name, library)), None)
    if library is None:
        return f"imports {name}, which DOORS does not list"
    if module not in DOORS[library].split():
        return f"imports {name}; {library} is opened only by {DOORS[library]}"
    return None


def _purity_fault(imported: Import) -> str | None:
    if imported.top in PURE_MAY_IMPORT or any(_within(imported.name, module) for module in PURE):
        return None
    return f"imports {imported.name}, but does no I/O, reads no clock, starts no thread"


def _call_faults(module: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in HIDDEN_IMPORTS:
            yield node.lineno, f"calls {called}, which hides an import"
        if module in PURE and isinstance(node.func, ast.Name) and called in IMPURE_BUILTINS:
            yield node.lineno, f"calls {called}, but does no I/O"


def _within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")
