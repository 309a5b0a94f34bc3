"""Logs and metrics: every name is defined once and used by service and pipeline alike."""
