from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from project.errors import ProjectError
from project.models.bundle import Bundle
from project.models.explain import Explainer
from project.models.registry import Registry
from project.models.scorer import Scorer
from project.settings import Settings
from project.validation import ROW, check_frame


@pytest.fixture
def scorer(champion: Settings) -> Scorer:
    return Scorer(Registry(champion).load("champion"))


@pytest.fixture
def typed(scorer: Scorer, rows: pl.DataFrame) -> pl.DataFrame:
    return check_frame(scorer.signature, rows).good.drop(ROW)


def test_contributions_add_up_to_the_prediction(scorer: Scorer, typed: pl.DataFrame) -> None:
    explainer = Explainer(scorer)
    for place in range(5):
        found = explainer.explain(typed[place])
        assert found.value == pytest.approx(scorer.frame(typed[place])["prediction"][0])
        total = sum(value for _, value, _ in found.contributions)
        assert found.base_value + total == pytest.approx(found.value, rel=1e-4)
        sizes = [abs(value) for _, value, _ in found.contributions]
        assert sizes == sorted(sizes, reverse=True)
        assert found == explainer.explain(typed[place])


def test_a_sum_is_taken_apart_exactly(scorer: Scorer, typed: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    def add(_: Scorer, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.select(prediction=3.0 * pl.col("staff") + 10.0 * (pl.col("station") == "harbour"))

    monkeypatch.setattr(Scorer, "frame", add)
    explainer = Explainer(scorer)
    row = typed.filter(pl.col("station") == "harbour")[0]
    found = {name: value for name, value, _ in explainer.explain(row).contributions}
    assert found["staff"] == pytest.approx(3 * (row["staff"][0] - explainer.rows["staff"].mean()))
    assert found["station"] == pytest.approx(10 * (1 - (explainer.rows["station"] == "harbour").mean()))
    assert {name for name, value in found.items() if value == 0} == {"at", "temperature", "open"}


def test_a_product_is_shared_within_its_error(
    scorer: Scorer, typed: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    def multiply(_: Scorer, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.select(prediction=pl.col("staff").cast(pl.Float64) * pl.col("open").cast(pl.Float64))

    monkeypatch.setattr(Scorer, "frame", multiply)
    explainer = Explainer(scorer)
    row = typed.filter(pl.col("staff") == 5, pl.col("open"))[0]
    staff, is_open = explainer.rows["staff"].to_numpy(), explainer.rows["open"].to_numpy()
    # The two orders of two columns, averaged over all typical rows: Shapley's formula in closed form.
    exact = np.mean(0.5 * (5 * is_open - staff * is_open) + 0.5 * (5 - staff))
    value, error = next(one[1:] for one in explainer.explain(row).contributions if one[0] == "staff")
    assert value == pytest.approx(exact, abs=max(4 * error, 1e-9))


def test_the_probability_of_the_predicted_class(classifier: Settings, rows: pl.DataFrame) -> None:
    scorer = Scorer(Registry(classifier).load("champion"))
    row = check_frame(scorer.signature, rows).good.drop(ROW)[0]
    found = Explainer(scorer).explain(row)
    assert found.output == f"probability_{found.prediction}"
    assert found.value == pytest.approx(scorer.frame(row)[found.output][0])


def test_without_a_sample_it_says_what_to_do(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bundle, "sample", lambda _: None)
    with pytest.raises(ProjectError, match="sample_rows"):
        Explainer(scorer)


def test_labels_alone_are_not_explained(classifier: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer: Any = Scorer(Registry(classifier).load("champion"))
    scorer.signature = replace(scorer.signature, outputs=scorer.signature.outputs[:1])
    with pytest.raises(ProjectError, match="probabilities"):
        Explainer(scorer)
