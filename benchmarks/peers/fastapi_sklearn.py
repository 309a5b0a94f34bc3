# It runs where the template's tools are not.
# mypy: ignore-errors
"""FastAPI and scikit-learn as most people write it."""

import os

import pandas as pd
import skops.io
from fastapi import FastAPI
from pydantic import BaseModel

path = os.environ["MODEL"]
model = skops.io.load(path, trusted=skops.io.get_untrusted_types(file=path))
app = FastAPI()


class Row(BaseModel):
    """The model's columns."""

    district: str
    sky: str
    docks: float
    temperature: float | None
    humidity: float | None
    wind_speed: float
    rain: float
    holiday: float
    event: float
    timestamp_hour: float
    timestamp_weekday: float
    timestamp_month: float


class Prediction(BaseModel):
    """The answer."""

    prediction: float


@app.post("/predict")
def predict(row: Row) -> Prediction:
    """Predict one row."""
    return Prediction(prediction=model.predict(pd.DataFrame([row.model_dump()]))[0])
