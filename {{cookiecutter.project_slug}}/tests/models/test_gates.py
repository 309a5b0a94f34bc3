"""Each gate fails when it should, prints what it measured, and says why it is not applicable."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from project.errors import ProjectError
from project.models import gates, metrics
from project.models.bundle import Bundle
from project.models.comparison import changes, compare
from project.models.importing import Source, import_model
from project.models.registry import CHAMPION, Registry
from project.settings import Settings
from project.signature import Column, Signature

SHIPPED = Path(__file__).parents[2] / "config" / "gates.toml"
Make = Callable[..., Bundle]


def judge(settings: Settings, text: str, candidate: Bundle, first: bool = False) -> dict[str, gates.Gate]:
    """Run the gates of a file on a candidate, against the champion or as the first version."""
    settings.path(gates.FILE).write_text(text, encoding="utf-8")
    registry = Registry(settings)
    champion = None if first else registry.load(CHAMPION)
    return {gate.name: gate for gate in gates.run(settings, registry, candidate, champion)}


def said(gate: gates.Gate) -> str:
    """Return what a gate measured, as it is printed."""
    return "; ".join(map(str, gate.measured))


@pytest.fixture
def variant(champion: Settings) -> Make:
    """Make a version that differs from the champion in its manifest or in the content of files."""

    def make(files: dict[str, Any] | None = None, **manifest: Any) -> Bundle:
        known = Registry(champion).load(CHAMPION)
        contents: dict[str, Any] = {name: (known.folder / name).read_bytes() for name in known.manifest["files"]}
        changed = {"title": "another", **{key: value for key, value in known.manifest.items() if key != "files"}}
        return Registry(champion).add(changed | {"title": "another"} | manifest, contents | (files or {}))

    return make


def test_the_shipped_gates_pass_a_normal_model(champion: Settings, variant: Make) -> None:
    found = judge(champion, SHIPPED.read_text(encoding="utf-8"), variant())
    assert list(found) == list(gates.GATES)
    # The fixture's few trees are worse than a straight line for truth that is one: that gate is right.
    assert [name for name, gate in found.items() if not gate.passed] == ["baseline"]
    for gate in found.values():
        assert said(gate)
        assert gate.limit
        json.dumps(gate.to_json())


@pytest.mark.parametrize(
    ("text", "measured"),
    [
        ("[floors]\nr2.least = 0.99999", "r2 0.9"),
        ("[floors]\nrmse.most = 0.5", "rmse "),
        ("[floors]\nbias.most = -1", "bias "),
        ("[baseline]", "ridge regression"),
        ("[latency]\np99_ms = 0.0000001", " ms, 300 rows"),
        ("[memory]\ngrowth_mb = 0.0001", "MB to load and score"),
        ("[age]\ncandidate_days_most = 0.00000001", "candidate imported 0"),
        ("[age]\nchampion_hours_least = 1000", "champion served 0"),
    ],
)
def test_a_gate_fails_and_says_its_number(champion: Settings, variant: Make, text: str, measured: str) -> None:
    (gate,) = judge(champion, text, variant()).values()
    assert gate.passed is False
    assert measured in said(gate)
    assert gate.limit


def test_a_bias_is_found_against_the_champion_and_in_its_slice(champion: Settings, biased: Source) -> None:
    candidate = import_model(champion, biased)
    found = judge(champion, "[champion]\nworse = 0.1\n[slices]", candidate)
    assert found["champion"].passed is False
    assert "the champion's" in said(found["champion"])
    assert found["slices"].passed is False
    assert "station = harbour: rmse" in said(found["slices"])
    assert "north" not in said(found["slices"])
    first = judge(champion, "[slices]\nworse_than_all = 0.5", candidate, first=True)["slices"]
    assert first.passed is False
    assert "all rows" in said(first)
    allowed = judge(champion, "[champion]\nworse = 100\n[slices]\nworse = 100", candidate)
    assert all(gate.passed for gate in allowed.values())


def test_parity_is_held_against_todays_tolerance(champion: Settings, variant: Make) -> None:
    models = champion.models.model_copy(update={"parity_tolerance": 1e-12})
    strict = champion.model_copy(update={"models": models})
    (gate,) = judge(strict, "[parity]", variant()).values()
    assert gate.passed is False
    assert "99.9th percentile" in said(gate)
    kept = {"converted": False, "reason": "no ONNX form"}
    (gate,) = judge(strict, "[parity]", variant({"parity.json": kept})).values()
    assert gate.passed


def test_a_model_that_ends_its_process_fails_the_memory_gate(champion: Settings, variant: Make) -> None:
    broken = variant()
    evidence = gates.Evidence(champion, broken, None)
    evidence.weigh()
    (broken.folder / "metrics.json").write_text("{}", encoding="utf-8")  # the fresh process verifies the bundle
    gate = gates.GATES["memory"](gates.Memory(), evidence)
    evidence.close()
    assert gate.passed is False or "MB" in said(gate)  # it may have read the file before
    evidence.weigh()
    gate = gates.GATES["memory"](gates.Memory(), evidence)
    evidence.close()
    assert gate.passed is False
    assert "corrupt: metrics.json" in said(gate)


def test_what_cannot_be_measured_says_why_and_does_not_block(champion: Settings, variant: Make) -> None:
    nothing = {"metrics.json": {}, "evaluation.json": {}}
    text = "[floors]\nr2.least = 0.9\n[champion]\n[slices]\n[baseline]\n[signature]"
    known = Registry(champion).load(CHAMPION)
    frame = known.sample()
    assert frame is not None
    sample = frame.drop("hires")
    path = champion.path("sample.parquet")
    sample.write_parquet(path)
    found = judge(champion, text, variant({**nothing, "sample.parquet": path.read_bytes()}), first=True)
    assert {gate.passed for gate in found.values()} == {None}
    assert said(found["champion"]) == "there is no champion yet"
    assert said(found["floors"]) == "imported without a target"
    other = {"floors": judge(champion, "[floors]\nroc_auc.least = 0.9", variant())["floors"]}
    assert other["floors"].passed is None
    assert said(other["floors"]) == "roc_auc not applicable"


def test_a_champion_that_cannot_take_the_rows_is_said(champion: Settings, variant: Make) -> None:
    document = Registry(champion).load(CHAMPION).signature.to_json()
    rows = document["properties"]["input"]
    rows["properties"]["staff"]["maximum"] = 6
    wider = variant({"signature.json": json.loads(json.dumps(document))})
    rows["properties"]["staff"]["minimum"], rows["properties"]["staff"]["maximum"] = -10, -1
    Registry(champion).point(CHAMPION, variant({"signature.json": document}).version)
    found = judge(champion, "[champion]\n[slices]\n[signature]", wider)
    assert found["champion"].passed is None
    assert "cannot take the rows (staff: maximum)" in said(found["champion"])
    assert "all rows" in said(found["slices"])  # held against the model itself
    assert found["signature"].passed  # the candidate takes more


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[flors]\n", "flors"),
        ("[latency]\np99 = 3", "latency.p99"),
        ("[latency]\np99_ms = 'fast'", "latency.p99_ms"),
        ("[latency]\np99_ms = -1", "latency.p99_ms"),
        ("[floors]\nrsme.least = 1", "floors.rsme"),
        ("[floors", "cannot be read"),
    ],
)
def test_what_is_wrong_in_the_file_is_one_sentence(settings: Settings, text: str, words: str) -> None:
    settings.path(gates.FILE).write_text(text, encoding="utf-8")
    with pytest.raises(ProjectError, match=words):
        gates.limits(settings)


def contract(**changed: Any) -> Signature:
    """Return a small signature; a field is changed by name, removed by None, added."""
    columns = {
        "size": Column("size", "number", minimum=0, maximum=10, unit="km"),
        "kind": Column("kind", "string", categories=("a", "b")),
        "count": Column("count", "integer", nullable=True),
        "prediction": Column("prediction", "string", categories=("no", "yes")),
    } | changed
    kept = [column for column in columns.values() if column is not None]
    inputs, outputs = ([one for one in kept if (one.name == "prediction") == out] for out in (False, True))
    return Signature("t", "classification", "y", tuple(inputs), tuple(outputs))


SIZE, KIND = contract().inputs[:2]
COUNT, ANSWER = contract().inputs[2], contract().outputs[0]


@pytest.mark.parametrize(
    ("changed", "breaking"),
    [
        ({"size": None}, "the field size was removed"),
        ({"new": Column("new", "number")}, "the new field new is required"),
        ({"size": replace(SIZE, minimum=1)}, "the minimum of size changed from 0 to 1"),
        ({"size": replace(SIZE, maximum=9.5)}, "the maximum of size changed from 10 to 9.5"),
        ({"count": replace(COUNT, minimum=0)}, "the minimum of count changed from - to 0"),
        ({"count": replace(COUNT, nullable=False)}, "count may no longer be missing"),
        ({"kind": replace(KIND, categories=("a",))}, "kind no longer takes b"),
        ({"count": replace(COUNT, categories=(1, 2))}, "count takes only listed values now"),
        ({"size": replace(SIZE, type="integer")}, "the type of size changed from number to integer"),
        ({"size": replace(SIZE, unit="miles")}, "the unit of size changed from km to miles"),
        ({"prediction": replace(ANSWER, categories=("no", "yes", "later"))}, "the classes of prediction changed"),
        ({"prediction": replace(ANSWER, type="boolean")}, "the type of prediction changed"),
        ({"prediction": replace(ANSWER, nullable=True)}, "prediction may be missing now"),
        ({"new": Column("new", "number", nullable=True)}, ""),
        ({"size": replace(SIZE, minimum=-5, maximum=None)}, ""),
        ({"count": replace(COUNT, type="number")}, ""),
        ({"kind": replace(KIND, categories=())}, ""),
        ({"kind": replace(KIND, categories=("a", "b", "c"), nullable=True)}, ""),
        ({"size": replace(SIZE, observed=(3, 4), description="d", examples=(3,))}, ""),
    ],
)
def test_what_breaks_a_consumer(changed: dict[str, Any], breaking: str) -> None:
    found = [str(change) for change in changes(contract(), contract(**changed)) if change.breaking]
    assert len(found) == (1 if breaking else 0), found
    assert not breaking or breaking in found[0]


def test_slices_fold_what_is_rare_and_a_baseline_is_never_worse_than_a_constant() -> None:
    rows = pl.DataFrame({"kind": ["a"] * 200 + ["b"] * 100 + ["c"] * 20 + ["d"] * 20 + [None] * 60})
    truth = pl.Series("y", [float(place % 7) + 10 * (place < 200) for place in range(400)])
    signature = Signature("t", "regression", "y", (Column("kind", "string", True),), (Column("prediction", "number"),))
    output = pl.DataFrame({"prediction": truth + pl.Series([0.0] * 200 + [3.0] * 200)})
    found = metrics.slices(signature, rows, truth, output)["kind"]
    assert {value: one["rows"] for value, one in found.items()} == {"a": 200, "b": 100, "(missing)": 60, "(other)": 40}
    assert (found["a"]["rmse"], found["b"]["rmse"]) == (0, 3)
    linear = metrics.baseline(signature, rows, truth)
    assert linear["name"] == "ridge regression"
    assert linear["rmse"] < 3
    noise = metrics.baseline(signature, rows.head(200), truth.head(200))  # one kind: nothing to learn from
    assert noise["name"] == "mean"
    assert metrics.baseline(signature, rows.head(3), truth.head(3))["name"] == "mean"
    compared = compare(signature, rows, output, pl.DataFrame({"prediction": truth}))
    assert (compared.mean, compared.largest, compared.slices["kind"]["a"]["mean"]) == (1.5, 3, 0)
    assert compared.classes_differ is None


def test_a_constant_is_the_baseline_of_one_class() -> None:
    signature = contract()
    rows = pl.DataFrame({"size": [1.0] * 60, "kind": ["a"] * 60, "count": [None] * 60}, schema_overrides={"count": int})
    found = metrics.baseline(signature, rows, pl.Series("y", ["no"] * 60))
    assert (found["name"], found["balanced_accuracy"]) == ("majority class", 1)


def test_errors_grow_on_one_scale() -> None:
    assert metrics.growth("rmse", 11, 10, 100) == pytest.approx(0.1)
    assert metrics.growth("roc_auc", 0.8, 0.9, 100) == pytest.approx(1.0)
    assert metrics.growth("roc_auc", 1.0, 1.0, 100) == 0
    assert metrics.growth("roc_auc", 0.99, 1.0, 1000) == pytest.approx(9)  # one error in 1,000 is all that 1.0 promises


@pytest.mark.parametrize("labels", [["no", "yes"], ["a", "b", "c"]])
def test_measures_of_a_classifier_are_those_of_scikit_learn(labels: list[str]) -> None:
    from sklearn.metrics import f1_score, log_loss, roc_auc_score

    random = np.random.default_rng(0)
    shares = np.round(random.dirichlet(np.ones(len(labels)), 300), 2) + 1e-9  # with ties
    shares /= shares.sum(axis=1, keepdims=True)
    actual = random.choice(labels, 300)
    called = np.array(labels)[shares.argmax(axis=1)]
    columns = {f"probability_{label}": shares[:, place] for place, label in enumerate(labels)}
    found = metrics.evaluate("classification", pl.Series(actual), pl.DataFrame({"prediction": called, **columns}))
    areas = [roc_auc_score(actual == label, shares[:, place]) for place, label in enumerate(labels)]
    assert found["f1_macro"] == pytest.approx(f1_score(actual, called, average="macro"), abs=1e-6)
    assert found["log_loss"] == pytest.approx(log_loss(actual, shares, labels=labels), abs=1e-5)
    assert found["roc_auc"] == pytest.approx(np.mean(areas), abs=1e-6)
