"""Promote by evidence, override on the record, roll back, compare and replay, as people type it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime

import polars as pl
import pytest
from sqlalchemy import insert
from typer.testing import CliRunner

from project.commands import build
from project.documents.facts import collect
from project.errors import ProjectError
from project.models.bundle import Bundle
from project.models.importing import Source, import_model
from project.models.registry import CANARY, CHAMPION, SHADOW, Registry
from project.models.scorer import Scorer
from project.settings import Settings
from project.store.database import Store
from project.store.tables import feedback, predictions

Run = Callable[..., str]
FAILS = "[floors]\nr2.least = 0.99999\nroc_auc.least = 0.5\n[latency]\n"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command inside a project, and give what it prints, or the one sentence that it ends with."""

    def call(settings: Settings, *words: object) -> str:
        monkeypatch.chdir(settings.root)
        result = CliRunner().invoke(build(), [str(word) for word in words])
        if result.exception and not isinstance(result.exception, SystemExit):
            assert isinstance(result.exception, ProjectError), repr(result.exception)
            return f"{result.output}error: {result.exception}"
        return result.output

    return call


@pytest.fixture
def candidate(champion: Settings, biased: Source) -> Bundle:
    """A second version in the champion's registry."""
    return import_model(champion, biased)


def gates(settings: Settings, text: str) -> None:
    """Write the gates of a project."""
    settings.path("config/gates.toml").write_text(text, encoding="utf-8")


