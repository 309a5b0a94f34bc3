"""The pipeline as Dagster's assets: `dagster dev -m <package>.pipeline.dagster`; settings say what is read and when.

Dagster decides when, and shows what came out; the work is that of `pipeline run --new-only` and `monitor run`. A retry
goes on where the run was, and doubles nothing.
"""

# Without postponed annotations: Dagster looks at them.

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from dagster import (
    AssetCheckResult,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetSelection,
    Backoff,
    DefaultScheduleStatus,
    Definitions,
    Failure,
    MaterializeResult,
    RetryPolicy,
    ScheduleDefinition,
    asset,
    define_asset_job,
)

from ..errors import ProjectError
from ..monitoring.run import run as watch
from ..settings import PACKAGE, load
from . import manifest
from .run import configured, resume, run
from .sources import InputError

GROUP = "batch"
RETRY = RetryPolicy(max_retries=3, delay=30, backoff=Backoff.EXPONENTIAL)
WHOLE = AssetCheckSpec("every_row_is_accounted_for", asset="predictions", description="In = published + quarantined.")
INTACT = AssetCheckSpec("published_files_are_intact", asset="predictions", description="Each file has its SHA-256.")
HEALTHY = AssetCheckSpec("no_check_alerts", asset="monitoring", description="No drift, quality or error alert.")


@asset(group_name=GROUP, retry_policy=RETRY, check_specs=[WHOLE, INTACT])
def predictions(context: AssetExecutionContext) -> Iterator[Any]:
    """Predictions and quarantine of the files that are new in `pipeline.input`, below `pipeline.output`."""
    say = context.log.info
    try:
        source, output = configured(settings := load())
        copies = settings.pipeline.sinks
        ended = [
            resume(settings, output, say=say),  # what an earlier attempt left
            run(settings, source, output, say=say, copies=copies, new_only=True),
        ]
    except InputError as error:  # the same input will never do
        raise Failure(str(error), allow_retries=False) from None
    except ProjectError as error:
        raise Failure(str(error)) from None
    done = [one for one in ended if one]
    if not done:
        say(f"no new file in {source}")
    rows = {name: sum(getattr(one, f"rows_{name}") for one in done) for name in ("in", "published", "quarantined")}
    told = {"runs": [one.id for one in done], "model_versions": [one.model_version for one in done]}
    yield MaterializeResult(metadata={**told, **rows, "seconds": sum(one.seconds for one in done)})
    whole = rows["in"] == rows["published"] + rows["quarantined"]
    intact = all(manifest.intact(one.folder) for one in done)
    yield AssetCheckResult(passed=whole, check_name=WHOLE.name, asset_key="predictions")
    yield AssetCheckResult(passed=intact, check_name=INTACT.name, asset_key="predictions")


@asset(group_name=GROUP, deps=[predictions], check_specs=[HEALTHY])
def monitoring(context: AssetExecutionContext) -> Iterator[Any]:
    """Drift, data quality and performance of the champion, checked over `monitoring.window_hours`."""
    try:
        found = watch(load())
    except ProjectError as error:
        raise Failure(str(error), allow_retries=False) from None
    alerts = [asdict(check) for check in found.checks if check.state == "alert"]
    yield MaterializeResult(metadata={"state": found.state, "rows": found.rows, "checks": len(found.checks)})
    subjects = ", ".join(f"{alert['kind']} of {alert['subject']}" for alert in alerts)
    yield AssetCheckResult(
        passed=not alerts, check_name=HEALTHY.name, asset_key="monitoring", metadata={"alerts": subjects or "none"}
    )


def definitions() -> Definitions:
    """Return the assets, the job `batch` and its schedule: `pipeline.schedule`, a cron line in UTC."""
    job = define_asset_job(GROUP, AssetSelection.groups(GROUP))
    settings = load()
    schedule = ScheduleDefinition(
        job=job,
        cron_schedule=settings.pipeline.schedule,
        execution_timezone="UTC",
        default_status=DefaultScheduleStatus.RUNNING,
        name=f"{PACKAGE}_{GROUP}",
    )
    return Definitions(assets=[predictions, monitoring], jobs=[job], schedules=[schedule])


defs = definitions()
