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
from project.models.runtimes.sklearn import to_pandas
from project.models.scorer import Scorer
from project.settings import Settings
from project.signature import Signature
from project.validation import check_frame


def test_regression_is_converted_and_predicts_the_same(
    champion: Settings, trained: dict[str, Source], rows: pl.DataFrame
) -> None:
    bundle = Registry(champion).load("champion")
    assert bundle.manifest["runtime"] == "onnx"
    assert bundle.parity["largest"] < 1e-4
    good = check_frame(bundle.signature, rows).good
    from project import features

    model = skops.io.load(trained["hires"].path, trusted=skops.io.get_untrusted_types(file=trained["hires"].path))
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


def test_silently_wrong_conversion_is_caught_and_the_original_kept(settings: Settings, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    values = random.random((500, 3))
    model = HistGradientBoostingRegressor(loss="poisson", max_iter=20).fit(values, np.exp(3 * values[:, 0]))
    skops.io.dump(model, tmp_path / "m.skops")
    pl.DataFrame(values, schema=["a", "b", "c"], orient="row").write_csv(tmp_path / "s.csv")
    bundle = import_model(settings, Source(tmp_path / "m.skops", tmp_path / "s.csv"))
    assert bundle.manifest["runtime"] == "sklearn"
    assert not bundle.parity["passed"]
    frame = pl.DataFrame(values[:5], schema=["a", "b", "c"], orient="row")
    np.testing.assert_allclose(Scorer(bundle).frame(frame)["prediction"], model.predict(values[:5]))


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
    return Source(tmp_path / "m.joblib", tmp_path / "s.csv", "y", trust_pickle=True)


def test_pickle_with_leave_is_imported(settings: Settings, small: Source) -> None:
    assert import_model(settings, small).signature.input("a").type == "number"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"trust_pickle": False}, "pass --trust-pickle"),
        ({"target": "z"}, "no column 'z'"),
        ({"target": None}, "the model takes 2 columns and the sample has 3"),
        ({"path": Path("absent.skops")}, "there is no file"),
        ({"sample": Path("absent.csv")}, "there is no file"),
        ({"path": Path(__file__)}, "none of the formats"),
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
        ("a,y\n1,true\n", "takes 2 columns"),
    ],
)
def test_bad_samples_are_refused_in_a_sentence(settings: Settings, small: Source, content: str, sentence: str) -> None:
    small.sample.write_text(content)
    with pytest.raises(ProjectError, match=sentence):
        import_model(settings, small)
    assert Registry(settings).versions() == []


def test_truncated_model_is_refused(settings: Settings, trained: dict[str, Source], tmp_path: Path) -> None:
    broken = tmp_path / "m.skops"
    broken.write_bytes(trained["hires"].path.read_bytes()[:2000])
    with pytest.raises(ProjectError, match="cannot be loaded"):
        import_model(settings, replace(trained["hires"], path=broken))


def test_unreviewed_type_is_named(settings: Settings, tmp_path: Path) -> None:
    model = LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0])
    model.extra = shutil.rmtree
    skops.io.dump(model, tmp_path / "m.skops")
    (tmp_path / "s.csv").write_text("a\n1\n2\n")
    with pytest.raises(ProjectError, match=r"shutil\.rmtree"):
        import_model(settings, Source(tmp_path / "m.skops", tmp_path / "s.csv"))
