"""What the model runs with, decided once: configuration, else local settings, else the profile."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..board.localsettings import LocalSettings, LocalSettingsFile
from ..engine.speculation import TOKEN_COST
from ..errors import ConfigError, Fault
from ..footprint import BUFFERS_BYTES, CUDA_BUFFERS_BYTES, Footprint
from ..package import Build, Package
from .config import Config

CONFIGURATION, LOCAL, PROFILE = "configuration", "local settings", "profile"


@dataclass(frozen=True)
class RunSettings:
    """The settings of a session and its engine.

    Args:
        graph: the package's, or one that was packed for this processor.
        device: of OpenVINO's; None elsewhere.
        one_row: whether one request runs at a time.
        prefill_threads: of a run that computes many tokens.
        decode_threads: of one that computes the next tokens.
        slots: requests that decode together.
        session_slots: rows of the session; those beyond `slots` hold what earlier requests left.
        context_tokens: prompt and answer together.
        kv_budget_bytes: of all requests together.
        token_cost: of a further token in a step, against a step with one.
        threads_from: which of the three decided the threads.
        slots_from: the same of the slots.
        prefill_tokens_per_second: of one prompt, as it was measured on this board; None where it was not.
        decode_tokens_per_second: of one stream, likewise.
    """

    graph: Path
    device: str | None
    one_row: bool
    prefill_threads: int
    decode_threads: int
    slots: int
    session_slots: int
    context_tokens: int
    kv_budget_bytes: int
    token_cost: float
    threads_from: str
    slots_from: str
    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None

    def footprint(self, build: Build) -> Footprint:
        """What the model takes of memory when all rows are full."""
        return Footprint(
            weights_bytes=build.memory.weights_bytes,
            kv_bytes_per_token=build.memory.kv_bytes_per_token,
            context_tokens=self.context_tokens,
            rows=self.slots,
            kv_limit_bytes=self.kv_budget_bytes,
            buffers_bytes=CUDA_BUFFERS_BYTES if build.profile.execution.backend == "cuda" else BUFFERS_BYTES,
        )


def decide(
    config: Config,
    package: Package,
    file: LocalSettingsFile,
    local: LocalSettings | None,
    cores: int,
    *,
    adapters: bool = False,
) -> RunSettings:
    """The settings of `package` under `config`.

    Args:
        file: where `local` was read from.
        local: None where nothing was measured.
        cores: that this process may use; the profile's threads are at most as many.
        adapters: whether requests may ask for one: then the graph is the package's that takes them, which is slower.

    Raises ConfigError if `config` asks for what the backend does not have, such as more slots, or if there is no room
    for one.
    """
    build, profile = package.build, package.build.profile.runtime
    device, one_row = _device(config, build)
    graph = package.adapter_graph if adapters and package.adapter_graph else package.serving_graph
    threads_from = CONFIGURATION
    if config.threads:
        prefill_threads = decode_threads = config.threads
    elif local and local.packed and graph == package.serving_graph:
        prefill_threads, decode_threads = local.packed.prefill_threads, local.packed.decode_threads
        graph, threads_from = file.packed_graph(local.packed), LOCAL
    elif local:
        prefill_threads = decode_threads = local.threads
        threads_from = LOCAL
    else:
        prefill_threads = decode_threads = min(profile.threads, cores)
        threads_from = PROFILE
    slots = 1 if one_row else config.slots or (local.slots if local else profile.slots)
    context_tokens = min(config.context_tokens or profile.context_tokens, build.model.context_tokens)
    kv_budget_bytes = profile.kv_cache.budget_mb << 20
    # Where prompts may start from earlier ones, as many rows again hold what those left; memory is the budget's.
    session_slots = slots if one_row or config.share_prefix == "off" else 2 * slots
    if build.profile.execution.backend == "cuda":  # a GPU's memory is taken for all rows at once
        session_slots = min(session_slots, _rows_that_fit(kv_budget_bytes, context_tokens, package))
    return RunSettings(
        graph=graph,
        device=device,
        one_row=one_row,
        prefill_threads=prefill_threads,
        decode_threads=decode_threads,
        slots=min(slots, session_slots),
        session_slots=session_slots,
        context_tokens=context_tokens,
        kv_budget_bytes=kv_budget_bytes,
        token_cost=local.token_cost if local else TOKEN_COST,
        threads_from=threads_from,
        slots_from=CONFIGURATION if config.slots else LOCAL if local else PROFILE,
        # They were measured with the threads that are measured best: others are not to be judged by them.
        prefill_tokens_per_second=local.prefill_tokens_per_second if local and threads_from == LOCAL else None,
        decode_tokens_per_second=local.decode_tokens_per_second if local and threads_from == LOCAL else None,
    )


def _rows_that_fit(budget_bytes: int, context_tokens: int, package: Package) -> int:
    """Rows of the longest context. Raises ConfigError if there is room for none."""
    row_bytes = context_tokens * package.build.memory.kv_bytes_per_token
    if rows := budget_bytes // row_bytes:
        return rows
    message = (
        f"a row of {context_tokens} tokens takes {-(-row_bytes >> 20)} MiB, and the package's KV budget is"
        f" {budget_bytes >> 20} MiB: choose at most {budget_bytes // package.build.memory.kv_bytes_per_token}"
    )
    raise ConfigError([Fault("context_tokens", message)])


def _device(config: Config, build: Build) -> tuple[str | None, bool]:
    """The device to run on, and whether one request at a time does."""
    execution = build.profile.execution
    if config.device and execution.device is None:
        raise ConfigError([Fault("device", f"is for packages of OpenVINO, and this one runs on {execution.name}")])
    device = config.device or execution.device
    one_row = build.one_row or device not in (None, "CPU")
    if one_row and config.slots not in (None, 1):
        raise ConfigError([Fault("slots", f"must be 1, {build.runs_on} runs one at a time (got {config.slots})")])
    return device, one_row
