"""From a trained model and a sample of its rows to a bundle."""

from __future__ import annotations

import hashlib
import io
import platform
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import features
from ..errors import ProjectError
from ..settings import Settings, user
from ..signature import Column, Signature, Task
from ..validation import ROW, check_frame
from . import bundle as bundles
from . import formats, inference, metrics
from . import transform as transforms
from .answers import Answers, Say, ask, convert
from .bundle import Bundle
from .formats import Found, Imported
from .profile import Profile
from .registry import Registry
from .scorer import Scorer
from .transform import Transform

if TYPE_CHECKING:
    import polars as pl

LIBRARIES = ("scikit-learn", "numpy", "onnxruntime", "skl2onnx", "skops", "polars")
PACKED = ".bundle"


@dataclass(frozen=True)
class Source:
    """What is imported.

    Attributes:
        reference: a file, a folder, an MLflow URI, or an entry point ``module:function`` (see `formats`).
        sample: a CSV or Parquet file of rows like those to come; an exported bundle has its own.
        target: the sample's column with the truth, if it has one.
        signature: a signature file to use in place of the inferred one.
        name: the title, if not the project's.
        trust_pickle: whether code that comes with the model may run.
        trusted: types that a skops file may contain beside the reviewed ones.
        extra: files that go along with an entry point.
        transform: a file with the team's function from rows to the model's columns (see `transform`).
    """

    reference: str
    sample: Path | None = None
    target: str | None = None
    signature: Path | None = None
    name: str = ""
    trust_pickle: bool = False
    trusted: tuple[str, ...] = ()
    extra: tuple[Path, ...] = ()
    transform: Path | None = None


@dataclass(frozen=True)
class Rows:
    """The rows of a sample.

    Attributes:
        signature: their contract, complete but for the outputs if it is inferred.
        typed: by the signature.
        truth: the target, if there is one.
        columns: what the model gets of them.
        transform: what made these, if there is one.
    """

    signature: Signature
    typed: pl.DataFrame
    truth: pl.Series | None
    columns: pl.DataFrame
    transform: Transform | None = None


def import_model(settings: Settings, source: Source, say: Say = lambda _: None) -> Bundle:
    """Make a bundle of a trained model; the same model with the same sample gives the version that is there.

    Args:
        settings: of the project.
        source: the model and its sample.
        say: is told what happens, a line at a time.

    Returns:
        The new bundle, in the registry.

    Raises:
        ProjectError: something does not fit; nothing was registered.
    """
    registry = Registry(settings)
    if source.reference.endswith(PACKED):
        if source.transform:
            raise ProjectError("an exported bundle brings its own transform: leave --transform out")
        with tempfile.TemporaryDirectory() as folder:
            return registry.adopt(bundles.unpack(Path(source.reference), Path(folder), source.trust_pickle).folder)
    if source.sample is None:
        raise ProjectError("give rows like those to come with --sample: the signature is read off them")
    found = formats.find(source.reference, trust_pickle=source.trust_pickle, trusted=source.trusted, extra=source.extra)
    code = None if source.transform is None else transforms.read(source.transform)
    hashes = _hashes(settings, source, found)
    for info in registry.versions():
        if info.hashes == hashes:
            say(f"already imported as {info.version}")
            return registry.load(info.version)
    sample = inference.read_sample(source.sample)
    if source.target is not None and source.target not in sample.columns:
        raise ProjectError(f"the sample {source.sample.name} has no column {source.target!r} for the target")
    imported = found.read()
    given = _given(settings, source, sample, imported, code)
    rows, truth, table = given.typed, given.truth, given.columns
    say(f"read {rows.height} rows with {len(given.signature.inputs)} columns")
    answers = ask(imported, table, given.signature, truth)
    signature = _outputs(given.signature, source, answers, truth)
    runtime, kept, report = convert(settings, imported, table, answers, say)
    manifest = {
        "title": signature.title,
        "task": signature.task,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "hashes": hashes,
        "columns": table.columns,
        "format": imported.format,
        "trusted": list(imported.trusted),
        **runtime,
    }
    files: dict[str, Any] = {**kept, "signature.json": signature.to_json(), "parity.json": report}
    if given.transform:
        manifest |= {"transform": given.transform.schema, "code": True}
        files[transforms.FILE] = given.transform.source.encode()
    with tempfile.TemporaryDirectory() as folder:  # a draft, to score the sample as the service will
        output = Scorer(bundles.write(Path(folder), manifest, files)).frame(rows)
    measured, evaluation = _measure(signature, rows, truth, output, say)
    provenance = _provenance(settings, source, imported, hashes) | {"sample_rows": rows.height}
    profile = Profile.build(rows.hstack(output), (*signature.inputs, *signature.outputs))
    files |= {"metrics.json": measured, "evaluation.json": evaluation}
    files |= {"profile.json": profile.to_json(), "provenance.json": provenance}
    if kept_rows := _sample(rows, truth, settings.models.sample_rows):
        files["sample.parquet"] = kept_rows
    bundle = registry.add(manifest | {"metrics": measured}, files)
    say(f"signature: {bundle.folder / 'signature.json'} (to change it, edit a copy and give it with --signature)")
    return bundle


