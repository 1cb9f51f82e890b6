"""Traces and metrics of jobs, for OpenTelemetry and for prometheus_client. Only the settings import these modules."""
