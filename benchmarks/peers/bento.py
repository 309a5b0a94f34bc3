# It runs where the template's tools are not.
# mypy: ignore-errors
"""BentoML with adaptive batching."""

import os
from typing import Any

import bentoml
import pandas as pd
import skops.io


@bentoml.service(workers=1, traffic={"timeout": 60})
class Rentals:
    """The pipeline."""

    def __init__(self) -> None:
        """Load it."""
        path = os.environ["MODEL"]
        self.model = skops.io.load(path, trusted=skops.io.get_untrusted_types(file=path))

    @bentoml.api(batchable=True)
    def predict(self, rows: list[dict[str, Any]]) -> list[float]:
        """Predict the rows of several requests."""
        return self.model.predict(pd.DataFrame(rows)).tolist()
