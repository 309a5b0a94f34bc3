"""Dagster's assets do what the commands do; a retry goes on, and its own command runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import project
from project.errors import ProjectError
from project.settings import PACKAGE, load

INPUTS = ["at", "temperature", "station", "staff", "open"]


@pytest.fixture
def scheduled(
    champion: Any, rows: pl.DataFrame, monkeypatch: pytest.MonkeyPatch, needs_extra: Callable[[str], Any]
) -> Path:
    """A project whose settings say what to read and where to publish; its root."""
    needs_extra("dagster")
    root: Path = champion.root
    (root / "in").mkdir()
    rows.head(100).select(INPUTS).write_parquet(root / "in" / "a.parquet")
    config = root / "config" / "settings.toml"
    config.write_text(config.read_text() + '\n[pipeline]\ninput = "in"\noutput = "out"\nschedule = "30 4 * * 1"\n')
    monkeypatch.setenv(f"{PACKAGE.upper()}_HOME", str(root))
    monkeypatch.setenv("DAGSTER_DISABLE_TELEMETRY", "yes")
    return root


def materialized(assets: Any, name: str) -> dict[str, Any]:
    (found,) = assets.asset_materializations_for_node(name)
    return {key: value.value for key, value in found.metadata.items()}


def test_a_tick_scores_new_files_and_watches(scheduled: Path) -> None:
    from dagster import materialize

    from project.pipeline import dagster

    done = materialize([dagster.predictions, dagster.monitoring])
    told = materialized(done, "predictions")
    assert (told["in"], told["published"], told["quarantined"]) == (100, 100, 0)
    assert {check.check_name: check.passed for check in done.get_asset_check_evaluations()} == {
        "every_row_is_accounted_for": True,
        "published_files_are_intact": True,
        "no_check_alerts": True,
    }
    assert json.loads((scheduled / "out" / "latest.json").read_bytes())["run"] == told["runs"][0]
    again = materialized(materialize([dagster.predictions]), "predictions")
    assert (again["in"], again["runs"]) == (0, [])


def test_a_retry_goes_on_where_the_run_was(scheduled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dagster import RetryPolicy, materialize

    from project.pipeline import dagster, job

    real, attempts = job.Job._log, []

    def away(self: Any) -> None:
        attempts.append(self.id)
        if len(attempts) == 1:
            raise ProjectError("the store was away")
        real(self)

    assert dagster.RETRY.max_retries == 3
    monkeypatch.setattr(job.Job, "_log", away)
    monkeypatch.setattr(dagster.predictions.op, "_retry_policy", RetryPolicy(max_retries=1))
    assert materialized(materialize([dagster.predictions]), "predictions")["published"] == 100
    assert len(attempts) == 2
    assert len(set(attempts)) == 1
    assert len(list((scheduled / "out").glob("*/manifest.json"))) == 1
    assert not list((scheduled / "out").glob(".*.partial"))


def test_an_input_that_will_never_do_is_not_tried_again(scheduled: Path) -> None:
    from dagster import Failure, materialize

    from project.pipeline import dagster

    (scheduled / "in" / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(Failure, match="cannot be read") as caught:
        materialize([dagster.predictions])
    assert caught.value.allow_retries is False


def test_the_schedule_is_the_settings(scheduled: Path) -> None:
    from project.pipeline import dagster

    (schedule,) = dagster.definitions().schedules or ()
    assert schedule.cron_schedule == load(scheduled).pipeline.schedule == "30 4 * * 1"


@pytest.mark.slow
def test_dagster_runs_it_by_its_own_command(scheduled: Path, tmp_path: Path) -> None:
    paths = os.pathsep.join([str(Path(project.__file__).parents[1]), *sys.path])
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path), "PYTHONPATH": paths}
    words = ["job", "execute", "-m", f"{project.__name__}.pipeline.dagster", "-j", "batch"]
    done = subprocess.run(
        [sys.executable, "-m", "dagster", *words], cwd=scheduled, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(list((scheduled / "out").glob("*/manifest.json"))) == 1
