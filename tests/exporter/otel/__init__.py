"""Tests of OpenTelemetry: metrics over OTLP, spans for tasks."""
