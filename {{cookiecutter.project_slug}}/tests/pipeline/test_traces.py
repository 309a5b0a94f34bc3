from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from project.errors import ProjectError
from project.pipeline.run import run
from project.settings import Settings


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def test_a_run_is_traced_with_the_steps_of_its_chunks(
    collector: Any, champion: Settings, rows: pl.DataFrame, tmp_path: Path
) -> None:
    rows.with_columns(staff=pl.when(pl.int_range(pl.len()) == 3).then(-1).otherwise("staff")).write_csv(
        tmp_path / "in.csv"
    )
    small = champion.model_copy(update={"pipeline": champion.pipeline.model_copy(update={"chunk_rows": 100})})
    done = run(small, tmp_path / "in.csv", tmp_path / "out")
    assert done
    (root,) = [span for span in collector.spans if span.name == "pipeline run"]
    told = attributes(root)
    assert (told["pipeline.run"], told["model.version"]) == (done.id, done.model_version)
    assert (told["pipeline.rows_in"], told["pipeline.rows_published"]) == (rows.height, done.rows_published)
    steps = [span for span in collector.spans if span.parent_span_id == root.span_id]
    assert [span.name for span in steps].count("score") == 3
    assert {span.name for span in steps} == {"ingest", "validate", "score", "publish"}
    assert all(root.start_time_unix_nano <= span.start_time_unix_nano for span in steps)
    assert all(span.end_time_unix_nano <= root.end_time_unix_nano for span in steps)


def test_so_is_one_that_stops(collector: Any, champion: Settings, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("a\n1\n")
    with pytest.raises(ProjectError):
        run(champion, tmp_path / "in.csv", tmp_path / "out")
    (root,) = collector.spans
    assert root.status.code == 2  # STATUS_CODE_ERROR
