"""Metrics and traces for OpenTelemetry, after its conventions for generative AI."""
