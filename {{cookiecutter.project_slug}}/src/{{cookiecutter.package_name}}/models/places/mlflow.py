"""The model registry of an MLflow server. The extra ``mlflow``.

``mlflow+http://host:port/name`` (``name``: the project's slug if left out). A bundle is the artifacts of a run and
a version of the registered model, found by its tag ``bundle``. Aliases are MLflow's own, so its pages show and move
them; who moved them and why is in tags ``alias.<name>``. MLflow has no conditional write: of two moves of one alias
at the same moment, one is forgotten. Users and passwords are given by MLflow's own ``MLFLOW_TRACKING_*`` variables.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ...errors import ProjectError
from ...settings import Settings
from ..bundle import MANIFEST, Bundle
from . import KEPT, Alias, Edit
from .remote import Remote

if TYPE_CHECKING:
    from mlflow import MlflowClient

SCHEMES = ("mlflow+http", "mlflow+https")
NAME = re.compile(r"[\w][\w .-]{0,199}")
FOLDER = "bundle"  # of the run's artifacts; also the tag that holds our version
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # its own default waits for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def open_place(url: str, settings: Settings) -> Mlflow:
    """Return the registered model at ``mlflow+http://host:port/name``."""
    return Mlflow(url, settings)


class Mlflow(Remote):
    """A registered model of an MLflow server."""

    def __init__(self, url: str, settings: Settings) -> None:
        """Take the URL apart; nothing is asked of the server yet."""
        super().__init__(settings)
        parts = urlsplit(url.removeprefix("mlflow+"))
        self._uri, self._slug = f"{parts.scheme}://{parts.netloc}", settings.project.slug
        self._name = parts.path.strip("/") or self._slug
        if not parts.netloc or not NAME.fullmatch(self._name):
            raise ProjectError("the setting models.registry is wrong: mlflow+http://host:port/name is expected")
        self._known: dict[str, tuple[str, str]] = {}  # version -> number and run in MLflow

    @cached_property
    def _client(self) -> MlflowClient:
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        try:
            from mlflow import MlflowClient
        except ImportError:
            raise ProjectError(f"{self._uri} needs an extra: pip install '{self._slug}[mlflow]'") from None
        return MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)

    def names(self) -> list[str]:
        """Search the versions of the registered model: one call a thousand."""
        token: str | None = None
        found: dict[str, tuple[str, str]] = {}
        with self._reachable():
            while True:
                page = self._client.search_model_versions(f"name = '{self._name}'", 1000, page_token=token)
                found |= {one.tags[FOLDER]: (str(one.version), str(one.run_id)) for one in page if FOLDER in one.tags}
                token = page.token
                if not token:
                    break
        self._known = found
        return list(found)

    def download(self, version: str, name: str, target: Path) -> None:
        """Download an artifact of the version's run."""
        if version not in self._known and version not in self.names():
            raise FileNotFoundError(version)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as folder, self._reachable():
            Path(self._client.download_artifacts(self._known[version][1], f"{FOLDER}/{name}", folder)).replace(target)

    def publish(self, bundle: Bundle) -> None:
        """Log the bundle as a run with its metrics and key facts, then register the run as a version."""
        if bundle.version in self.names():
            return
        with self._reachable():
            client, name = self._client, self._name
            experiment = client.get_experiment_by_name(name)
            number = experiment.experiment_id if experiment else client.create_experiment(name)
            facts = {key: str(bundle.manifest[key]) for key in ("task", "runtime", "format") if key in bundle.manifest}
            run = client.create_run(number, run_name=bundle.version, tags={FOLDER: bundle.version}).info.run_id
            try:
                for key, value in facts.items():
                    client.log_param(run, key, value)
                for key, value in bundle.metrics.items():
                    client.log_metric(run, key, float(value))
                for file in (*bundle.manifest["files"], MANIFEST):
                    client.log_artifact(run, str(bundle.folder / file), f"{FOLDER}/{file}".rpartition("/")[0])
                client.set_terminated(run)
            except BaseException:
                client.set_terminated(run, "FAILED")
                raise
            if not client.search_registered_models(f"name = '{name}'"):
                client.create_registered_model(name)
            source = f"{client.get_run(run).info.artifact_uri}/{FOLDER}"
            title = str(bundle.manifest["title"])
            tags = {FOLDER: bundle.version, **facts}
            client.create_model_version(name, source, run, tags, description=title, await_creation_for=0)

    def aliases(self) -> dict[str, Alias]:
        """Read MLflow's aliases, and the tags that say more of them."""
        numbers, documents = self._pointers()
        return {name: self._alias(name, number, documents.get(name)) for name, number in sorted(numbers.items())}

    def stamp(self) -> object:
        """Read the registered model: one call."""
        return self._pointers()

    def change(self, name: str, edit: Edit) -> Alias | None:
        """Write the tag, then move the alias."""
        before = self.aliases().get(name)
        after = edit(before)
        with self._reachable():
            if after:
                if after.version not in self._known:
                    self.names()
                self._client.set_registered_model_tag(self._name, f"alias.{name}", after.to_json().decode())
                self._client.set_registered_model_alias(self._name, name, self._known[after.version][0])
            elif before:
                self._client.delete_registered_model_alias(self._name, name)
                self._client.delete_registered_model_tag(self._name, f"alias.{name}")
        return before

    def _pointers(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return the number that each alias points to, and the documents."""
        with self._reachable():
            found: list[Any] = list(self._client.search_registered_models(f"name = '{self._name}'"))
        if not found:
            return {}, {}
        tags = {key.removeprefix("alias."): value for key, value in found[0].tags.items() if key.startswith("alias.")}
        return {name: str(number) for name, number in found[0].aliases.items()}, tags

    def _alias(self, name: str, number: str, document: str | None) -> Alias:
        """Return an alias; one that was moved in MLflow itself points where MLflow says, and remembers the rest."""
        told = Alias.from_json(name, document.encode()) if document else None
        if told and self._known.get(told.version, ("",))[0] == number:
            return told
        numbers = {one: version for version, (one, _) in self._known.items()}
        if number not in numbers:
            self.names()
            numbers = {one: version for version, (one, _) in self._known.items()}
        if number not in numbers:
            raise ProjectError(
                f"the alias {name} points to version {number} of {self._name} in MLflow, which is no bundle"
            )
        if told is None or told.version == numbers[number]:
            return told or Alias(numbers[number], reason="set in MLflow")
        before = (told.version, *told.previous)[:KEPT]
        return replace(told, version=numbers[number], since="", by="", reason="moved in MLflow", previous=before)

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        """Say in one sentence that the server does not answer."""
        self._client  # noqa: B018 - its absence has a sentence of its own
        from mlflow.exceptions import MlflowException
        from requests.exceptions import RequestException

        try:
            yield
        except (MlflowException, RequestException) as error:
            cause = str(error).strip().partition("\n")[0]
            cause = cause if len(cause) <= 120 else f"...{cause[-110:]}"
            raise ProjectError(
                f"the MLflow server {self._uri} does not answer ({cause}): check that it runs, the network and the"
                " MLFLOW_TRACKING_* variables"
            ) from None
