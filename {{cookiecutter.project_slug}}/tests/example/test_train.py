import json
import pkgutil

import numpy as np
import onnxruntime
import polars as pl
import pytest
import skops.io
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from typer.testing import CliRunner

from project import example
from project.commands.example import app
from project.errors import ProjectError
from project.example import dataset
from project.example.train import inputs, train
from project.models.metrics import evaluate
from project.settings import Project, Settings
from project.signature import Signature
from project.validation import check_frame

TREES = ["sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"]
# What this project came with.
EXAMPLES = sorted(found.name.replace("_", "-") for found in pkgutil.iter_modules(example.__path__) if "_" in found.name)
EXAMPLE = EXAMPLES[0]


@pytest.fixture(scope="module", params=EXAMPLES)
def trained(request, tmp_path_factory):
    settings = Settings(root=tmp_path_factory.mktemp("project"), project=Project(example=request.param))
    return dataset(request.param), train(settings, rows=4000, seed=1)


def load(folder):
    return skops.io.load(folder / "model.skops", trusted=TREES)


def test_it_writes_what_an_import_needs(trained):
    data, result = trained
    assert result.folder.parts[-2:] == ("data", "example")
    assert sorted(path.name for path in result.folder.iterdir()) == [
        "model.skops",
        "sample.csv",
        "signature.json",
        "training.json",
    ]
    signature = Signature.load(result.folder / "signature.json")
    assert signature.inputs == data.COLUMNS
    sample = pl.read_csv(result.folder / "sample.csv", infer_schema=False)
    checked = check_frame(signature, sample)
    assert checked.bad.height == 0
    assert sample[data.TARGET.name].null_count() == 0
    assert sample.height == 800
    details = json.loads((result.folder / "training.json").read_text())
    assert "synthetic" in details["data"]
    assert details["rows"] == {"training": 3200, "holdout": 800}


def test_the_saved_model_gives_the_stated_metrics_on_the_sample(trained):
    data, result = trained
    sample = pl.read_csv(result.folder / "sample.csv", infer_schema=False)
    rows = check_frame(Signature.load(result.folder / "signature.json"), sample).good
    predicted = pl.DataFrame({"prediction": load(result.folder).predict(inputs(data, rows))})
    again = evaluate(data.TASK, sample[data.TARGET.name].cast(data.rows(1, 1).schema[data.TARGET.name]), predicted)
    assert again.items() <= result.metrics.items()


def test_it_beats_the_forecast_without_a_model(trained):
    data, result = trained
    better = {"regression": "r2", "classification": "roc_auc"}[data.TASK]
    assert result.metrics[better] > result.baseline[better] + 0.1


def test_the_rows_held_out_are_later_or_stratified(trained):
    data, result = trained
    sample = pl.read_csv(result.folder / "sample.csv", try_parse_dates=True)
    history = data.history(4000, 1)
    if data.TASK == "regression":
        assert (history["timestamp"] >= sample["timestamp"].min()).sum() == pytest.approx(800, abs=5)
    else:
        shares = [(frame["churned"] == "yes").mean() for frame in (sample, history)]
        assert shares[0] == pytest.approx(shares[1], abs=0.002)


def test_it_converts_to_onnx_exactly(trained):
    data, result = trained
    model, rows = load(result.folder), inputs(data, data.rows(2000, 5, drift=True))
    number = {name for name in rows.columns if rows[name].dtype == float}
    kinds = [(name, (FloatTensorType if name in number else StringTensorType)([None, 1])) for name in rows.columns]
    converted = to_onnx(model, initial_types=kinds, target_opset=18)
    session = onnxruntime.InferenceSession(converted.SerializeToString())
    feed = {name: rows[[name]].to_numpy(np.float32 if name in number else object) for name in rows.columns}
    predicted = session.run(None, feed)[0].reshape(-1)
    if data.TASK == "regression":
        np.testing.assert_allclose(predicted, model.predict(rows), atol=1e-3)
    else:
        assert (predicted == model.predict(rows)).all()


def test_the_same_seed_gives_the_same_numbers(tmp_path):
    settings = Settings(root=tmp_path, project=Project(example=EXAMPLE))
    one, two = (train(settings, tmp_path / name, rows=1000, seed=3) for name in ("one", "two"))
    assert one.metrics == two.metrics
    assert (tmp_path / "one/sample.csv").read_bytes() == (tmp_path / "two/sample.csv").read_bytes()


def test_too_few_rows_are_refused(tmp_path):
    with pytest.raises(ProjectError, match="--rows 500 or more"):
        train(Settings(root=tmp_path, project=Project(example=EXAMPLE)), rows=10)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def run(tmp_path, monkeypatch):
    (tmp_path / "config").mkdir()
    (tmp_path / "config/settings.toml").write_text(f'[project]\nexample = "{EXAMPLE}"\n')
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: object):
        return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=True)

    return invoke


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_rows_and_their_truth_go_to_two_files(run, tmp_path, suffix):
    result = run("rows", "--rows", 50, "--seed", 9, "--output", f"new/rows.{suffix}", "--truth", f"truth.{suffix}")
    assert result.exit_code == 0, result.output
    assert "50 synthetic rows" in result.output
    read = pl.read_csv if suffix == "csv" else pl.read_parquet
    rows, truth = read(tmp_path / f"new/rows.{suffix}"), read(tmp_path / f"truth.{suffix}")
    target = dataset(EXAMPLE).TARGET.name
    assert target not in rows.columns
    assert truth.columns == ["row", "actual"]
    assert truth["row"].to_list() == list(range(1, 51))
    assert truth["actual"].to_list() == dataset(EXAMPLE).rows(50, 9)[target].to_list()


def test_some_rows_can_be_broken(run, tmp_path):
    assert "10 of them broken" in run("rows", "--rows", 100, "--bad", 0.1, "--output", "rows.csv").output
    signature = Signature("", "regression", None, dataset(EXAMPLE).COLUMNS, ())
    rows = pl.read_csv(tmp_path / "rows.csv", infer_schema=False)
    assert check_frame(signature, rows).bad.height == 10


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("rows", "--rows", -1, "--output", "a.csv"), "must not be negative"),
        (("rows", "--rows", 1, "--output", "a.xlsx"), "name it .csv or .parquet"),
        (("rows", "--rows", 1, "--output", "a.csv", "--truth", "./a.csv"), "give two names"),
        (("rows", "--rows", 1, "--output", "config/settings.toml/a.csv"), "choose another place"),
        (("train", "--rows", 500, "--output", "config/settings.toml"), "choose another place"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_leaves_nothing(run, tmp_path, arguments, sentence):
    result = run(*arguments)
    assert isinstance(result.exception, ProjectError)
    assert sentence in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["config"]
