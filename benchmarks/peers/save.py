# It runs where the template's tools are not.
# mypy: ignore-errors
"""Save the model as MLflow (a folder) or MLServer (a .joblib) want it; ``save.py model.skops rows.json target``."""

import json
import sys
from pathlib import Path

import pandas as pd
import skops.io

source, rows, target = sys.argv[1:]
types = skops.io.get_untrusted_types(file=source)
model = skops.io.load(source, trusted=types)
if target.endswith(".joblib"):
    import joblib

    joblib.dump(model, target)
else:
    import mlflow

    table = pd.DataFrame(json.loads(Path(rows).read_text())["columns"])
    signature = mlflow.models.infer_signature(table, model.predict(table))
    mlflow.sklearn.save_model(model, target, signature=signature, skops_trusted_types=types)
