"""Batch predictions: files in, predictions and quarantine out, exactly once."""
