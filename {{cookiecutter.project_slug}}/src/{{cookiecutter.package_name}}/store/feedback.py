"""What really happened: what a piece of feedback has to be, and how it gets into the log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

import msgspec

from ..signature import PREDICTION, Column, Signature
from . import bulk
from .database import Store
from .tables import feedback


def contract(signature: Signature, identity: str = "id", actual: str = "actual") -> Signature:
    """Return the contract of one piece of feedback: an id, and an actual value like the prediction.

    Args:
        signature: of the model.
        identity: name of the column with the id.
        actual: name of the column with the value.
    """
    prediction = next(column for column in signature.outputs if column.name == PREDICTION)
    value = replace(prediction, name=actual, nullable=False, description="What really happened.")
    return replace(signature, inputs=(Column(identity, "string", description="Of the prediction."), value), outputs=())


def write(store: Store, actuals: Mapping[str, object]) -> None:
    """Keep the actual values of predictions, by their ids; the last word counts, and one said twice changes nothing.

    Raises:
        ProjectError: the store cannot be written; nothing was kept.
    """
    now, encode = datetime.now(UTC), msgspec.json.encode
    with store.write() as connection:
        time = bulk.stored(connection, feedback)(now)
        rows = [
            (key, time, encode(actuals[key]).decode()) for key in sorted(actuals)
        ]  # sorted: no two writers deadlock
        bulk.insert(connection, feedback, ("prediction_id", "time", "actual"), rows, otherwise="actual")
