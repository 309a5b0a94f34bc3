"""A run: every row of the input is published or quarantined, once, however often it is begun or killed.

In the output folder a run lives in ``.<run>.partial/`` until it is whole; then ``result/`` of it becomes
``<run>/`` by one rename, and ``latest.json`` points there. A reader who follows a manifest never sees half.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import structlog

from ..errors import ProjectError
from ..models.registry import CHAMPION, Registry
from ..settings import Settings
from ..store.database import Store
from ..store.queries import recent_runs
from . import manifest, sinks, spool
from .job import REQUEST, Job, Report, Run
from .ledger import unseen
from .manifest import Json
from .remote import Report as Say
from .remote import scheme, shown, whole
from .resubmit import check
from .sources import File, InputError, find, identify

log = structlog.get_logger(__name__)

NOTES = Path("data/runs")  # where the output folder of each unfinished run is noted
LOCK = ".lock"  # held by a run that depends on what earlier ones below the same folder have read


def run(
    settings: Settings,
    source: str | Path,
    output: str | Path,
    report: Report | None = None,
    say: Say = log.info,
    *,
    copies: Iterable[str] = (),
    new_only: bool = False,
    resubmits: str = "",
) -> Run | None:
    """Score files with the champion, or go on with the run of the same input and model that was begun before.

    Args:
        settings: of the project.
        source: a file, a folder of files, a glob pattern, or a URL that `spool` knows.
        output: the folder below which runs are published.
        report: called after each chunk.
        say: told what is read and what is waited for.
        copies: URLs that the run is copied on to when it is published (see `sinks`).
        new_only: leave out files that a published run below ``output`` has read with the same model.
        resubmits: the run whose quarantined rows these are, corrected.

    Returns:
        How it ended; None if there was no new file.

    Raises:
        ProjectError: nothing is published, and why; or a sink could not be filled.
    """
    urls, given = list(copies), str(source) if scheme(str(source)) else os.path.abspath(source)
    for url in urls:
        sinks.check(url)
    asked: Json = {
        "input": shown(given),
        "sinks": [shown(url) for url in urls],
        "new_only": new_only,
        "resubmits": resubmits,
        "model_version": Registry(settings).resolve(CHAMPION),
        "chunk_rows": settings.pipeline.chunk_rows,
    }
    known = {shown(url): url for url in (given, *urls)}
    return _run(settings, asked, Path(output).absolute(), report, say, known)


def resume(
    settings: Settings, output: str | Path | None = None, report: Report | None = None, say: Say = log.info
) -> Run | None:
    """Go on with the newest unfinished run, with the model that it began with; None if there is none.

    It is looked for in ``output``, by default in ``pipeline.output`` and the output folders of the runs that are in the
    log or were noted as they began: one that was stopped as it read its input is not in the log.

    Raises:
        ProjectError: nothing is published, and why.
    """
    if output:
        folders = {Path(output).absolute()}
    else:
        with Store(settings) as store:
            folders = {Path(one["output"]) for one in recent_runs(store, 1000)}
        folders |= _noted(settings)
        folders |= {settings.path(settings.pipeline.output)} if settings.pipeline.output else set()
    found = [path for folder in folders for path in folder.glob(f".*.partial/{REQUEST}")]
    if not found:
        return None
    newest = max(found, key=lambda path: path.stat().st_mtime_ns)
    try:
        asked = json.loads(newest.read_bytes())
    except (OSError, ValueError):
        raise ProjectError(f"{newest} cannot be read: remove its folder and run again") from None
    return _run(settings, asked, newest.parent.parent, report, say)


def configured(settings: Settings, source: str = "", output: str | Path = "") -> tuple[str, Path]:
    """Return what to read and where to publish: what is given, else as the settings say, from the project's root.

    Raises:
        ProjectError: neither says it.
    """
    asked, target = settings.pipeline.input, output or settings.pipeline.output
    if not (source or asked) or not target:
        raise ProjectError("say what to read and where to publish: --input and --output, or pipeline.input and .output")
    found = source or (asked if scheme(asked) else str(settings.path(asked)))
    return found, Path(output) if output else settings.path(target)


def _run(
    settings: Settings, asked: Json, output: Path, report: Report | None, say: Say, known: dict[str, str] | None = None
) -> Run | None:
    """Do a run; ``known`` are its URLs with their passwords, by what is shown of them (None: it is resumed)."""
    urls = known or {url: whole(url, settings) for url in (asked["input"], *asked["sinks"])}

    def copy_on(job: Job) -> None:
        for url in asked["sinks"]:
            sinks.publish(settings, job.final, job.content, job.bundle.signature, urls[url], say)

    try:
        output.mkdir(parents=True, exist_ok=True)
        _note(settings, asked, output)
        alone = manifest.lock(output / LOCK) if asked["new_only"] or asked["resubmits"] else nullcontext()
        with alone, _input(settings, asked, output, urls[asked["input"]], say, known is not None) as (paths, ignored):
            files = _chosen(identify(paths), asked, output)
            if not files:
                return None
            job = Job(settings, asked, output, files, copy_on, report)
            if asked["resubmits"]:
                check(output, asked["resubmits"], [file.path for file in files], job.id)
            with Store(settings) as job.store:
                job.work.folder.mkdir(parents=True, exist_ok=True)
                with manifest.lock(job.work.folder / "lock"):
                    return replace(job.execute(), ignored=ignored)
    except OSError as error:
        reason = error.strerror or error
        raise ProjectError(f"{output} cannot be written ({reason}): mend it, then `pipeline resume`") from None
    finally:
        with suppress(OSError):
            if not any(output.glob(f".*.partial/{REQUEST}")):
                _path(settings, asked, output).unlink(missing_ok=True)
            output.rmdir()  # only if it is empty


def _path(settings: Settings, asked: Json, output: Path) -> Path:
    name = hashlib.sha256(f"{asked['input']}\n{output}".encode()).hexdigest()[:16]
    return settings.path(NOTES) / f"{name}.json"


def _note(settings: Settings, asked: Json, output: Path) -> None:
    """Note where a run is at work, before anything that may take long; without a place for that, the log must do."""
    path = _path(settings, asked, output)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        manifest.replace(path, {"output": str(output)})


def _noted(settings: Settings) -> set[Path]:
    """Return the output folders of unfinished runs."""
    found = set()
    for path in settings.path(NOTES).glob("*.json"):
        with suppress(OSError, ValueError, KeyError):
            found.add(Path(json.loads(path.read_bytes())["output"]))
    return found


@contextmanager
def _input(
    settings: Settings, asked: Json, output: Path, url: str, say: Say, anew: bool
) -> Iterator[tuple[list[Path], list[str]]]:
    """Give the files of an input, and names not read; what had to be spooled stays until the run is whole."""
    if not spool.accepts(url, settings):
        yield find(url)
        return
    folder = output / f".{hashlib.sha256(asked['input'].encode()).hexdigest()[:16]}.partial"
    folder.mkdir(parents=True, exist_ok=True)
    with manifest.lock(folder / "lock"):
        try:
            if anew:
                shutil.rmtree(folder / spool.WHOLE, ignore_errors=True)
            manifest.replace(folder / REQUEST, asked, folder)
            yield spool.fetch(url, folder, settings, say), spool.told(folder)["ignored"]
        except InputError:
            (folder / REQUEST).unlink(missing_ok=True)
            raise
        else:
            (folder / REQUEST).unlink(missing_ok=True)
        finally:
            if not (folder / REQUEST).exists():
                shutil.rmtree(folder, ignore_errors=True)


def _chosen(files: list[File], asked: Json, output: Path) -> list[File]:
    """Return the files of a run: all, or of new ones only those that it began with."""
    if not asked["new_only"]:
        return files
    if "inputs" not in asked:
        return unseen(files, output, asked["model_version"])
    began = {entry["sha256"] for entry in asked["inputs"]}
    return [file for file in files if file.sha256 in began]
