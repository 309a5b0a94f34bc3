"""An entry point lives on in its bundle, and what it predicts is seen."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from project.errors import ProjectError
from project.models.importing import import_model
from project.models.registry import Registry
from project.settings import Settings
from trained import predicted, source_of

ENTRY = """
import json
from pathlib import Path

import numpy as np
import helper


class Model:
    def __init__(self, factor):
        self.factor = factor

    def predict(self, frame):
        return np.asarray(frame["bmi"]) * self.factor + helper.OFFSET


def load(folder):
    return Model(json.loads((folder / "weights.json").read_text())["factor"])


def broken(folder):
    raise RuntimeError("no weights today")


def stop(folder):
    raise SystemExit(3)


def nothing(folder):
    return 42
"""


@pytest.fixture
def entry(diabetes: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a module of the team's own, a module that it imports, and its weights."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "mine.py").write_text(ENTRY)
    (work / "helper.py").write_text("OFFSET = 150\n")
    (work / "weights.json").write_text('{"factor": 900}')
    monkeypatch.chdir(work)
    return work


def test_entry_point_lives_on_in_its_bundle(
    settings: Settings, entry: Path, tmp_path: Path, diabetes: pd.DataFrame
) -> None:
    extra = (Path("helper.py"), Path("weights.json"))
    first = import_model(settings, source_of("mine:load", tmp_path, extra=extra))
    (entry / "helper.py").write_text("OFFSET = 0\n")
    second = import_model(settings, source_of("mine:load", tmp_path, extra=extra))
    shutil.rmtree(entry)
    assert first.manifest["code"] is True
    for bundle, offset in ((first, 150), (second, 0), (first, 150)):  # two of one name, side by side
        np.testing.assert_allclose(predicted(bundle, diabetes)["prediction"], diabetes["bmi"] * 900 + offset)
        assert Registry(settings).load(bundle.version)  # loading left nothing behind in the bundle
        assert "helper" not in sys.modules  # nor in the process


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("absent:load", "no module absent"),
        ("mine:absent", "no function absent"),
        ("mine:broken", "RuntimeError: no weights today"),
        ("mine:stop", "failed with SystemExit"),
        ("mine:nothing", "holds a int, which has no predict"),
        ("helper:load", "no function load"),
    ],
)
def test_bad_entry_points_are_refused(
    settings: Settings, entry: Path, tmp_path: Path, reference: str, sentence: str
) -> None:
    extra = () if reference.startswith(("helper", "absent")) else (Path("helper.py"),)
    with pytest.raises(ProjectError, match=sentence):
        import_model(settings, source_of(reference, tmp_path, extra=extra))
    assert Registry(settings).versions() == []


@pytest.mark.parametrize("scores", ["logits", "labels", "words"])
def test_what_a_model_without_probabilities_predicts_is_seen(
    settings: Settings, wine: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scores: str
) -> None:
    monkeypatch.chdir(tmp_path)
    values = {
        "logits": "np.stack([-x, 0 * x, x], axis=1)",
        "labels": "np.digitize(x, [-1, 1])",
        "words": "np.array(['low', 'middle', 'high'])[np.digitize(x, [-1, 1])]",
    }[scores]
    code = f"class M:\n    def predict(self, t):\n        x = np.asarray(t['alcohol']) - 13\n        return {values}\n"
    (tmp_path / "m.py").write_text(f"import numpy as np\n{code}\ndef load(folder):\n    return M()\n")
    if scores == "words":
        pl.read_csv("s.csv").with_columns(y=pl.lit("low")).write_csv("s.csv")
    bundle = import_model(settings, source_of("m:load", tmp_path))
    assert bundle.signature.task == "classification"
    output = predicted(bundle, wine)
    place = np.digitize(wine["alcohol"] - 13, [-1, 1])
    if scores == "logits":
        np.testing.assert_allclose(output.select(pl.exclude("prediction")).sum_horizontal(), 1)
        place = np.sign(wine["alcohol"] - 13).astype(int) + 1
    wanted = np.array(["low", "middle", "high"])[place] if scores == "words" else place
    assert output["prediction"].to_list() == list(wanted)


def test_more_than_ten_classes_keep_their_order(
    settings: Settings, diabetes: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    label = "np.arange(len(t)) % 12"
    code = f"class M:\n    def predict(self, t):\n        return np.eye(12)[{label}]\n"
    (tmp_path / "m.py").write_text(f"import numpy as np\n{code}\ndef load(folder):\n    return M()\n")
    pl.read_csv("s.csv").with_columns(y=pl.int_range(pl.len()) % 12).write_csv("s.csv")
    bundle = import_model(settings, source_of("m:load", tmp_path))
    assert bundle.signature.outputs[0].categories == tuple(range(12))  # 2 before 10, as the model's columns are
    assert predicted(bundle, diabetes)["prediction"].to_list() == (np.arange(len(diabetes)) % 12).tolist()
