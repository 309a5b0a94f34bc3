# It runs where the template's tools are not.
# mypy: ignore-errors
"""What the applications with FastAPI take and give."""

from pydantic import BaseModel


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
