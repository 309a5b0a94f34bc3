# It runs where the template's tools are not.
# mypy: ignore-errors
"""Print rows as this project takes them, as the model takes them, and what it predicts; ``rows.py folder``."""

import sys
from pathlib import Path

import msgspec
import skops.io
from bike_demand import features
from bike_demand.models.inference import read_sample
from bike_demand.models.runtimes.original import to_pandas
from bike_demand.signature import Signature
from bike_demand.validation import ROW, check_frame

COUNT = 1000

folder = Path(sys.argv[1])
path = folder / "model.skops"
model = skops.io.load(path, trusted=skops.io.get_untrusted_types(file=path))
signature = Signature.load(folder / "signature.json")
frame = check_frame(signature, read_sample(folder / "sample.csv")).good.drop(ROW).drop_nulls().head(COUNT)
table = to_pandas(features.derive(frame, list(model.feature_names_in_)))
table = table.astype({name: float for name in table.columns if table[name].dtype != object})
found = {"native": frame.to_dicts(), "columns": table.to_dict("records"), "predictions": model.predict(table).tolist()}
sys.stdout.buffer.write(msgspec.json.encode(found))
