"""Fixtures: a fresh project in a temporary folder, and small models that were trained outside the project's code.

Tests import the package under the fixed name ``project``, so they read the same in every project.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest

PACKAGE = "{{ cookiecutter.package_name }}"
HERE = Path(__file__).resolve().parents[1]


class Alias(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Give the package's own modules for ``project`` and everything below it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Answer for ``project`` alone."""
        return importlib.machinery.ModuleSpec(name, self) if name.partition(".")[0] == "project" else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Return the module of the package itself, not a copy."""
        module = importlib.import_module(PACKAGE + spec.name.removeprefix("project"))
        self._kept = {**getattr(self, "_kept", {}), spec.name: (module, module.__spec__, module.__loader__)}
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Undo what the import system wrote on the module; it is loaded already."""
        for kept, spec, loader in self._kept.values():
            if kept is module:
                module.__spec__, module.__loader__ = spec, loader


sys.meta_path.insert(0, Alias())

from project.models.importing import Source, import_model  # noqa: E402
from project.models.registry import CHAMPION, Registry  # noqa: E402
from project.settings import PREFIX, Settings, load  # noqa: E402

EXTRAS = bool(os.environ.get("CI")) and os.environ.get(f"{PREFIX}TEST_EXTRAS") == "1"


def sample(rows: int = 600, seed: int = 7) -> pl.DataFrame:
    """Return made-up hires of a kind that every column type takes part in, with their truth."""
    random = np.random.default_rng(seed)
    start = np.datetime64("2025-01-01T00:00:00", "us")
    at = start + random.integers(0, 365 * 24, rows) * np.timedelta64(3_600_000_000, "us")
    temperature = np.round(random.normal(15, 8, rows), 1)
    station = random.choice(["north", "south", "harbour"], rows)
    staff = random.integers(0, 6, rows)
    open_ = random.random(rows) < 0.8
    hires = 20 + 2 * temperature + 5 * staff + 30 * (station == "harbour") + 10 * open_ + random.normal(0, 3, rows)
    return pl.DataFrame(
        {
            "at": pl.Series(at).dt.replace_time_zone("UTC"),
            "temperature": [
                None if gone else value
                for value, gone in zip(temperature.tolist(), random.random(rows) < 0.05, strict=True)
            ],
            "station": station,
            "staff": staff,
            "open": open_,
            "hires": np.round(hires, 2),
            "busy": np.where(hires > 70, "yes", "no"),
        }
    )


def estimator(target: str, frame: pl.DataFrame) -> Any:
    """Train a small scikit-learn pipeline on the sample, as a team would."""
    import pandas as pd
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    table = pd.DataFrame(
        {
            "temperature": frame["temperature"].to_numpy(),
            "station": frame["station"].to_list(),
            "staff": frame["staff"].to_numpy(),
            "open": frame["open"].to_numpy(),
            "at_hour": frame["at"].dt.hour().to_numpy().astype(float),
        }
    )
    kind = HistGradientBoostingRegressor if target == "hires" else HistGradientBoostingClassifier
    encoder = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["station"]), remainder="passthrough"
    )
    return make_pipeline(encoder, kind(max_iter=20, random_state=0)).fit(table, frame[target].to_list())


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Source]:
    """Two trained models as files: ``hires`` (regression) and ``busy`` (classification), each with its sample."""
    import skops.io

    folder = tmp_path_factory.mktemp("trained")
    frame = sample()
    sources = {}
    for target, other in (("hires", "busy"), ("busy", "hires")):
        path, rows = folder / f"{target}.skops", folder / f"{target}.csv"
        skops.io.dump(estimator(target, frame), path)
        frame.drop(other).write_csv(rows)
        sources[target] = Source(str(path), rows, target)
    return sources


@pytest.fixture(scope="session")
def biased(trained: dict[str, Source], tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A regression that says 50 hires too many in the harbour, and is good elsewhere."""
    import skops.io

    frame, path = sample(), tmp_path_factory.mktemp("biased") / "biased.skops"
    wrong = frame.with_columns(hires=pl.col("hires") + 50 * (pl.col("station") == "harbour"))
    skops.io.dump(estimator("hires", wrong), path)
    return replace(trained["hires"], reference=str(path))


@pytest.fixture(scope="session")
def imported(trained: dict[str, Source], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of two projects, each with its model imported and promoted; copied for every test."""
    folders = {}
    for target, source in trained.items():
        settings = _project(tmp_path_factory.mktemp(f"project-{target}"))
        Registry(settings).point(CHAMPION, import_model(settings, source).version)
        folders[target] = settings.root
    return folders


@pytest.fixture
def needs_extra() -> Callable[[str], Any]:
    """Give a function that returns the library of an extra, or skips the test where it is not installed.

    In continuous integration with ``<PREFIX>TEST_EXTRAS=1`` it fails instead.
    """

    def library(extra: str) -> Any:
        try:
            return importlib.import_module({"objects": "obstore"}.get(extra, extra))
        except ImportError:
            reason = f"needs the extra {extra}"
            pytest.fail(reason) if EXTRAS else pytest.skip(reason)

    return library


class Collector:
    """What receives traces over the protocol that every collector speaks (OTLP over HTTP), decoded."""

    def __init__(self) -> None:
        self.resources: list[Any] = []

    @property
    def spans(self) -> list[Any]:
        return [span for one in self.resources for scope in one.scope_spans for span in scope.spans]


@pytest.fixture
def collector(needs_extra: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    needs_extra("opentelemetry.exporter.otlp.proto.http")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    found = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            message = ExportTraceServiceRequest()
            message.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
            found.resources += message.resource_spans
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield found
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep settings of the outer environment out of the tests."""
    for name in [name for name in os.environ if name.startswith((PREFIX, "OTEL_"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A fresh project with the answers of this one, without a model."""
    return _project(tmp_path / "project")


@pytest.fixture
def champion(imported: dict[str, Path], tmp_path: Path) -> Settings:
    """A fresh project whose champion is the regression."""
    return load(Path(shutil.copytree(imported["hires"], tmp_path / "champion")))


@pytest.fixture
def classifier(imported: dict[str, Path], tmp_path: Path) -> Settings:
    """A fresh project whose champion is the classification."""
    return load(Path(shutil.copytree(imported["busy"], tmp_path / "classifier")))


@pytest.fixture
def rows() -> pl.DataFrame:
    """Rows that the models did not see, with their truth."""
    return sample(300, seed=11)


def _project(folder: Path) -> Settings:
    (folder / "config").mkdir(parents=True)
    shutil.copy(HERE / "config" / "settings.toml", folder / "config" / "settings.toml")
    return load(folder)
