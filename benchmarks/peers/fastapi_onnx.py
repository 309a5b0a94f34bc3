# It runs where the template's tools are not.
# mypy: ignore-errors
"""FastAPI and ONNX Runtime, written with care: the grouped inputs of this project's bundle, no thread for a request."""

import json
import os
from pathlib import Path

import numpy as np
import onnxruntime
from fastapi import FastAPI
from rentals import Prediction, Row

bundle = Path(os.environ["MODEL"])
manifest = json.loads((bundle / "bundle.json").read_text())
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(bundle / "model.onnx", options, providers=["CPUExecutionProvider"])
output = session.get_outputs()[0].name
app = FastAPI()


@app.post("/predict")
async def predict(row: Row) -> Prediction:
    """Predict one row."""
    values = row.model_dump()
    row = [values[one] if isinstance(one, str) else values[one[0]] == one[1] for one in manifest["numeric"]]
    feed = {"numeric": np.array([row], manifest["dtype"])}
    if manifest["text"]:
        feed["text"] = np.array([[values[name] for name in manifest["text"]]], object)
    result = session.run([output], feed)[0]
    return Prediction(prediction=float(result.ravel()[0]))
