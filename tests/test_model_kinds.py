"""Models of many kinds, trained by a team on scikit-learn's bundled data, are served as the originals predict."""

import json
import os
import shutil
import statistics
import subprocess
from pathlib import Path

import pytest
from support import needs_module
from test_projects import run
from test_real_models import call, service

# What a team does outside the project: train, save in the library's own way, keep rows that the model did not see.
COMMON = """
import sys, json
import numpy as np, pandas as pd
from pathlib import Path
from sklearn import datasets
from sklearn.model_selection import train_test_split

folder = Path(sys.argv[1])

def load(name):
    data = getattr(datasets, "load_" + name)(as_frame=True)
    table = data.data.rename(columns=lambda column: column.replace(" ", "_").replace("/", "_per_"))
    return train_test_split(table, data.target, random_state=0)

def keep(new, truth, predictions):
    new.assign(outcome=np.asarray(truth)).to_csv(folder / "sample.csv", index=False)
    (folder / "rows.json").write_text(json.dumps(new.head(40).replace({np.nan: None}).to_dict("records")))
    (folder / "expected.json").write_text(json.dumps(np.asarray(predictions)[:40].tolist()))
"""
KINDS = {
    "random forest": (
        "model.skops",
        """
import skops.io
from sklearn.ensemble import RandomForestRegressor
known, new, truth, held = load("diabetes")
model = RandomForestRegressor(30, random_state=0).fit(known, truth)
skops.io.dump(model, folder / "model.skops")
keep(new, held, model.predict(new))
""",
    ),
    "boosting with categories": (
        "model.skops",
        """
import skops.io
from sklearn.ensemble import HistGradientBoostingRegressor
known, new, truth, held = load("diabetes")
for table in (known, new):
    table["sex"] = np.where(table["sex"] > 0, "f", "m")
    table["weight"] = np.where(table["bmi"] > 0.03, "high", np.where(table["bmi"] < -0.03, "low", "middle"))
typed = {"sex": pd.CategoricalDtype(["f", "m"]), "weight": pd.CategoricalDtype(["high", "low", "middle"])}
model = HistGradientBoostingRegressor(max_iter=40, random_state=0, categorical_features="from_dtype")
model.fit(known.astype(typed), truth)
skops.io.dump(model, folder / "model.skops")
keep(new, held, model.predict(new.astype(typed)))
""",
    ),
    "Poisson boosting": (
        "model.skops",
        """
import skops.io
from sklearn.ensemble import HistGradientBoostingRegressor
known, new, truth, held = load("diabetes")
model = HistGradientBoostingRegressor(loss="poisson", max_iter=40, random_state=0).fit(known, truth)
skops.io.dump(model, folder / "model.skops")
keep(new, held, model.predict(new))
""",
    ),
    "logistic regression": (
        "model.joblib",
        """
import joblib
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
known, new, truth, held = load("breast_cancer")
names = np.array(["malignant", "benign"])
model = make_pipeline(StandardScaler(), LogisticRegression()).fit(known, names[truth])
joblib.dump(model, folder / "model.joblib")
keep(new, names[held], model.predict(new))
""",
    ),
    "XGBoost": (
        "model.ubj",
        """
from xgboost import XGBClassifier
known, new, truth, held = load("wine")
model = XGBClassifier(n_estimators=40, random_state=0).fit(known, truth)
model.save_model(folder / "model.ubj")
keep(new, held, model.predict(new))
""",
    ),
    "LightGBM": (
        "model.txt",
        """
from lightgbm import LGBMRegressor
known, new, truth, held = load("diabetes")
known, new = known.copy(), new.copy()
known.iloc[::7, 2] = np.nan
new.iloc[::5, 2] = np.nan
model = LGBMRegressor(n_estimators=60, verbose=-1, random_state=0).fit(known, truth)
model.booster_.save_model(folder / "model.txt")
keep(new, held, model.predict(new))
""",
    ),
    "MLflow pyfunc with custom code": (
        "model",
        """
import mlflow
from sklearn.linear_model import Ridge
known, new, truth, held = load("diabetes")

class Capped(mlflow.pyfunc.PythonModel):
    def __init__(self, inner, most):
        self.inner, self.most = inner, most
    def predict(self, context, model_input, params=None):
        return np.minimum(self.inner.predict(model_input), self.most)

model = Capped(Ridge(0.1).fit(known, truth), float(truth.quantile(0.9)))
signature = mlflow.models.infer_signature(known, truth.astype(float))
mlflow.pyfunc.save_model(folder / "model", python_model=model, signature=signature)
keep(new, held, model.predict(None, new))
""",
    ),
    "MLflow scikit-learn flavour": (
        "model",
        """
import mlflow
from sklearn.ensemble import ExtraTreesClassifier
known, new, truth, held = load("iris")
names = np.array(["setosa", "versicolor", "virginica"])
model = ExtraTreesClassifier(30, random_state=0).fit(known, names[truth])
mlflow.sklearn.save_model(model, folder / "model", serialization_format="cloudpickle",
    signature=mlflow.models.infer_signature(known, names[truth]))
keep(new, names[held], model.predict(new))
""",
    ),
    "PyTorch as ONNX": (
        "model.onnx",
        """
import torch
torch.manual_seed(0)
torch.set_num_threads(1)
known, new, truth, held = load("digits")
net = torch.nn.Sequential(torch.nn.Linear(64, 48), torch.nn.ReLU(), torch.nn.Linear(48, 10))
x, y = torch.tensor(known.to_numpy(), dtype=torch.float32), torch.tensor(truth.to_numpy())
optimizer = torch.optim.Adam(net.parameters(), 0.01)
for _ in range(150):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(net(x), y).backward()
    optimizer.step()
net.eval()
torch.onnx.export(net, (x[:2],), folder / "model.onnx", dynamic_shapes=({0: torch.export.Dim("rows")},), verbose=False)
with torch.no_grad():
    keep(new, held, net(torch.tensor(new.to_numpy(), dtype=torch.float32)).argmax(1).numpy())
""",
    ),
    "a function of the team's own": (
        "scores:build",
        """
from sklearn.linear_model import LinearRegression
known, new, truth, held = load("diabetes")
model = LinearRegression().fit(known, truth)
(folder / "weights.json").write_text(json.dumps([model.intercept_, *model.coef_]))
(folder / "scores.py").write_text('''
import json
import numpy as np

class Score:
    def __init__(self, weights):
        self.weights = np.array(weights)
    def predict(self, table):
        return self.weights[0] + table.to_numpy() @ self.weights[1:]

def build(folder):
    return Score(json.loads((folder / "weights.json").read_text()))
''')
keep(new, held, model.predict(new))
""",
    ),
}
OPTIONS = {
    "model.joblib": ["--trust-pickle"],
    "model": ["--trust-pickle"],
    "scores:build": ["--with", "weights.json"],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_served_as_the_original_predicts(kind, default_project, team, tmp_path):
    if kind == "PyTorch as ONNX":
        needs_module(team, "torch")
    project = Path(shutil.copytree(default_project, tmp_path / "project"))
    folder = tmp_path / "trained"
    folder.mkdir()
    name, training = KINDS[kind]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [team, "-c", COMMON + training, str(folder)], cwd=folder, env=os.environ | quiet, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows, expected = (json.loads((folder / f"{file}.json").read_text()) for file in ("rows", "expected"))

    def tool(*words: str) -> str:
        done = run(project, team, "bike_demand", *words, **quiet)
        assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout

    if ":" in name:
        shutil.copy(folder / "scores.py", project)
    reference = name if ":" in name else str(folder / name)
    options = [str(folder / word) if word == "weights.json" else word for word in OPTIONS.get(name, [])]
    sample = str(folder / "sample.csv")
    printed = tool("model", "import", reference, "--sample", sample, "--target", "outcome", *options)
    version = printed.split()[-1]
    parity = json.loads((project / f"data/models/versions/{version}/parity.json").read_text())
    # Small hold-outs: whether the model is good enough is for another test.
    tool("model", "promote", version, "--override", "shows that this kind of model is served")

    with service(project, team) as connection:
        status, body = call(connection, "POST", "/v1/predict", {"rows": rows})
        assert status == 200, body
        answered = [one["prediction"] for one in json.loads(body)["predictions"]]
    if isinstance(expected[0], float):
        allowed = parity["largest"] * 2 * statistics.pstdev(expected) if parity["converted"] else 0
        assert answered == pytest.approx(expected, rel=1e-5, abs=allowed)
    else:
        assert answered == expected