def _given(settings: Settings, source: Source, sample: pl.DataFrame, imported: Imported, code: str | None) -> Rows:
    """Type the sample by the signature, and make of it what the model gets; a transform may read all but the target."""
    import polars as pl

    if code is None:
        names = inference.model_columns(imported, sample, source.target)
        signature = _inputs(settings, source, inference.inputs(sample, names, imported.kinds))
        rows, truth = _rows(signature, source, sample)
        return Rows(signature, rows, truth, features.derive(rows, names))
    names = [name for name in sample.columns if name != source.target]
    signature = _inputs(settings, source, inference.inputs(sample, names, {}), all_needed=False)
    rows, truth = _rows(signature, source, sample)
    example = check_frame(signature, pl.DataFrame([signature.example_row()])).good.drop(ROW)
    transform = transforms.prove(code, rows, example)
    made = transform(rows)
    try:
        names = inference.model_columns(imported, made, source.target)
    except ProjectError as error:
        raise ProjectError(f"after the transform, {error}") from None
    return Rows(signature, rows, truth, features.derive(made, names), transform)


def _inputs(settings: Settings, source: Source, inputs: tuple[Column, ...], all_needed: bool = True) -> Signature:
    """Return the signature, complete but for the outputs if it is inferred."""
    if source.signature is None:
        title = source.name or settings.project.title
        return Signature(title, "regression", source.target, inputs, ())
    given, file = Signature.load(source.signature), source.signature.name
    if missing := [column.name for column in inputs if all_needed and column.name not in given.by_name]:
        raise ProjectError(f"the signature {file} lacks the column {missing[0]!r}, which the model needs")
    return replace(given, title=source.name or given.title)


def _outputs(signature: Signature, source: Source, answers: Answers, truth: pl.Series | None) -> Signature:
    """Return the signature with the outputs that the model gives; those of a given signature must be the same."""
    classes = answers.classes
    task: Task = "regression" if classes is None else "classification"
    outputs = inference.outputs(classes, answers.probabilities)
    if source.signature and signature.outputs:
        wanted = [(one.name, one.categories) for one in outputs]
        if task != signature.task or [(one.name, one.categories) for one in signature.outputs] != wanted:
            raise ProjectError(f"the signature {source.signature.name} has other outputs than the model gives")
        return signature
    if truth is not None and classes is None and not truth.dtype.is_numeric():
        raise ProjectError(f"the model predicts numbers, and the target {source.target!r} holds none: name another")
    if truth is not None and classes is not None:
        labels = [str(label) for label in outputs[0].categories]
        if not set(labels) & {str(value) for value in truth.unique()}:
            raise ProjectError(
                f"the model gives the classes {', '.join(labels[:5])}, and the target {source.target!r} holds none of"
                " them: give the target as the model was trained on it"
            )
    return replace(signature, task=task, outputs=outputs)


