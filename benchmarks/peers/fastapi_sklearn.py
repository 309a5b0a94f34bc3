# It runs where the template's tools are not.
# mypy: ignore-errors
"""FastAPI and scikit-learn as most people write it."""

import os

import pandas as pd
import skops.io
from fastapi import FastAPI
from rentals import Prediction, Row

path = os.environ["MODEL"]
model = skops.io.load(path, trusted=skops.io.get_untrusted_types(file=path))
app = FastAPI()


@app.post("/predict")
def predict(row: Row) -> Prediction:
    """Predict one row."""
    return Prediction(prediction=model.predict(pd.DataFrame([row.model_dump()]))[0])
