"""The same row gives the same columns and the same prediction by every way in, with a transform of the team's own."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
import skops.io
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from project.models.importing import Source, import_model
from project.models.registry import CHAMPION, Registry
from project.models.runtimes.original import to_pandas
from project.models.scorer import Scorer
from project.settings import Settings, load
from project.store.database import Store
from serving.conftest import serve

TRANSFORM = """
import polars as pl


def transform(rows):
    waited = pl.col("left") - pl.col("came")
    return rows.select(
        "number",
        share=pl.col("paid") / pl.col("asked"),
        size=pl.col("asked").log1p(),
        wait=(waited.dt.total_seconds() / 3600).clip(0, 12),
        city=pl.col("city").str.strip_chars().str.to_lowercase().fill_null("nowhere"),
        night=pl.col("came").dt.hour() < 6,
    )
"""
TIME = "%Y-%m-%dT%H:%M:%S%.6fZ"
CITIES = ["Zürich", " zürich", "ÉVRY ", "Łódź", "東京", 'say "hi", \\ you', None]
PATH, FIRST = "/v1/predict", 10_000


class World(NamedTuple):
    """A project whose champion has a transform, rows as files would bring them, and what training made of them."""

    settings: Settings
    rows: pl.DataFrame
    columns: pl.DataFrame
    predicted: np.ndarray


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("skew")
    (folder / "config").mkdir()
    shutil.copy(Path(__file__).parents[1] / "config" / "settings.toml", folder / "config")
    (folder / "transform.py").write_text(TRANSFORM)
    spec = importlib.util.spec_from_file_location("team", folder / "transform.py")
    assert spec
    assert spec.loader
    team = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(team)
    made(600, seed=1).write_csv(folder / "sample.csv")
    known = pl.read_csv(folder / "sample.csv", try_parse_dates=True)
    encoder = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["city"]), remainder="passthrough"
    )
    model = make_pipeline(encoder, HistGradientBoostingRegressor(max_iter=30, random_state=0))
    model.fit(to_pandas(team.transform(known)), known["truth"].to_numpy())
    skops.io.dump(model, folder / "m.skops")
    source = Source(str(folder / "m.skops"), folder / "sample.csv", "truth", transform=folder / "transform.py")
    settings = load(folder)
    settings = settings.model_copy(
        update={"pipeline": settings.pipeline.model_copy(update={"chunk_rows": 7, "workers": 1})}
    )
    Registry(settings).point(CHAMPION, import_model(settings, source).version)
    made(40, seed=2).drop("truth").with_columns(pl.col("number") + FIRST).write_csv(folder / "new.csv")
    rows = pl.read_csv(folder / "new.csv", try_parse_dates=True)
    columns = team.transform(rows)
    return World(settings, rows, columns, model.predict(to_pandas(columns)))


def made(count: int, seed: int) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    came, waits = random.integers(0, 10**13, count), random.integers(-(10**10), 6 * 10**10, count)  # microseconds
    paid, asked = random.lognormal(2, 1, count), random.lognormal(3, 1, count)
    gone = random.random((2, count)) < 0.15
    march = datetime(2026, 3, 1, tzinfo=UTC)
    return pl.DataFrame(
        {
            "number": np.arange(count),
            "came": [march + timedelta(microseconds=int(at)) for at in came],
            "left": [march + timedelta(microseconds=int(at)) for at in came + waits],
            "paid": [None if none else float(value) for value, none in zip(paid, gone[0], strict=True)],
            "asked": [None if none else float(value) for value, none in zip(asked, gone[1], strict=True)],
            "city": [CITIES[place] for place in random.integers(0, len(CITIES), count)],
            "truth": 10 * paid / asked + waits / 10**10,
        }
    ).with_columns(pl.col("came", "left").dt.strftime(TIME))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[pl.DataFrame]:
    """The columns that the model gets, whoever scores."""
    found: list[pl.DataFrame] = []
    compute = Scorer.features

    def spy(scorer: Scorer, frame: pl.DataFrame) -> pl.DataFrame:
        found.append(compute(scorer, frame))
        return found[-1]

    monkeypatch.setattr(Scorer, "features", spy)
    return found


def as_json(rows: pl.DataFrame) -> list[dict[str, Any]]:
    return rows.with_columns(pl.col("came", "left").dt.strftime(TIME)).to_dicts()


def directly(world: World, folder: Path) -> list[float]:
    return Scorer(Registry(world.settings).load(CHAMPION)).frame(world.rows)["prediction"].to_list()


def one_by_one(world: World, folder: Path) -> list[float]:
    pytest.importorskip("project.serving.plane.predictor")
    with serve(world.settings) as client:
        return [client.post(PATH, json={"row": row}).json()["prediction"] for row in as_json(world.rows)]


def together(world: World, folder: Path) -> list[float]:
    pytest.importorskip("project.serving.plane.predictor")
    with serve(world.settings) as client:
        answer = client.post(PATH, json={"rows": as_json(world.rows)}).json()
    return [one["prediction"] for one in answer["predictions"]]


def from_csv(world: World, folder: Path) -> list[float]:
    world.rows.with_columns(pl.col("came", "left").dt.strftime(TIME)).write_csv(folder / "in.csv")
    return batch(world, folder)


def from_parquet(world: World, folder: Path) -> list[float]:
    world.rows.write_parquet(folder / "in.parquet")
    return batch(world, folder)


def from_json_lines(world: World, folder: Path) -> list[float]:
    lines = (json.dumps(row, ensure_ascii=False) for row in as_json(world.rows))
    (folder / "in.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return batch(world, folder)


def batch(world: World, folder: Path) -> list[float]:
    pytest.importorskip("project.pipeline")
    from project.pipeline.run import run

    done = run(world.settings, str(next(folder.glob("in.*"))), folder / "out")
    assert done
    assert done.rows_published == world.rows.height
    found = pl.concat(pl.read_parquet(path) for path in sorted((done.folder / "predictions").iterdir()))
    return found.sort("source_row")["prediction"].to_list()


def replayed(world: World, folder: Path) -> list[float]:
    pytest.importorskip("project.serving.plane.predictor")
    from project.monitoring.replay import replay

    settings, start = world.settings, datetime.now(UTC)
    together(world, folder)
    with Store(settings) as store:
        registry = Registry(settings)
        found = replay(store, registry, registry.load(CHAMPION), start, 1000).comparison
    assert found.largest == 0
    return found.table.sort("number")["@second"].to_list()


WAYS = [directly, one_by_one, together, from_csv, from_parquet, from_json_lines, replayed]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_every_way_gives_the_same_columns_and_predictions(
    world: World, seen: list[pl.DataFrame], tmp_path: Path, way: Callable[[World, Path], list[float]]
) -> None:
    predicted = way(world, tmp_path)
    columns = pl.concat(seen).filter(pl.col("number") >= FIRST)  # the service warms up on another row
    assert columns.unique().sort("number").equals(world.columns)
    assert columns.schema == world.columns.schema
    assert predicted == directly(world, tmp_path)
    np.testing.assert_allclose(predicted, world.predicted, rtol=1e-4)


def test_the_rows_are_not_trivial(world: World) -> None:
    assert world.columns["share"].null_count() > 2
    assert {"zürich", "évry", "łódź", "東京", "nowhere"} <= set(world.columns["city"])
    assert world.columns["wait"].min() == 0
    assert world.columns["wait"].max() == 12
    assert world.columns["night"].n_unique() == 2