def _rows(signature: Signature, source: Source, sample: pl.DataFrame) -> tuple[pl.DataFrame, pl.Series | None]:
    """Type the sample by the signature; every row of it must fit."""
    checked = check_frame(signature, sample)
    if checked.bad.height:
        reason, count = checked.counts.most_common(1)[0]
        raise ProjectError(
            f"{checked.bad.height} of {sample.height} rows of the sample do not fit the signature, most often"
            f" {reason} ({count}): correct the sample or the signature"
        )
    truth = None if source.target is None else sample[source.target]
    if truth is not None:
        empty = truth.null_count() + (int(truth.is_nan().sum()) if truth.dtype.is_float() else 0)
        if empty:
            raise ProjectError(f"the target {source.target!r} is missing in {empty} rows of the sample: remove them")
    return checked.good.drop(ROW), truth


def _measure(
    signature: Signature, rows: pl.DataFrame, truth: pl.Series | None, output: pl.DataFrame, say: Say
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measure the model on the sample: overall, by slice, and what one has without it. Nothing without a target."""
    if truth is None:
        return {}, {}
    measured = metrics.evaluate(signature.task, truth, output)
    say("measured " + ", ".join(f"{key} {value:.4g}" for key, value in measured.items()))
    slices = metrics.slices(signature, rows, truth, output)
    return measured, {"slices": slices, "baseline": metrics.baseline(signature, rows, truth)}


def _sample(rows: pl.DataFrame, truth: pl.Series | None, most: int) -> bytes:
    """Return at most so many of the sample's rows as Parquet, with the truth beside them; nothing if there are none."""
    if not most:
        return b""
    table = rows if truth is None else rows.with_columns(truth)
    if rows.height > most:
        table = table[np.sort(np.random.default_rng(0).permutation(rows.height)[:most])]
    target = io.BytesIO()
    table.write_parquet(target)
    return target.getvalue()


def _provenance(settings: Settings, source: Source, imported: Imported, hashes: Mapping[str, str]) -> dict[str, Any]:
    steps = getattr(imported.estimator, "steps", [])
    final = steps[-1][1] if steps else imported.estimator
    parameters = final.get_params(deep=False) if hasattr(final, "get_params") else {}
    told = parameters or imported.origin.get("params", {})
    libraries = {*LIBRARIES, *([imported.library] if imported.library else [])}
    code = {"file": source.transform.name, "sha256": hashes["transform"]} if source.transform else None
    return {
        "source": _short(source.reference),
        "format": imported.format,
        "sample": source.sample.name if source.sample else "",
        "imported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "imported_by": user(),
        "git_commit": git_commit(settings.root),
        "libraries": {"python": platform.python_version()} | {name: _version(name) for name in sorted(libraries)},
        "trusted": {"pickle": imported.code, "types": list(source.trusted)},
        "origin": dict(imported.origin),
        "hashes": dict(hashes),
        **({"transform": code} if code else {}),
        "training": {
            "algorithm": "ONNX graph" if imported.graph else type(final).__name__,
            "steps": [type(step).__name__ for _, step in steps],
            "parameters": {key: repr(value) if parameters else str(value) for key, value in sorted(told.items())},
        },
    }


def _version(name: str) -> str:
    """Return the version of an installed package; XGBoost without its GPU part has a name of its own."""
    for candidate in (name, f"{name}-cpu"):
        try:
            return version(candidate)
        except PackageNotFoundError:
            continue
    return "not installed"


def _short(reference: str) -> str:
    """Return what was imported without the folders of this machine."""
    return Path(reference).name if Path(reference).exists() else reference


def _hashes(settings: Settings, source: Source, found: Found) -> dict[str, str]:
    """Identify an import by all that it is made of: files, target, name and tolerances."""
    hashes = {
        "target": source.target or "",
        "name": source.name,
        "settings": settings.models.model_dump_json(exclude={"registry", "cache", "transform"}),
        "model": _sha256(found.files),
    }
    for name, path in {"sample": source.sample, "signature": source.signature, "transform": source.transform}.items():
        if path is not None:
            if not path.is_file():
                raise ProjectError(f"there is no file {path}")
            hashes[name] = _sha256({"": path})
    return hashes


def _sha256(files: Mapping[str, Path]) -> str:
    """Return the SHA-256 of a file, or of the list of the files of a folder, in hex."""
    found = {}
    for name, path in sorted(files.items()):
        with path.open("rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    if len(found) == 1:
        return next(iter(found.values()))
    return hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in found.items()).encode()).hexdigest()


def git_commit(folder: Path) -> str:
    """Return the commit that is checked out in ``folder``, or nothing outside git."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
