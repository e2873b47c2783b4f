"""OpenTelemetry: the exporter's figures over OTLP, and spans for tasks.

Nothing here is imported, and opentelemetry isn't either, unless it's switched on (``--otel.metrics``,
``--otel.traces``) or a program of yours imports it.
"""
