"""From a trained model and a sample of its rows to a bundle."""

from __future__ import annotations

import getpass
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import features
from ..errors import ProjectError
from ..settings import Settings
from ..signature import Signature
from ..validation import check_frame
from . import bundle as bundles
from . import conversion, estimators, inference, metrics, parity
from .bundle import Bundle
from .profile import Profile
from .registry import Registry
from .scorer import Scorer

if TYPE_CHECKING:
    import polars as pl

PARITY_ROWS = 20_000
LIBRARIES = ("scikit-learn", "numpy", "onnxruntime", "skl2onnx", "skops", "polars")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Source:
    """What is imported.

    Attributes:
        path: the file of the fitted estimator.
        sample: a CSV or Parquet file of rows like those to come.
        target: the sample's column with the truth, if it has one.
        signature: a signature file to use in place of the inferred one.
        trust_pickle: whether a pickle may be loaded.
    """

    path: Path
    sample: Path
    target: str | None = None
    signature: Path | None = None
    trust_pickle: bool = False


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
    trusted = estimators.reviewed_types(source.path)
    estimator = estimators.read(source.path, trusted=trusted, trust_pickle=source.trust_pickle)
    hashes = _hashes(source)
    for info in registry.versions():
        known = registry.load(info.version)
        if known.provenance["hashes"] == hashes and known.provenance["settings"] == settings.models.model_dump(
            mode="json"
        ):
            say(f"already imported as {known.version}")
            return known
    sample = inference.read_sample(source.sample)
    if not hasattr(estimator, "predict"):
        raise ProjectError(f"{source.path.name} holds a {type(estimator).__name__}, which cannot predict")
    if source.target is not None and source.target not in sample.columns:
        raise ProjectError(f"the sample {source.sample.name} has no column {source.target!r} for the target")
    names = inference.model_columns(estimator, sample, source.target)
    signature = _signature(settings, source, sample, names, estimator)
    rows, truth = _rows(signature, source, sample)
    table = features.derive(rows, names)
    say(f"read {rows.height} rows with {len(signature.inputs)} columns")
    parts = _model_parts(settings, source, estimator, table, signature, trusted, say)
    manifest = parts["manifest"] | {
        "title": signature.title,
        "task": signature.task,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "columns": names,
    }
    return _write(registry, manifest, parts, _Facts(settings, source, signature, rows, truth, hashes, estimator), say)


@dataclass(frozen=True)
class _Facts:
    """What the bundle's other files are made of."""

    settings: Settings
    source: Source
    signature: Signature
    rows: pl.DataFrame
    truth: pl.Series | None
    hashes: dict[str, str]
    estimator: Any


def _signature(settings: Settings, source: Source, sample: pl.DataFrame, names: list[str], estimator: Any) -> Signature:
    classes = getattr(estimator, "classes_", None)
    if classes is not None and hasattr(classes[0], "__len__") and not isinstance(classes[0], str):
        raise ProjectError("the model predicts several targets a row: import one model for each")
    options = {"target": source.target, "probabilities": hasattr(estimator, "predict_proba")}
    inferred = inference.infer(settings.project.title, sample, names, classes, options)
    if source.signature is None:
        return inferred
    given = Signature.load(source.signature)
    if missing := [column.name for column in inferred.inputs if column.name not in given.by_name]:
        raise ProjectError(
            f"the signature {source.signature.name} lacks the column {missing[0]!r}, which the model needs"
        )
    if [(one.name, one.categories) for one in given.outputs] != [
        (one.name, one.categories) for one in inferred.outputs
    ]:
        raise ProjectError(f"the signature {source.signature.name} has other outputs than the model gives")
    return given


def _rows(signature: Signature, source: Source, sample: pl.DataFrame) -> tuple[pl.DataFrame, pl.Series | None]:
    """Type the sample by the signature; every row of it must fit."""
    checked = check_frame(signature, sample)
    if checked.bad.height:
        reason, count = checked.counts.most_common(1)[0]
        raise ProjectError(
            f"{checked.bad.height} of {sample.height} rows of the sample do not fit the signature, most often"
            f" {reason} ({count}): correct the sample or the signature"
        )
    if source.target is None:
        return checked.good.drop("row"), None
    truth = sample[source.target]
    empty = truth.null_count() + (int(truth.is_nan().sum()) if truth.dtype.is_float() else 0)
    if empty:
        raise ProjectError(f"the target {source.target!r} is missing in {empty} rows of the sample: remove them")
    return checked.good.drop("row"), truth


