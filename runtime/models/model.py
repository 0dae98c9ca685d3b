"""A package becomes a model that answers: what it was loaded with, its engine, and what reads requests for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from ..access.clients import Clients
from ..board.cpu import read_cpu
from ..board.localsettings import LocalSettingsFile
from ..configuration.config import Config
from ..configuration.settings import RunSettings, decide
from ..engine.engine import Engine
from ..engine.grammar import Grammars
from ..engine.tokenizer import Tokenizer
from ..errors import ConfigError, Fault, LocalSettingsError, PackageError, SessionError
from ..footprint import Footprint
from ..package import Package
from ..presets import Presets, read_presets
from ..requests.chat import ChatTemplate
from ..requests.reader import RequestReader
from ..sessions.adapters import Adapter, find_adapters
from ..sessions.session import Session
from .expectation import Expectation, expectation_of
from .loading import load_engine, load_session
from .pressure_watch import PressureWatch


@dataclass(frozen=True)
class PresetFacts:
    """A preset that conversations may name; the fields are those of `PresetInfo` in telemetry.proto."""

    name: str
    description: str
    values: dict[str, str]


@dataclass(frozen=True)
class ModelFacts:
    """What is told of a model; the fields are those of `ModelInfo` in telemetry.proto."""

    name: str
    variant: str = ""
    precision: str = ""
    provider_requested: str = ""
    provider: str = ""
    context_tokens: int = 0
    weights_bytes: int = 0
    build_digest: str = ""
    prefill_threads: int = 0
    decode_threads: int = 0
    threads_from: str = ""
    slots_from: str = ""
    presets: tuple[PresetFacts, ...] = ()
    adapters: tuple[str, ...] = ()
    package_version: str = ""


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded package. Its engine runs from `engine.start` to `engine.stop`.

    Args:
        package: None where there is none, as in tests.
        sensors: patterns of the board's sensors that count; none counts all.
        footprint: what it takes of the machine's memory when all rows are full; None where it is not known.
        expectation: how fast it should be; None likewise.
    """

    engine: Engine
    reader: RequestReader
    facts: ModelFacts
    sensors: tuple[str, ...] = ()
    package: Package | None = None
    footprint: Footprint | None = None
    expectation: Expectation | None = None

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def limit_c(self) -> float | None:
        """Of the board's temperature, in degrees Celsius; None where nobody says so."""
        return None if self.package is None else self.package.build.profile.limits.temperature_c


def load_model(
    package: Package, config: Config, adapters_dir: Path | None = None, *, clients: Clients | None = None
) -> Model:
    """Loads `package` with what `config` says of models, for `clients`; its engine is not started.

    Raises PackageError, AdapterError, SessionError, or ConfigError for settings that this model cannot have.
    """
    build = package.build
    tokenizer = Tokenizer.from_file(package.tokenizer_file)  # first: the model fills the holes that parsing leaves
    adapters = find_adapters(package, adapters_dir)
    settings, session = _load_session(package, adapters, config)
    if config.deterministic and not session.spec.deterministic:
        message = f"must be false: {session.spec.provider} rounds by how many rows run"
        raise ConfigError([Fault("deterministic", message)])
    engine = load_engine(package, session, tokenizer, config, settings, clients=clients)
    if config.shrink_kv and session.spec.frees_kv:
        engine.accompany(PressureWatch(engine))
    vocab_size, names = session.spec.vocab_size, tuple(adapter.name for adapter in adapters)
    presets = read_presets(package.root)
    reader = RequestReader(
        tokenizer,
        _load_template(package),
        build.sampling,
        vocab_size,
        engine.context_tokens,
        Grammars(tokenizer, vocab_size, frozenset(build.model.eos_token_ids)),
        share_prefix=config.share_prefix if session.spec.reuses_rows else "off",
        presets=presets,
        deterministic=config.deterministic,
        exact=session.spec.deterministic,
        adapters=names,
        limits=clients.limits_of if clients is not None else config.limits.book.of,
    )
    facts = ModelFacts(
        name=build.name,
        variant=build.variant,
        precision=build.precision,
        provider_requested=build.runs_on,
        provider=session.spec.provider,
        context_tokens=engine.context_tokens,
        weights_bytes=build.memory.weights_bytes,
        build_digest=package.build_digest,
        prefill_threads=settings.prefill_threads,
        decode_threads=settings.decode_threads,
        threads_from=settings.threads_from,
        slots_from=settings.slots_from,
        presets=_preset_facts(presets),
        adapters=names,
        package_version=build.version,
    )
    return Model(
        engine,
        reader,
        facts,
        tuple(build.profile.sensors.thermal_zones),
        package,
        settings.footprint(build),
        expectation_of(build, settings),
    )


def footprint_of_loaded(package: Package, config: Config) -> Footprint:
    """What `package` would take, loaded with what `config` says of models. Raises ConfigError."""
    file = LocalSettingsFile(config.state_dir, package.build_digest, read_cpu())
    return decide(config, package, file, None, len(os.sched_getaffinity(0))).footprint(package.build)


def _load_session(package: Package, adapters: Sequence[Adapter], config: Config) -> tuple[RunSettings, Session]:
    """The session, and what it runs with. Local settings that cannot be used are no reason not to serve."""
    cores = len(os.sched_getaffinity(0))
    file = LocalSettingsFile(config.state_dir, package.build_digest, read_cpu())
    try:
        settings = decide(config, package, file, file.read(verify=config.verify), cores, adapters=bool(adapters))
        if settings.graph not in (package.serving_graph, package.adapter_graph):
            return settings, load_session(package, settings)
    except (LocalSettingsError, SessionError) as error:
        structlog.get_logger().warning("local settings ignored", reason=str(error))
        settings = decide(config, package, file, None, cores, adapters=bool(adapters))
    return settings, load_session(package, settings, adapters)


def _load_template(package: Package) -> ChatTemplate | None:
    """None for a model that was not made to chat; it still continues raw prompts."""
    try:
        source = package.chat_template
    except PackageError:
        return None
    bos_token, eos_token = package.special_token("bos_token"), package.special_token("eos_token")
    return ChatTemplate(source, bos_token=bos_token, eos_token=eos_token)


def _preset_facts(presets: Presets) -> tuple[PresetFacts, ...]:
    return tuple(PresetFacts(name, preset.description, preset.values) for name, preset in sorted(presets.items()))
