"""An engine that is asked what nobody should ask, and what hears the log."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog
from chatml import CHATML
from fakes import ScriptedSession, byte_tokenizer, no_models
from fuzz.process import Ear

from runtime.engine.engine import Engine
from runtime.engine.grammar import Grammars
from runtime.logs import configure
from runtime.memory import use_one_heap
from runtime.models.model import Model, ModelFacts
from runtime.models.registry import Models
from runtime.package import SamplingDefaults
from runtime.requests.chat import ChatTemplate
from runtime.requests.reader import RequestReader


@pytest.fixture
def ear() -> Iterator[Ear]:
    """Hears the log while the test runs."""
    ear = Ear()
    configure("json", "info", ear)
    yield ear
    structlog.reset_defaults()


@pytest.fixture
def engine() -> Iterator[Engine]:
    """Its threads allocate as the daemon's do."""
    use_one_heap()
    session = ScriptedSession(slots=16, context_tokens=64, adapters=("pumps",))
    engine = Engine(
        session,
        byte_tokenizer(),
        eos_token_ids=frozenset({0}),
        queue_limit=64,
        prefill_chunk_tokens=16,
        kv_budget_tokens=600,
        max_running=8,
    )
    yield engine
    engine.stop()


@pytest.fixture
def models(engine: Engine) -> Models:
    tokenizer = byte_tokenizer()
    reader = RequestReader(
        tokenizer,
        ChatTemplate(CHATML),
        SamplingDefaults(),
        vocab_size=256,
        context_tokens=64,
        grammars=Grammars(tokenizer, 256, frozenset({0})),
        adapters=("pumps",),
    )
    models = no_models()
    models.add(Model(engine, reader, ModelFacts("tiny")))
    return models
