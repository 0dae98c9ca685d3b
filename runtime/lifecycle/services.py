"""All services in front of the models, on one gRPC server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import grpc.aio

from edgeqwen.kserve import inference_pb2_grpc
from edgeqwen.v1 import (
    control_pb2_grpc,
    generation_pb2_grpc,
    health_pb2_grpc,
    models_pb2_grpc,
    rollout_pb2_grpc,
    telemetry_pb2_grpc,
)

from ..access.clients import Clients
from ..access.entrance import Entrance
from ..api.control import ControlService
from ..api.generator import Generator
from ..api.health_report import HealthService
from ..api.models_service import ModelsService
from ..api.open_calls import OpenCalls
from ..api.reflection import add_reflection
from ..api.rollout_service import RolloutService
from ..api.service import GenerationService
from ..api.telemetry import TelemetryService
from ..api.wellformed import RefuseMalformed
from ..health.caretaker import Caretaker
from ..health.health import SERVICES, Health
from ..kserve.service import SERVICE, InferenceService
from ..models.registry import Models
from ..rollout.rollouts import Rollouts
from ..sensing.board import Board


@dataclass(frozen=True)
class Services:
    """The server, and what of it the daemon talks to itself. `calls` are those that are open."""

    server: grpc.aio.Server
    calls: OpenCalls
    clients: Clients
    caretaker: Caretaker
    telemetry: TelemetryService


def make_services(
    models: Models,
    max_message_bytes: int,
    entrance: Entrance,
    clients: Clients | None = None,
    board: Board | None = None,
    caretaker: Caretaker | None = None,
    rollouts: Rollouts | None = None,
    *,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
) -> Services:
    """All services in front of `models`, to be reached by `entrance`, which listens nowhere yet.

    `clients` are those of the models; telemetry reads `board`; `caretaker` looks after the models, None makes one that
    reads no board. `rollouts` are those of a daemon with a store.
    """
    server = grpc.aio.server(
        interceptors=[entrance.gate, *interceptors, RefuseMalformed()],
        options=[
            *entrance.options,
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.so_reuseport", 0),  # two daemons on one port would share its clients in silence
        ],
    )
    entrance.attach(server)
    calls, generator, clients = OpenCalls(), Generator(models), clients or Clients()
    caretaker = caretaker or Caretaker(models, Health())
    caretaker.warn_by(entrance.warnings)
    telemetry = TelemetryService(
        models, clients, board, warnings=caretaker.warnings, errors=entrance.errors, rollouts=rollouts
    )
    generation = GenerationService(models, generator, calls, entrance.errors)
    inference = InferenceService(models, generator, calls, entrance.errors)
    generation_pb2_grpc.add_GenerationServicer_to_server(generation, server)
    models_pb2_grpc.add_ModelsServicer_to_server(ModelsService(models), server)
    telemetry_pb2_grpc.add_TelemetryServicer_to_server(telemetry, server)
    health_pb2_grpc.add_HealthServicer_to_server(HealthService(caretaker, rollouts=rollouts), server)
    rollout_pb2_grpc.add_RolloutServicer_to_server(RolloutService(rollouts), server)
    control_pb2_grpc.add_ControlServicer_to_server(ControlService(caretaker), server)
    inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(inference, server)
    caretaker.health.add_to(server)
    add_reflection(server, [*(name for name in SERVICES if name), SERVICE, "grpc.health.v1.Health"])
    return Services(server, calls, clients, caretaker, telemetry)
