"""From a trained model and a sample of its rows to a bundle."""

from __future__ import annotations

import getpass
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import features
from ..errors import ProjectError
from ..settings import Settings
from ..signature import Signature
from ..validation import ROW, check_frame
from . import bundle as bundles
from . import conversion, estimators, inference, metrics, parity
from .bundle import Bundle
from .profile import Profile
from .registry import Registry
from .runtimes.onnx import OnnxRuntime
from .runtimes.sklearn import SklearnRuntime
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
    registry, hashes = Registry(settings), _hashes(settings, source)
    for info in registry.versions():
        if info.hashes == hashes:
            say(f"already imported as {info.version}")
            return registry.load(info.version)
    trusted = estimators.reviewed_types(source.path)
    estimator = estimators.read(source.path, trusted=trusted, trust_pickle=source.trust_pickle)
    sample = inference.read_sample(source.sample)
    if not hasattr(estimator, "predict"):
        raise ProjectError(f"{source.path.name} holds a {type(estimator).__name__}, which cannot predict")
    if source.target is not None and source.target not in sample.columns:
        raise ProjectError(f"the sample {source.sample.name} has no column {source.target!r} for the target")
    names = inference.model_columns(estimator, sample, source.target)
    signature = _signature(settings, source, sample, names, estimator)
    rows, truth = _rows(signature, source, sample)
    say(f"read {rows.height} rows with {len(signature.inputs)} columns")
    runtime, model, report = _convert(settings, source, estimator, features.derive(rows, names), signature, say)
    manifest = {
        "title": signature.title,
        "task": signature.task,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "hashes": hashes,
        "columns": names,
        "trusted": trusted,
        **runtime,
    }
    files: dict[str, Any] = {runtime["model"]: model, "signature.json": signature.to_json(), "parity.json": report}
    with tempfile.TemporaryDirectory() as folder:  # a draft, to score the sample as the service will
        output = Scorer(bundles.write(Path(folder), manifest, files)).frame(rows)
    measured = {} if truth is None else metrics.evaluate(signature.task, truth, output)
    if measured:
        say("measured " + ", ".join(f"{key} {value:.4g}" for key, value in measured.items()))
    profile = Profile.build(rows.hstack(output), (*signature.inputs, *signature.outputs))
    provenance = _provenance(settings, source, estimator) | {"sample_rows": rows.height, "hashes": hashes}
    files |= {"metrics.json": measured, "profile.json": profile.to_json(), "provenance.json": provenance}
    return bundles.write(registry.versions_folder, manifest | {"metrics": measured}, files)


def _signature(settings: Settings, source: Source, sample: pl.DataFrame, names: list[str], estimator: Any) -> Signature:
    classes = getattr(estimator, "classes_", None)
    if classes is not None and hasattr(classes[0], "__len__") and not isinstance(classes[0], str):
        raise ProjectError("the model predicts several targets a row: import one model for each")
    options = {"target": source.target, "probabilities": hasattr(estimator, "predict_proba")}
    inferred = inference.infer(settings.project.title, sample, names, classes, options)
    if source.signature is None:
        return inferred
    given, file = Signature.load(source.signature), source.signature.name
    if missing := [column.name for column in inferred.inputs if column.name not in given.by_name]:
        raise ProjectError(f"the signature {file} lacks the column {missing[0]!r}, which the model needs")
    if [(one.name, one.categories) for one in given.outputs] != [(o.name, o.categories) for o in inferred.outputs]:
        raise ProjectError(f"the signature {file} has other outputs than the model gives")
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
    truth = None if source.target is None else sample[source.target]
    if truth is not None:
        empty = truth.null_count() + (int(truth.is_nan().sum()) if truth.dtype.is_float() else 0)
        if empty:
            raise ProjectError(f"the target {source.target!r} is missing in {empty} rows of the sample: remove them")
    return checked.good.drop(ROW), truth


def _convert(
    settings: Settings, source: Source, estimator: Any, table: pl.DataFrame, signature: Signature, say: Say
) -> tuple[dict[str, Any], bytes, dict[str, Any]]:
    """Convert if the converted model is the same model; keep the original otherwise.

    Returns:
        What the manifest says of the runtime, the model file's content, and the parity report.
    """
    probabilities = len(signature.outputs) > 1
    probe = table.head(PARITY_ROWS)
    try:
        original = SklearnRuntime(estimator, probabilities).predict(probe)
    except Exception as error:  # the team's own model may raise anything
        cause = estimators.first_line(error)
        raise ProjectError(f"the model cannot predict the sample ({cause}): is it what it was trained on?") from None
    if len(original[0]) != probe.height:
        raise ProjectError("the model predicts several values a row: import one model for each")
    compared: dict[str, Any] = {}
    try:
        graph, numeric, text = conversion.to_onnx(estimator, table)
        converted = OnnxRuntime(graph, numeric, text, probabilities).predict(probe)
        compared = parity.compare(original, converted, settings.models)
        reason = "" if compared["passed"] else f"the ONNX form differs by {compared['p999']} {compared['unit']}"
    except conversion.NotConvertibleError as error:
        reason = f"no ONNX form: {error}"
    except Exception as error:  # onnxruntime refuses graphs with errors of its own
        reason = f"the ONNX form does not run: {estimators.first_line(error)}"
    report = {"converted": not reason, "reason": reason, **compared}
    if reason:
        say(f"kept as it is: {reason}")
        name = "model" + source.path.suffix
        return {"runtime": "sklearn", "model": name, "probabilities": probabilities}, source.path.read_bytes(), report
    say(f"converted to ONNX: at most {compared['largest']:.2g} {compared['unit']} off over {compared['rows']} rows")
    onnx = {"runtime": "onnx", "model": "model.onnx", "numeric": numeric, "text": text, "probabilities": probabilities}
    return onnx, graph, report


def _provenance(settings: Settings, source: Source, estimator: Any) -> dict[str, Any]:
    steps = getattr(estimator, "steps", [])
    final = steps[-1][1] if steps else estimator
    parameters = final.get_params(deep=False) if hasattr(final, "get_params") else {}
    return {
        "source": source.path.name,
        "sample": source.sample.name,
        "imported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "imported_by": user(),
        "git_commit": git_commit(settings.root),
        "libraries": {name: version(name) for name in LIBRARIES},
        "training": {
            "algorithm": type(final).__name__,
            "steps": [type(step).__name__ for _, step in steps],
            "parameters": {key: repr(value) for key, value in sorted(parameters.items())},
        },
    }


def _hashes(settings: Settings, source: Source) -> dict[str, str]:
    """Identify an import by all that it is made of: files, target and tolerances."""
    found = {"target": source.target or "", "settings": settings.models.model_dump_json(exclude={"folder"})}
    for name, path in {"model": source.path, "sample": source.sample, "signature": source.signature}.items():
        if path is not None:
            if not path.is_file():
                raise ProjectError(f"there is no file {path}")
            found[name] = estimators.sha256(path)
    return found


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