def _model_parts(
    settings: Settings,
    source: Source,
    estimator: Any,
    table: pl.DataFrame,
    signature: Signature,
    trusted: list[str],
    say: Say,
) -> dict[str, Any]:
    """Convert if the converted model is the same model; keep the original otherwise."""
    from .runtimes.onnx import OnnxRuntime
    from .runtimes.sklearn import SklearnRuntime

    probabilities = len(signature.outputs) > 1
    probe = table.head(PARITY_ROWS)
    try:
        original = SklearnRuntime(estimator, probabilities).predict(probe)
    except Exception as error:  # the team's own model may raise anything
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ProjectError(
            f"the model cannot predict the sample ({cause[:200]}): is it the sample it was trained on?"
        ) from None
    if len(original[0]) != probe.height:
        raise ProjectError("the model predicts several values a row: import one model for each")
    compared: dict[str, Any] = {}
    try:
        graph, numeric, text = conversion.to_onnx(estimator, table)
        compared = parity.compare(
            original, OnnxRuntime(graph, numeric, text, probabilities).predict(probe), settings.models
        )
        reason = (
            ""
            if compared["passed"]
            else f"the ONNX form differs by {compared['p999']} ({compared['unit']}, 99.9th percentile)"
        )
    except conversion.NotConvertibleError as error:
        reason = f"no ONNX form: {error}"
    except Exception as error:  # onnxruntime refuses graphs with errors of its own
        reason = f"the ONNX form does not run: {(str(error).splitlines() or [''])[0][:200]}"
    if not reason:
        say(f"converted to ONNX: at most {compared['largest']:.2g} {compared['unit']} off over {compared['rows']} rows")
        manifest = {"runtime": "onnx", "model": "model.onnx", "numeric": numeric, "text": text}
        content = graph
    else:
        say(f"kept as it is: {reason}")
        kept = "model" + source.path.suffix
        manifest = {"runtime": "sklearn", "model": kept, "trusted": trusted}
        content = source.path.read_bytes()
    return {
        "manifest": manifest | {"probabilities": probabilities},
        "model": (manifest["model"], content),
        "parity": {"converted": not reason, "reason": reason, **compared},
    }


def _write(registry: Registry, manifest: dict[str, Any], parts: dict[str, Any], facts: _Facts, say: Say) -> Bundle:
    """Write a first draft to score the sample with it, then the bundle with the measures of that."""
    import tempfile

    name, content = parts["model"]
    files: dict[str, Any] = {name: content, "signature.json": facts.signature.to_json(), "parity.json": parts["parity"]}
    with tempfile.TemporaryDirectory() as folder:
        output = Scorer(bundles.write(Path(folder), manifest | {"metrics": {}}, files)).frame(facts.rows)
    measured: dict[str, Any] = {}
    if facts.truth is not None:
        measured = metrics.evaluate(facts.signature.task, facts.truth, output)
        say("measured " + ", ".join(f"{key} {value:.4g}" for key, value in measured.items()))
    columns = (*facts.signature.inputs, *facts.signature.outputs)
    profile = Profile.build(facts.rows.hstack(output), columns)
    files |= {"metrics.json": measured, "profile.json": profile.to_json(), "provenance.json": _provenance(facts)}
    return bundles.write(registry.versions_folder, manifest | {"metrics": measured}, files)


def _provenance(facts: _Facts) -> dict[str, Any]:
    estimator = facts.estimator
    final = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    return {
        "source": facts.source.path.name,
        "sample": facts.source.sample.name,
        "sample_rows": facts.rows.height,
        "hashes": facts.hashes,
        "settings": facts.settings.models.model_dump(mode="json"),
        "imported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "imported_by": user(),
        "git_commit": git_commit(facts.settings.root),
        "libraries": {name: found for name in LIBRARIES if (found := _installed(name))},
        "training": {
            "algorithm": type(final).__name__,
            "steps": [type(step).__name__ for _, step in getattr(estimator, "steps", [])],
            "parameters": {key: repr(value) for key, value in sorted(final.get_params(deep=False).items())}
            if hasattr(final, "get_params")
            else {},
        },
    }


def _hashes(source: Source) -> dict[str, str]:
    paths = {"model": source.path, "sample": source.sample, "signature": source.signature}
    for path in paths.values():
        if path is not None and not path.is_file():
            raise ProjectError(f"there is no file {path}")
    found = {name: estimators.sha256(path) for name, path in paths.items() if path is not None}
    return found | {"target": source.target or ""}


def user() -> str:
    """Return who is at work here, or ``unknown``."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def git_commit(folder: Path) -> str:
    """Return the commit that is checked out in ``folder``, or nothing outside git."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
