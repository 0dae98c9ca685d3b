"""What each method of the daemon asks of its caller: the one table. A method that is not in it is for nobody."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from .caller import Role

Need = Role | Literal["anyone", "any caller"]
"""A role; or `any caller` that was told apart, whatever its roles; or `anyone`, without being asked who it is."""

NEEDS: Mapping[str, Need] = {
    "/edgeqwen.v1.Control/SetPowerMode": "admin",
    "/edgeqwen.v1.Generation/Detokenize": "generate",
    "/edgeqwen.v1.Generation/Generate": "generate",
    "/edgeqwen.v1.Generation/GenerateBatch": "generate",
    "/edgeqwen.v1.Generation/Tokenize": "generate",
    "/edgeqwen.v1.Health/GetHealthReport": "observe",
    "/edgeqwen.v1.Models/ListModels": "observe",
    "/edgeqwen.v1.Models/LoadModel": "admin",
    "/edgeqwen.v1.Models/UnloadModel": "admin",
    "/edgeqwen.v1.Rollout/Activate": "admin",
    "/edgeqwen.v1.Rollout/Commit": "admin",
    "/edgeqwen.v1.Rollout/GetRollout": "observe",
    "/edgeqwen.v1.Rollout/RollBack": "admin",
    "/edgeqwen.v1.Telemetry/GetSnapshot": "observe",
    "/edgeqwen.v1.Telemetry/Watch": "observe",
    # Load balancers and orchestrators ask these before they have a name, and learn one bit.
    "/grpc.health.v1.Health/Check": "anyone",
    "/grpc.health.v1.Health/List": "anyone",
    "/grpc.health.v1.Health/Watch": "anyone",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": "any caller",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": "any caller",
    "/inference.GRPCInferenceService/ModelInfer": "generate",
    "/inference.GRPCInferenceService/ModelMetadata": "any caller",
    "/inference.GRPCInferenceService/ModelReady": "any caller",
    "/inference.GRPCInferenceService/ModelStreamInfer": "generate",
    "/inference.GRPCInferenceService/RepositoryIndex": "observe",
    "/inference.GRPCInferenceService/RepositoryModelLoad": "admin",
    "/inference.GRPCInferenceService/RepositoryModelUnload": "admin",
    "/inference.GRPCInferenceService/ServerLive": "anyone",
    "/inference.GRPCInferenceService/ServerMetadata": "any caller",
    "/inference.GRPCInferenceService/ServerReady": "anyone",
    # Of HTTP, where the path is the method; /healthz and /readyz are not asked about.
    "/v1/chat/completions": "generate",
    "/v1/completions": "generate",
    "/v1/models": "any caller",
}
