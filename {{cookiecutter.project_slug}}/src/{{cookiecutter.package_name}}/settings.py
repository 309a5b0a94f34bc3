"""Every setting of the project, once: defaults, then ``config/settings.toml``, then the environment."""

from __future__ import annotations

import getpass
import os
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from .errors import ProjectError

PACKAGE = __name__.partition(".")[0]
PREFIX = f"{PACKAGE.upper()}_"
FILE = Path("config/settings.toml")

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A table of the settings file; an unknown name in it is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Project(Section):
    """What the project is: the answers given when it was made."""

    title: str = PACKAGE
    slug: str = PACKAGE.replace("_", "-")
    description: str = ""
    organization: str = ""
    author: str = ""
    email: str = ""
    license: str = ""
    example: str = ""
    mode: Literal["both", "real-time", "batch"] = "both"
    target: str = ""
    language: Literal["en", "fr"] = "en"


class Models(Section):
    """Where bundles live, and how far a converted model may be from the original.

    ``registry`` is a folder, the URL of an object store (``s3://``, ``gs://``, ``az://``) or an MLflow server
    (``mlflow+http://``, ``mlflow+https://``); what does not come from a folder is kept in ``cache`` once it was read.
    ``transform`` is the file with the team's function from rows to the model's columns (see `models.transform`), which
    ``model import`` puts into the bundle; none if it is empty.
    ``sample_rows`` of the sample stay in the bundle, to compare versions on the same rows; 0 keeps none.
    ``parity_tolerance`` is the largest accepted 99.9th percentile of the differences, in standard
    deviations of the predictions (regression) or in probability (classification);
    ``parity_classes`` the largest accepted share of differing classes.
    """

    registry: str = "data/models"
    cache: Path = Path("data/cache")
    transform: str = ""
    sample_rows: Annotated[int, Field(ge=0)] = 20_000
    parity_tolerance: Positive = 1e-3
    parity_classes: Share = 1e-3


class Store(Section):
    """The one log: a SQLAlchemy URL; a relative SQLite path is taken from the project's root."""

    url: str = "sqlite:///data/store.db"


