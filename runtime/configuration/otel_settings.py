"""Where OpenTelemetry's metrics and traces go."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from ..validation import StrictModel

_ENDPOINTS = (
    *("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
)


class OtelSettings(StrictModel):
    """A collector that speaks OTLP over gRPC. What is unset here, the standard's OTEL_* variables decide."""

    endpoint: Annotated[str, Field(pattern=r"^https?://[^/]+:\d{1,5}/?$")] | None = Field(
        default=None, description="http://HOST:PORT, or https:// for TLS; unset: OTEL_EXPORTER_OTLP_ENDPOINT, or off."
    )
    insecure: bool = Field(default=False, description="Allow http:// to another machine.")
    headers: dict[Annotated[str, Field(pattern=r"^[a-z0-9_.-]+$")], str] = Field(
        default={}, description="Sent with every export, such as a token of the collector."
    )
    sample_ratio: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="Share of the traces to keep that no caller decided on; unset: OTEL_TRACES_SAMPLER."
    )

    @model_validator(mode="after")
    def _require_encryption(self) -> OtelSettings:
        url = urlsplit(self.endpoint or "")
        if url.scheme == "http" and not self.insecure and not _is_loopback(url.hostname or ""):
            raise ValueError("endpoint must be https:// or on loopback, unless insecure is true")
        return self

    def wanted(self, environ: Mapping[str, str]) -> bool:
        """Whether anything is to be sent: the configuration or the environment names a collector."""
        if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
            return False
        return self.endpoint is not None or any(environ.get(name) for name in _ENDPOINTS)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
