"""A package on this board, to be measured: with the settings that the daemon would run it with."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..board.cpu import Cpu, OtherPrograms, read_cpu
from ..board.localsettings import LocalSettings, LocalSettingsFile
from ..configuration.config import Config, load_config
from ..configuration.served import served_package
from ..configuration.settings import RunSettings, decide
from ..engine.tokenizer import Tokenizer
from ..errors import Fault, LocalSettingsError, RequestError
from ..memory import trim_after_load, use_one_heap
from ..models.loading import load_engine, load_session
from ..package import Package
from ..sessions.session import Session
from .autotune import CONTEXT_TOKENS, Autotuner, Measured, Report, local_settings
from .bench import Case, Rates, cases_of, median_rates, resident_bytes, run_case


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark found: memory is what was resident when the model was loaded, and after all cases;
    `others_busy` is the share of the cores that other programs used."""

    load_s: float
    others_busy: float
    loaded_bytes: int
    after_bytes: int
    cases: dict[Case, Rates]


@dataclass(frozen=True)
class Tuned:
    """What was measured, what is kept of it, and the share of the cores that other programs used meanwhile."""

    measured: Measured
    kept: LocalSettings
    others_busy: float


@dataclass(frozen=True)
class Board:
    """Args:
    complaint: why the local settings that are there are not used; None if nothing is wrong with them.
    """

    config: Config
    package: Package
    cpu: Cpu
    file: LocalSettingsFile
    settings: RunSettings
    complaint: str | None

    @classmethod
    def open(cls, config_file: Path | None, environ: Mapping[str, str], flags: Mapping[str, object]) -> Board:
        """Reads the configuration as the daemon does. Raises ConfigError or PackageError."""
        config = load_config(config_file, environ, flags)
        package = Package.open(served_package(config), config.variant, verify=False)
        package.require_this_machine(simulate=config.simulate)
        cpu = read_cpu()
        file = LocalSettingsFile(config.state_dir, package.build_digest, cpu)
        local, complaint = None, None
        try:
            local = file.read()
        except LocalSettingsError as error:
            complaint = str(error)
        settings = decide(config, package, file, local, len(os.sched_getaffinity(0)))
        return cls(config, package, cpu, file, settings, complaint)

    def measure(
        self, prompts: Sequence[int], tokens: int, streams: Sequence[int], rounds: int, report: Callable[[float], None]
    ) -> Benchmark:
        """Runs every case once in each round, without guesses; `report` hears which share is done.

        Raises RequestError if a case does not fit, SessionError if the model does not run.
        """
        cases = cases_of(prompts, tokens, streams)
        settings = self._settings_for(cases)
        use_one_heap()
        began_s = time.perf_counter()
        tokenizer = Tokenizer.from_file(self.package.tokenizer_file)
        session = load_session(self.package, settings)
        load_s = time.perf_counter() - began_s
        config = self.config.model_copy(update={"speculate": False, "queue_limit": 64})
        engine = load_engine(self.package, session, tokenizer, config, settings)
        trim_after_load()
        loaded_bytes = resident_bytes()
        seen: dict[Case, list[Rates]] = {case: [] for case in cases}
        whole, done = rounds * sum(map(_weight, cases)), 0
        others = OtherPrograms()
        engine.start()
        try:
            run_case(engine, Case(prompt=8, tokens=8, streams=1))  # the first run of all is no measure
            for _ in range(rounds):
                for case in cases:
                    seen[case].append(run_case(engine, case))
                    done += _weight(case)
                    report(done / whole)
        finally:
            engine.stop()
        medians = {case: median_rates(its) for case, its in seen.items()}
        return Benchmark(load_s, others.busy_share(), loaded_bytes, resident_bytes(), medians)

    def autotune(self, budget_s: float, report: Report) -> Tuned:
        """Measures for about `budget_s` seconds, and keeps what follows for the daemon.

        Raises RequestError if there is nothing to choose, LocalSettingsError if what is chosen cannot be kept, and
        SessionError if the model does not run.
        """
        self._require_choice()
        build = self.package.build
        self.file.require_writable()
        tuner = Autotuner(
            self._open_session,
            capacities=self.cpu.capacities,
            chunk_tokens=build.profile.runtime.prefill_chunk_tokens,
            kv_budget_tokens=self.settings.kv_budget_bytes // build.memory.kv_bytes_per_token,
            budget_s=budget_s,
            report=report,
        )
        others = OtherPrograms()
        measured = tuner.run()
        others_busy = others.busy_share()
        found = local_settings(measured, self.package, self.file, self.cpu)
        self.file.write(found)
        return Tuned(measured, found, others_busy)

    def _open_session(self, threads: int, slots: int) -> Session:
        settings = replace(
            self.settings,
            graph=self.package.serving_graph,
            prefill_threads=threads,
            decode_threads=threads,
            session_slots=slots,
            context_tokens=CONTEXT_TOKENS,
        )
        return load_session(self.package, settings)

    def _require_choice(self) -> None:
        if self.package.build.profile.execution.backend in ("cuda", "qnn") or self.settings.one_row:
            message = f"has nothing to choose, it is for CPUs and this package is for {self._runs_on}: leave it out"
            raise RequestError([Fault("autotune", message)])

    @property
    def _runs_on(self) -> str:
        return self.package.build.runs_on

    def _settings_for(self, cases: Sequence[Case]) -> RunSettings:
        """As many slots, and as much KV, as the cases want at once."""
        chunk = self.package.build.profile.runtime.prefill_chunk_tokens
        faults = []
        if self.settings.one_row and max(case.streams for case in cases) > 1:
            faults.append(Fault("streams", f"must be 1, {self._runs_on} runs one request at a time"))
        for case in cases:
            least = case.streams * -(-case.prompt // chunk)  # when the last stream begins, the first must still run
            if case.tokens <= least:
                faults.append(Fault("tokens", f"must be > {least} for {case.name} (got {case.tokens})"))
            if (whole := case.prompt + case.tokens) > (limit := self.settings.context_tokens):
                faults.append(Fault("prompt", f"{case.name} and {case.tokens} more are {whole}, of at most {limit}"))
        if faults:
            raise RequestError(faults)
        slots = max(case.streams for case in cases)
        kv_tokens = max(case.streams * (case.prompt + case.tokens) for case in cases)
        return replace(
            self.settings,
            slots=slots,
            session_slots=slots,
            kv_budget_bytes=max(
                self.settings.kv_budget_bytes, kv_tokens * self.package.build.memory.kv_bytes_per_token
            ),
        )


def _weight(case: Case) -> int:
    """About how long a case takes, against others: a token that is generated counts as four that are read."""
    return case.streams * case.prompt + 4 * case.tokens