class Serving(Section):
    """The service.

    Beyond loopback it starts only when there is a key (see `store.keys`) or an ``issuer``. Each worker looks at the
    champion alias and the keys every ``follow_seconds``.

    On ``grpc_port`` it also speaks the Open Inference Protocol over gRPC, with the extra ``grpc``; 0 is off.

    A request has at most ``max_body_mb`` of body, unpacked, and ``max_rows``; a CSV may have ``max_upload_mb``,
    which goes by way of a temporary file. It must be there within ``body_seconds``; a connection
    may be silent for ``idle_seconds``. Each worker holds ``max_connections`` and up to ``queue`` requests that wait for
    a thread; it refuses more, and those that waited for ``wait_seconds``. On SIGTERM it says for ``drain_seconds`` that
    it is not ready, before it ends.

    ``failures`` says what becomes of rows that do not fit: nothing is predicted (``request``), or the others are
    (``row``). ``batching`` scores rows of several requests together, up to ``batch_rows``: ``auto`` where that pays.

    ``issuer`` is the URL of an OAuth2 or OpenID Connect issuer whose tokens for ``audience`` open the service as keys
    do; their claim ``scope_claim`` has the scopes. ``cors_origins`` are the websites whose pages may call, such as
    ``https://example.com`` (``*``: all). ``trusted_hosts`` are the names that it answers to, such as
    ``*.example.com`` (``*``: any); without them those of this machine where only it can call, and any elsewhere.
    ``tls_certificate`` and ``tls_key`` are PEM files: with them it speaks HTTPS.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    grpc_port: Annotated[int, Field(ge=0, le=65535)] = 0
    workers: Count = 1
    max_body_mb: Positive = 16
    max_upload_mb: Positive = 1_000
    max_rows: Count = 10_000
    max_connections: Count = 1_000
    queue: Count = 128
    wait_seconds: Positive = 1.0
    body_seconds: Positive = 60
    idle_seconds: Positive = 20
    drain_seconds: Annotated[float, Field(ge=0)] = 0.5
    batching: Literal["auto", "on", "off"] = "auto"
    batch_rows: Count = 64
    failures: Literal["request", "row"] = "request"
    follow_seconds: Positive = 0.5
    issuer: Annotated[str, Field(pattern=r"^(https?://\S+)?$")] = ""
    audience: str = ""
    scope_claim: str = "scope"
    cors_origins: tuple[Annotated[str, Field(pattern=r"^(\*|https?://[^/\s]+)$")], ...] = ()
    trusted_hosts: tuple[Annotated[str, Field(pattern=r"^(\*|(\*\.)?[^*/\s]+)$")], ...] = ()
    tls_certificate: str = ""
    tls_key: str = ""


class Canary(Section):
    """When a canary is withdrawn by itself (see `serving.plane.canary`).

    Margins say how much worse than the champion it may be: ``errors`` as a difference of shares, ``latency`` and
    ``feedback`` as a share of the champion's. It is judged every ``seconds`` once ``minimum`` rows are in;
    ``significance`` bounds the probability that it is withdrawn wrongly, over its whole life.
    """

    errors: Share = 0.01
    latency: Positive = 0.5
    feedback: Positive = 0.1
    minimum: Count = 100
    seconds: Positive = 2.0
    significance: Annotated[float, Field(gt=0, lt=1)] = 0.01


class Pipeline(Section):
    """Batch runs.

    ``input``, ``output`` and ``sinks`` are paths or URLs, used when the command line gives none. A CSV's
    ``delimiter`` and ``encoding`` are found if they are empty; ``unpack_ratio`` is how many times its size a
    compressed file may grow. A database or store may be away for ``patience_seconds``. ``quarantine_limit`` is the
    share of bad rows above which nothing is published; ``log_rows`` writes each prediction to the log, not only the
    run; ``monitor`` checks what a run published for drift and data quality.

    ``schedule`` is the cron line, in UTC, of an orchestrator that this project defines (see `pipeline.dagster`).

    ``engine`` is a module of ``pipeline/engines``, and all give the same bytes: ``local`` has ``workers`` processes
    (0: one a core), ``spark`` the cluster at ``spark_master`` (empty: as Spark itself is configured).
    """

    input: str = ""
    output: str = ""
    sinks: tuple[str, ...] = ()
    schedule: str = "0 2 * * *"
    delimiter: Literal["", ",", ";", "\t", "|"] = ""
    encoding: str = ""
    unpack_ratio: Positive = 200
    patience_seconds: Annotated[float, Field(ge=0)] = 120
    chunk_rows: Count = 65_536
    quarantine_limit: Share = 0.5
    log_rows: bool = True
    monitor: bool = True
    engine: str = "local"
    workers: Annotated[int, Field(ge=0)] = 0
    spark_master: str = ""


class Monitoring(Section):
    """Windows and limits of the checks.

    PSI is the population stability index. ``error_*`` are ratios of the error against feedback to the error on
    the sample.
    """

    window_hours: Positive = 24
    minimum_rows: Count = 100
    psi_warning: Positive = 0.1
    psi_alert: Positive = 0.25
    rejected_warning: Share = 0.05
    rejected_alert: Share = 0.2
    error_warning: Positive = 1.2
    error_alert: Positive = 1.5


class Documents(Section):
    """Where the documents are written by people, and where their exports go."""

    folder: Path = Path("docs/deployment")
    output: Path = Path("build/documents")


class Telemetry(Section):
    """Logs: ``auto`` is readable on a terminal and JSON elsewhere.

    ``metrics_file`` is a file, such as ``/var/lib/prometheus/node-exporter/batch.prom``, for node_exporter's textfile
    collector: the metrics of batch runs, written at the end of each; none if it is empty.
    """

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "console", "json"] = "auto"
    metrics_file: str = ""


class Settings(BaseSettings):
    """All settings of one project; read them with `load`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="ignore",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    root: Path
    project: Project = Project()
    models: Models = Models()
    store: Store = Store()
    serving: Serving = Serving()
    canary: Canary = Canary()
    pipeline: Pipeline = Pipeline()
    monitoring: Monitoring = Monitoring()
    documents: Documents = Documents()
    telemetry: Telemetry = Telemetry()

    def path(self, relative: str | Path) -> Path:
        """Return ``relative`` as an absolute path, taken from the project's root."""
        return self.root / relative

    @property
    def metrics_file(self) -> Path | None:
        """Return where the metrics of batch runs are written to, if anywhere."""
        return self.path(self.telemetry.metrics_file) if self.telemetry.metrics_file else None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file, which arrives as init arguments."""
        return env_settings, init_settings


def find_root(start: Path | None = None) -> Path:
    """Return the project's folder: ``<PACKAGE>_HOME``, or the first folder from ``start`` upwards with a settings file.

    Raises:
        ProjectError: no such folder.
    """
    home = os.environ.get(f"{PREFIX}HOME")
    candidates = [Path(home)] if home else [folder := (start or Path.cwd()).resolve(), *folder.parents]
    for folder in candidates:
        if (folder / FILE).is_file():
            return folder.resolve()
    raise ProjectError(
        f"no {FILE} in {candidates[0]} or above it: run this inside the project's folder or set {PREFIX}HOME"
    )


def load(root: Path | None = None) -> Settings:
    """Read the settings of the project at ``root`` (default: found from the working folder).

    Raises:
        ProjectError: the file or the environment holds something that is not a setting.
    """
    folder = find_root(root)
    try:
        values = tomllib.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ProjectError(f"{FILE} cannot be read: {error}") from None
    if unknown := sorted(set(values) - set(Settings.model_fields) | {"root"} & set(values)):
        raise ProjectError(f"{FILE} has an unknown section [{unknown[0]}]: remove it or correct its name")
    try:
        return Settings(root=folder, **values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        variable = PREFIX + name.replace(".", "__").upper()
        raise ProjectError(
            f"the setting {name} is wrong ({first['msg']}): correct it in {FILE} or in {variable}"
        ) from None
    except ValueError as error:  # pydantic-settings: a variable that is not JSON where JSON is due
        raise ProjectError(f"a setting in the environment cannot be read: {error}") from None


def user() -> str:
    """Return who is at work here, or ``unknown``."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
