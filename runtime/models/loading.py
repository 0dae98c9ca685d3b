"""A package and its settings become a session and an engine."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ..access.clients import Clients
from ..configuration.config import Config
from ..configuration.settings import RunSettings
from ..engine.engine import Engine
from ..engine.tokenizer import Tokenizer
from ..errors import AdapterError, SessionError
from ..package import Package
from ..profile import Profile
from ..sessions.adapters import Adapter
from ..sessions.cuda_session import CudaSession
from ..sessions.ort_session import OrtSession
from ..sessions.plain_session import PlainSession
from ..sessions.qnn_pipeline import QnnPipeline
from ..sessions.session import Session
from ..sessions.static_session import StaticSession

_REQUEST_IDS = itertools.count(1)
"""Of all engines in this process: a number means one request in its log."""


def load_session(package: Package, settings: RunSettings, adapters: Sequence[Adapter] = ()) -> Session:
    """Loads the model with the backend that it was built for. Raises SessionError or AdapterError."""
    build = package.build
    backend, options = build.profile.execution.backend, build.profile.execution.options
    plain = build.exporter == "optimum"
    if (backend != "ort" or plain) and adapters:
        raise AdapterError(f"{build.runs_on} runs no adapters so far: merge one with --merge-adapter")
    if plain:
        return PlainSession(settings.graph, context_tokens=settings.context_tokens, threads=settings.decode_threads)
    if backend == "openvino":
        return _load_openvino(build.profile, settings)
    if backend == "cuda":
        return CudaSession(
            settings.graph,
            slots=settings.session_slots,
            context_tokens=settings.context_tokens,
            provider=build.needs.provider,
            provider_options=options,
        )
    if backend == "qnn":
        pipeline = QnnPipeline(
            package.variant_dir,
            context_tokens=settings.context_tokens,
            threads=settings.decode_threads,
            provider_options=options,
        )
        return StaticSession(pipeline)
    return OrtSession(
        settings.graph,
        slots=settings.session_slots,
        context_tokens=settings.context_tokens,
        threads=settings.decode_threads,
        prefill_threads=settings.prefill_threads,
        provider=build.needs.provider,
        provider_options=build.profile.execution.options,
        adapters=adapters,
    )


def _load_openvino(profile: Profile, settings: RunSettings) -> Session:
    try:
        from ..sessions.openvino_session import open_openvino
    except ImportError as error:
        raise SessionError("OpenVINO is not installed: pip install 'edgeqwen[openvino]'") from error
    assert settings.device is not None
    return open_openvino(
        settings.graph,
        profile,
        device=settings.device,
        slots=settings.session_slots,
        context_tokens=settings.context_tokens,
        threads=settings.decode_threads,
    )


def load_engine(
    package: Package,
    session: Session,
    tokenizer: Tokenizer,
    config: Config,
    settings: RunSettings,
    *,
    clients: Clients | None = None,
) -> Engine:
    """The engine that serves `session` to `clients`, not started."""
    build = package.build
    return Engine(
        session,
        tokenizer,
        eos_token_ids=frozenset(build.model.eos_token_ids),
        queue_limit=config.queue_limit,
        prefill_chunk_tokens=build.profile.runtime.prefill_chunk_tokens,
        max_running=settings.slots,
        # A graph of fixed width computes a whole window or a single token: a guess would cost as much as a window.
        speculate=config.speculate and not build.profile.execution.one_row,
        token_cost=settings.token_cost,
        kv_budget_tokens=settings.kv_budget_bytes // session.spec.kv_bytes_per_token,
        ids=_REQUEST_IDS,
        clients=clients,
    )
