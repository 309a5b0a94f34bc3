# It runs where the template's tools are not.
# mypy: ignore-errors
"""This project's service without its log and its metrics: only to measure what they cost."""

import runpy

from bike_demand.serving import app
from bike_demand.serving.plane import predictor
from bike_demand.store.events import EventLog


class Nothing:
    """Stands for every metric."""

    def __init__(self, *arguments: object) -> None:
        pass

    def labels(self, *values: object) -> "Nothing":
        """Return itself."""
        return self

    def inc(self, *amount: object) -> bytes:
        """Forget."""
        return b""

    def count(self, *request: object) -> None:
        """Forget."""

    def settle(self) -> tuple[object, ...]:
        """Return nothing."""
        return ()


predictor.PREDICTIONS, app.Tally = Nothing(), Nothing
EventLog.append = EventLog.extend = Nothing.inc
predictor.encode = Nothing().inc  # of rows, for the log
runpy.run_module("bike_demand", run_name="__main__")
