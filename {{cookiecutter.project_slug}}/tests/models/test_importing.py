"""A trained model goes in; the bundle predicts what the model predicts, and says where it comes from."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import polars as pl
import pytest
import skops.io
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression

from project.errors import ProjectError
from project.models.importing import Source, import_model
from project.models.registry import Registry
from project.models.runtimes.original import to_pandas
from project.models.scorer import Scorer
from project.settings import Settings
from project.signature import Signature
from project.validation import check_frame


def test_regression_is_converted_and_predicts_the_same(
    champion: Settings, trained: dict[str, Source], rows: pl.DataFrame
) -> None:
    bundle = Registry(champion).load("champion")
    assert bundle.manifest["runtime"] == "trees"
    assert bundle.parity["largest"] < 1e-4
    good = check_frame(bundle.signature, rows).good
    from project import features

    path = trained["hires"].reference
    model = skops.io.load(path, trusted=skops.io.get_untrusted_types(file=path))
    wanted = model.predict(to_pandas(features.derive(good, bundle.manifest["columns"])))
    np.testing.assert_allclose(Scorer(bundle).frame(good)["prediction"].to_numpy(), wanted, rtol=1e-4)


def test_classifier_gives_class_and_probabilities(classifier: Settings, rows: pl.DataFrame) -> None:
    bundle = Registry(classifier).load("champion")
    output = Scorer(bundle).frame(check_frame(bundle.signature, rows).good)
    assert output.columns == ["prediction", "probability_no", "probability_yes"]
    assert set(output["prediction"].unique()) == {"no", "yes"}
    np.testing.assert_allclose(output["probability_no"] + output["probability_yes"], 1, atol=1e-6)
    assert bundle.metrics["accuracy"] > 0.8


def test_signature_is_read_off_the_sample(champion: Settings) -> None:
    signature = Registry(champion).load("champion").signature
    kinds = {column.name: column.type for column in signature.inputs}
    assert kinds == {
        "at": "datetime",
        "temperature": "number",
        "station": "string",
        "staff": "integer",
        "open": "boolean",
    }
    assert signature.input("station").categories == ("harbour", "north", "south")
    assert signature.input("temperature").nullable
    assert not signature.input("staff").nullable


@pytest.mark.parametrize("loss", ["poisson", "gamma"])
def test_logarithmic_boosting_predicts_the_same(settings: Settings, tmp_path: Path, loss: str) -> None:
    source, model, frame = _boosting(tmp_path, loss=loss)
    bundle = import_model(settings, source)
    assert bundle.manifest["runtime"] == "trees"
    np.testing.assert_allclose(Scorer(bundle).frame(frame)["prediction"], model.predict(frame.to_numpy()), rtol=1e-4)


@pytest.mark.parametrize("loss", ["poisson", "gamma"])
def test_silently_wrong_conversion_is_caught_and_the_original_kept(
    settings: Settings, tmp_path: Path, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from project.models import conversion

    monkeypatch.setattr(conversion, "_log_link", lambda estimator: False)  # what skl2onnx itself makes of it
    source, model, frame = _boosting(tmp_path, loss=loss)
    told: list[str] = []
    bundle = import_model(settings, source, told.append)
    assert bundle.manifest["runtime"] == "original"
    assert not bundle.parity["passed"]
    assert any("kept as it is: the ONNX form differs by" in line for line in told)
    np.testing.assert_allclose(Scorer(bundle).frame(frame)["prediction"], model.predict(frame.to_numpy()))


def _boosting(folder: Path, **options: object) -> tuple[Source, HistGradientBoostingRegressor, pl.DataFrame]:
    values = np.random.default_rng(1).random((500, 3))
    model = HistGradientBoostingRegressor(max_iter=20, **options).fit(values, np.exp(3 * values[:, 0]))
    skops.io.dump(model, folder / "m.skops")
    frame = pl.DataFrame(values, schema=["a", "b", "c"], orient="row")
    frame.write_csv(folder / "s.csv")
    return Source(str(folder / "m.skops"), folder / "s.csv"), model, frame


@pytest.mark.parametrize("how", ["from_dtype", "name", "place"])
def test_boosting_with_categories_predicts_the_same(settings: Settings, tmp_path: Path, how: str) -> None:
    import pandas as pd

    random = np.random.default_rng(3)
    table = pd.DataFrame({"a": random.random(600), "kind": random.integers(0, 12, 600), "b": random.random(600)})
    truth = table["a"] + random.permutation(12)[table["kind"]]
    if how == "place":
        model = HistGradientBoostingRegressor(categorical_features=[1], max_iter=30).fit(table.to_numpy(), truth)
        expected = model.predict(table.to_numpy())
    else:
        table["kind"] = "k" + table["kind"].astype(str)
        if how == "from_dtype":
            table["kind"] = table["kind"].astype("category")
        features = "from_dtype" if how == "from_dtype" else ["kind"]
        model = HistGradientBoostingRegressor(categorical_features=features, max_iter=30).fit(table, truth)
        expected = model.predict(table)
    skops.io.dump(model, tmp_path / "m.skops")
    table.to_csv(tmp_path / "s.csv", index=False)
    bundle = import_model(settings, Source(str(tmp_path / "m.skops"), tmp_path / "s.csv"))
    rows = check_frame(bundle.signature, pl.read_csv(tmp_path / "s.csv", infer_schema_length=None)).good
    np.testing.assert_allclose(Scorer(bundle).frame(rows)["prediction"], expected, rtol=1e-5)


def test_bundle_holds_sample_slices_baseline_and_provenance(settings: Settings, trained: dict[str, Source]) -> None:
    told: list[str] = []
    bundle = import_model(settings, replace(trained["hires"], name="Hires by hour"), told.append)
    assert bundle.signature.title == bundle.manifest["title"] == "Hires by hour"
    kept = bundle.sample()
    assert kept is not None
    assert kept.columns == [*bundle.signature.by_name, "hires"]
    assert set(bundle.evaluation["slices"]["station"]) == {"harbour", "north", "south"}
    assert bundle.evaluation["baseline"].keys() >= {"name", "rows", "rmse"}
    assert bundle.provenance["source"] == "hires.skops"
    assert bundle.provenance["training"]["parameters"]["max_iter"] == "20"
    assert bundle.provenance["libraries"]["scikit-learn"]
    assert any(str(bundle.folder / "signature.json") in line for line in told)


def test_a_packed_bundle_is_imported_as_it_is(champion: Settings, settings: Settings, tmp_path: Path) -> None:
    from project.models.bundle import pack

    given = Registry(champion).load("champion")
    pack(given, tmp_path / "given.bundle")
    assert import_model(settings, Source(str(tmp_path / "given.bundle"))).version == given.version
    assert [info.version for info in Registry(settings).versions()] == [given.version]


def test_same_model_and_sample_give_the_same_version(settings: Settings, trained: dict[str, Source]) -> None:
    first = import_model(settings, trained["hires"])
    assert import_model(settings, trained["hires"]).version == first.version
    assert len(Registry(settings).versions()) == 1


def test_edited_signature_is_used_and_enforced(settings: Settings, trained: dict[str, Source], tmp_path: Path) -> None:
    signature = import_model(settings, trained["hires"]).signature
    edited = replace(
        signature,
        inputs=tuple(
            replace(one, minimum=0, unit="people") if one.name == "staff" else one for one in signature.inputs
        ),
    )
    edited.save(tmp_path / "signature.json")
    bundle = import_model(settings, replace(trained["hires"], signature=tmp_path / "signature.json"))
    assert bundle.signature.input("staff").unit == "people"
    assert bundle.signature == Signature.load(tmp_path / "signature.json")


@pytest.fixture
def small(tmp_path: Path) -> Source:
    """A pickled classifier of two columns, and its sample."""
    random = np.random.default_rng(2)
    frame = pl.DataFrame({"a": random.random(100), "b": random.random(100)})
    truth = (frame["a"] > 0.5).to_list()
    joblib.dump(LogisticRegression().fit(frame.to_numpy(), truth), tmp_path / "m.joblib")
    frame.with_columns(pl.Series("y", truth)).write_csv(tmp_path / "s.csv")
    return Source(str(tmp_path / "m.joblib"), tmp_path / "s.csv", "y", trust_pickle=True)


def test_pickle_with_leave_is_imported(settings: Settings, small: Source) -> None:
    assert import_model(settings, small).signature.input("a").type == "number"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"trust_pickle": False}, "pass --trust-pickle"),
        ({"target": "z"}, "no column 'z'"),
        ({"target": None}, "the model takes 2 columns and the sample has 3"),
        ({"reference": "absent.skops"}, "there is no file"),
        ({"sample": None}, "--sample"),
        ({"target": "a"}, "'a' holds none of them"),
        ({"sample": Path("absent.csv")}, "there is no file"),
        ({"reference": __file__}, "none of the formats"),
        ({"reference": str(Path(__file__).parent)}, "none of the formats"),
        ({"extra": (Path(__file__),)}, "--with is for entry points"),
    ],
)
def test_bad_sources_are_refused_in_a_sentence(
    settings: Settings, small: Source, change: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ProjectError, match=sentence):
        import_model(settings, replace(small, **change))
    assert Registry(settings).versions() == []


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "cannot be read"),
        ("a,b,y\n", "no rows"),
        ("a,a,y\n1,2,true\n", "has the column 'a' twice"),
        ("a,b,y\n1,2,true\n1,2,\n", "is missing in 1 rows"),
        ("a,b,y\n1,2,0.5\n1,2,NaN\n", "is missing in 1 rows"),
        ("a,b,y\n1,2,maybe\n", "holds none of them"),
        ("a,b,y\nx,2,true\n", "cannot predict the sample"),
        ("a,y\n1,true\n", "takes 2 columns"),
    ],
)
def test_bad_samples_are_refused_in_a_sentence(settings: Settings, small: Source, content: str, sentence: str) -> None:
    small.sample.write_text(content)
    with pytest.raises(ProjectError, match=sentence):
        import_model(settings, small)
    assert Registry(settings).versions() == []


def test_unreviewed_type_is_named_and_can_be_allowed(settings: Settings, tmp_path: Path) -> None:
    model = LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0])
    model.extra = shutil.rmtree
    skops.io.dump(model, tmp_path / "m.skops")
    (tmp_path / "s.csv").write_text("a\n1\n2\n")
    source = Source(str(tmp_path / "m.skops"), tmp_path / "s.csv")
    with pytest.raises(ProjectError, match=r"shutil\.rmtree.*--trust-type shutil\.rmtree"):
        import_model(settings, source)
    assert Registry(settings).versions() == []
    bundle = import_model(settings, replace(source, trusted=("shutil.rmtree",)))
    assert bundle.provenance["trusted"]["types"] == ["shutil.rmtree"]