def log(settings: Settings, rows: pl.DataFrame, version: str, truth: bool = True) -> None:
    """Write rows to the log as the service does, answered by a version."""
    scorer = Scorer(Registry(settings).load(version))
    inputs = rows.select(list(scorer.signature.by_name))
    answers = scorer.frame(inputs).to_dicts()
    texts = inputs.with_columns(pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%SZ")).to_dicts()
    now = datetime.now(UTC)
    made = [
        {
            "id": f"id-{place}",
            "time": now,
            "model_version": scorer.version,
            "source": "http",
            "latency_ms": 1.0,
            "inputs": json.dumps(row),
            "output": json.dumps(answer),
        }
        for place, (row, answer) in enumerate(zip(texts, answers, strict=True))
    ]
    back = [
        {"prediction_id": f"id-{place}", "time": now, "actual": str(one)} for place, one in enumerate(rows["hires"])
    ]
    with Store(settings) as store, store.write() as connection:
        connection.execute(insert(predictions), made)
        if truth:
            connection.execute(insert(feedback), back)


def test_a_failed_gate_blocks_until_it_is_overridden_on_the_record(
    run: Run, champion: Settings, candidate: Bundle
) -> None:
    gates(champion, FAILS)
    before = Registry(champion).resolve(CHAMPION)
    blocked = run(champion, "model", "promote", candidate.version)
    assert "r2 at least 0.99999" in blocked
    assert "FAILED" in blocked
    assert "fails the gate floors" in blocked
    assert "--override" in blocked.splitlines()[-1]
    assert "nothing was changed" in run(champion, "model", "promote", candidate.version, "--dry-run")
    assert "needs its reason" in run(champion, "model", "promote", candidate.version, "--override", " ")
    assert Registry(champion).resolve(CHAMPION) == before
    for alias in (SHADOW, CANARY):
        Registry(champion).point(alias, candidate.version)
    done = run(champion, "model", "promote", candidate.version, "--override", "the harbour | burns")
    assert f"{before} -> {candidate.version}" in done
    assert set(Registry(champion).aliases()) == {CHAMPION}
    (event,) = json.loads(run(champion, "model", "history", "--json"))
    assert event["detail"]["override"] == "the harbour | burns"
    assert [(gate["name"], gate["passed"]) for gate in event["detail"]["gates"]] == [
        ("floors", False),
        ("latency", True),
    ]
    listed = run(champion, "model", "history")
    assert "FAILED and overridden: floors" in listed
    english = champion.model_copy(update={"project": champion.project.model_copy(update={"language": "en"})})
    facts = collect(english)
    assert r"| the harbour \| burns |" in facts["model.overrides"]
    assert "| floors | FAILED | R² " in facts["model.gates"]
    assert "p99 at most 100 ms" in facts["model.gates"]
    assert candidate.version[:12] in facts["model.history"]
    french = champion.model_copy(update={"project": champion.project.model_copy(update={"language": "fr"})})
    assert "| planchers | ÉCHEC |" in collect(french)["model.gates"]
    assert "p99 au plus 100 ms" in collect(french)["model.gates"]


def test_rollback_is_one_command_and_needs_no_log(
    run: Run, champion: Settings, candidate: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    gates(champion, "[parity]\n")
    before = Registry(champion).resolve(CHAMPION)
    assert "did not point to another version before" in run(champion, "model", "rollback")
    run(champion, "model", "promote", candidate.version, "--reason", "better")
    assert f"{candidate.version} -> {before}" in run(champion, "model", "rollback", "--reason", "worse")
    assert Registry(champion).resolve(CHAMPION) == before
    events = json.loads(run(champion, "model", "history", "--json"))
    assert [(event["action"], event["reason"]) for event in events] == [("rollback", "worse"), ("promote", "better")]
    run(champion, "model", "promote", candidate.version)
    champion.path("elsewhere").write_text("a file, no folder", encoding="utf-8")
    monkeypatch.setenv(f"{type(champion).model_config['env_prefix']}STORE__URL", "sqlite:///elsewhere/store.db")
    away = run(champion, "model", "rollback")
    assert "warning: the rollback is done but not in the log" in away
    assert Registry(champion).resolve(CHAMPION) == before


def test_no_gates_is_said_loudly_and_data_is_checked(
    run: Run, champion: Settings, candidate: Bundle, rows: pl.DataFrame
) -> None:
    champion.path("config/gates.toml").unlink(missing_ok=True)
    rows.drop("hires").write_csv(champion.path("bare.csv"))
    rows.write_csv(champion.path("rows.csv"))
    gates(champion, "[champion]\n")
    bare = run(champion, "model", "promote", candidate.version, "--data", "bare.csv")
    assert "has no column 'hires'" in bare
    assert "on 300 rows" in run(champion, "model", "promote", candidate.version, "--data", "rows.csv")
    champion.path("config/gates.toml").unlink()
    assert "no gate was run" in run(champion, "model", "promote", candidate.version)
    assert Registry(champion).resolve(CHAMPION) == candidate.version
    assert "already" in run(champion, "model", "promote", candidate.version)


def test_compare_shows_both_on_the_same_rows(run: Run, champion: Settings, candidate: Bundle) -> None:
    said = run(champion, "model", "compare", "champion", candidate.version)
    for words in ("rmse", "station = harbour", "600 rows compared", "signature: the same", "source", "one row"):
        assert words in said
    most = said.split("most different parts of the rows:")[1].splitlines()[1]
    assert "station = harbour" in most


def test_replay_finds_the_planted_difference(
    run: Run, champion: Settings, candidate: Bundle, rows: pl.DataFrame
) -> None:
    empty = run(champion, "model", "replay", candidate.version, "--since", "24h")
    assert "no prediction since" in empty
    log(champion, rows, CHAMPION)
    said = run(champion, "model", "replay", candidate.version, "--since", "24h", "--output", "out/replay.csv")
    assert "300 rows compared" in said
    most = said.split("most different parts of the rows:")[1].splitlines()[1]
    assert "station = harbour" in most
    assert "against the truth of 300 rows" in said
    table = pl.read_csv(champion.path("out/replay.csv"))
    assert table.height == 300
    assert set(table.head(50)["station"]) == {"harbour"}
    assert table["id"].n_unique() == 300
    assert float(table["@difference"][0]) > 30
    assert "100 rows compared" in run(champion, "model", "replay", candidate.version, "--since", "1d", "--limit", 100)
    assert "is no time" in run(champion, "model", "replay", candidate.version, "--since", "soon")
    assert "neither" in run(champion, "model", "replay", candidate.version, "--since", "1d", "--output", "a.txt")


def test_replay_counts_what_does_not_fit(run: Run, champion: Settings, rows: pl.DataFrame) -> None:
    known = Registry(champion).load(CHAMPION)
    document = known.signature.to_json()
    document["properties"]["input"]["properties"]["staff"]["maximum"] = 3
    files = {name: (known.folder / name).read_bytes() for name in known.manifest["files"]}
    manifest = {key: value for key, value in known.manifest.items() if key != "files"}
    narrow = Registry(champion).add(manifest, files | {"signature.json": document})
    log(champion, rows, CHAMPION, truth=False)
    said = run(champion, "model", "replay", narrow.version, "--since", "2020-01-01")
    count = rows.filter(pl.col("staff") > 3).height
    assert f"left out: {count} rows, staff: maximum" in said
    assert f"{300 - count} rows compared" in said
    assert "largest 0" in said
