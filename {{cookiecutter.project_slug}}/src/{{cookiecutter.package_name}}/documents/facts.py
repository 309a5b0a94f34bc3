"""The facts that documents state, each read from where it is kept; none ever fails for want of data."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from ..models.bundle import Bundle
from ..models.registry import CHAMPION, Registry
from ..settings import Settings
from ..store import queries
from ..store.database import Store
from . import diagrams
from . import markdown as md
from .living import Fact
from .words import Words

EVER = datetime(2000, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
SETTINGS, LOG, REGISTRY = "config/settings.toml", "log", "Model registry"
ROUTES = (
    ("POST", "/v1/predict", "one row or many, and the predictions for them"),
    ("POST", "/v1/feedback", "what really happened, by the identity of a prediction"),
    ("GET", "/v1/model", "the model that answers: version, signature, metrics"),
    ("GET", "/health/live", "whether the process lives"),
    ("GET", "/health/ready", "whether it can answer"),
    ("GET", "/metrics", "counters for the monitoring system"),
    ("GET", "/docs", "the description of the interface"),
    ("GET", "/status", "the status page"),
    ("GET", "/documents/", "the documents"),
)
ONLINE = ("/v1/predict", "/v1/feedback")
MODES = {"both": "real time and batch", "batch": "batch only", "real-time": "real time only"}
METRICS = ["rows", "rmse", "mae", "r2", "bias", "roc_auc", "log_loss", "balanced_accuracy", "f1_macro", "accuracy"]
WORST_FIRST = ("alert", "warning", "unknown", "ok")


@dataclass(frozen=True)
class Context:
    """What the facts may look at."""

    settings: Settings
    registry: Registry
    store: Store
    words: Words

    @cached_property
    def champion(self) -> Bundle | None:
        """The model in production, or None before the first promotion."""
        version = self.registry.aliases().get(CHAMPION)
        return self.registry.load(version) if version else None


FACTS: dict[str, Callable[[Context], Fact]] = {}
OfProject = Callable[[Context, Words], str]
OfModel = Callable[[Bundle, Words], str]


def fact(name: str, *sources: str) -> Callable[[OfProject], OfProject]:
    """Register a function that states a fact about the project, and where it reads it."""

    def register(function: OfProject) -> OfProject:
        FACTS[name] = lambda c: Fact(function(c, c.words), _source(c.words, *sources))
        return function

    return register


def model_fact(name: str, *files: str) -> Callable[[OfModel], OfModel]:
    """Register a function that states a fact about the champion from files of its bundle; without one, it says so."""

    def register(function: OfModel) -> OfModel:
        def state(c: Context) -> Fact:
            if c.champion:
                bundle = c.words("bundle {version}", version=c.champion.version[:12])
                return Fact(function(c.champion, c.words), _source(c.words, bundle, *files))
            command = f"`{c.settings.project.slug} model promote VERSION`"
            text = c.words("No model has been promoted yet: run {command}.", command=command)
            return Fact(text, _source(c.words, REGISTRY))

        FACTS[name] = state
        return function

    return register


def context(settings: Settings, registry: Registry, store: Store) -> Context:
    """Return what the facts look at, in the language of the project."""
    return Context(settings, registry, store, Words(settings.project.language))


def collect(c: Context, names: Collection[str] | None = None) -> dict[str, Fact]:
    """State the facts (all of them, or those named)."""
    return {name: state(c) for name, state in FACTS.items() if names is None or name in names}


@fact("document.date", REGISTRY, LOG)
def document_date(c: Context, w: Words) -> str:
    """The moment of the newest fact: no clock is read, so a second refresh changes nothing."""
    moments = [event["time"] for event in queries.recent_events(c.store, 1)]
    moments += [run["started"] for run in queries.recent_runs(c.store, 1)]
    moments += [check["time"] for check in queries.latest_checks(c.store)]
    date = w.time(max(moments)) if moments else w("none yet")
    version = md.code(c.champion.version) if c.champion else w("none yet")
    return md.pairs(w, "", [("Date of the newest fact", date), ("Model version", version)])


@model_fact("model.identity", "bundle.json", "provenance.json", "parity.json")
def model_identity(bundle: Bundle, w: Words) -> str:
    """Version, origin, conversion and parity."""
    known, parity = bundle.provenance, bundle.parity
    differ, classes = parity.get("p999"), parity.get("classes_differ")
    unit = w(str(parity.get("unit") or ""))
    rows = [
        ("Version", md.code(bundle.version)),
        ("Name", bundle.signature.title),
        ("Task", w(bundle.signature.task)),
        ("Runtime", bundle.manifest.get("runtime", "")),
        ("Source", known.get("source", "")),
        ("SHA-256 of the source", md.code(known.get("hashes", {}).get("model", "")[:16])),
        ("Imported", w.time(known.get("imported_at"))),
        ("Imported by", known.get("imported_by", "")),
        ("Git commit", md.code(known.get("git_commit", "")[:12])),
        ("Form", w("converted to ONNX" if parity.get("converted") else "served in its original form")),
        ("Why", parity.get("reason", "")),
        ("Rows compared with the original", md.value(w, parity.get("rows"))),
        ("Difference, 99.9th percentile", "" if differ is None else f"{w.number(differ)} ({unit})"),
        ("Rows of another class", "" if classes is None else w.share(classes)),
    ]
    return md.pairs(w, "Identity of the model", rows)


@model_fact("model.metrics", "metrics.json")
def model_metrics(bundle: Bundle, w: Words) -> str:
    """Quality on the hold-out rows."""
    known = sorted(
        md.flat(bundle.metrics), key=lambda item: (METRICS.index(item[0]) if item[0] in METRICS else 99, item)
    )
    rows = [(w(name), w.meaning(name), md.value(w, value)) for name, value in known]
    if not rows:
        return w("The model came without hold-out rows.")
    return md.table(w, "Quality on the hold-out rows", "Metric; Meaning; >Value", rows)


@model_fact("model.signature", "signature.json")
def model_signature(bundle: Bundle, w: Words) -> str:
    """The data dictionary, with the columns of TDSP."""
    heads = "Column Index; Column Name; Type of Variable; Values (range, levels, examples, etc); Short Description"
    rows = [
        (index, md.code(entry["name"]), w(entry["type"]), _levels(w, entry), entry["description"], w("no"))
        for index, entry in enumerate(bundle.signature.dictionary(), 1)
    ]
    return md.table(w, "Data dictionary", f">{heads}; Joining Keys with others datasets?", rows)


@model_fact("model.features", "signature.json")
def model_features(bundle: Bundle, w: Words) -> str:
    """Which columns the model takes, by type, and which of them may be missing."""
    by_type: dict[str, list[str]] = {}
    for column in bundle.signature.inputs:
        by_type.setdefault(column.type, []).append(md.code(column.name))
    rows = [(w(kind), len(names), md.Code(", ".join(names))) for kind, names in by_type.items()]
    missing = ", ".join(md.code(column.name) for column in bundle.signature.inputs if column.nullable)
    table = md.table(w, "Input columns by type", "Type; >Columns; Names", rows)
    return f"{table}\n\n{w('Columns that may be missing')}{w.colon} {missing or w('none')}."


@model_fact("model.training", "provenance.json")
def model_training(bundle: Bundle, w: Words) -> str:
    """Algorithm, parameters and libraries."""
    training, libraries = (bundle.provenance.get(name) or {} for name in ("training", "libraries"))
    rows = [(name.removeprefix("parameters."), md.value(w, value).strip("'")) for name, value in md.flat(training)]
    rows = [(name, value) for name, value in rows if value != "None"]
    rows += [(f"Library: {name}", str(version)) for name, version in sorted(libraries.items())]
    return md.pairs(w, "Algorithm and parameters", rows)


@model_fact("data.profile", "profile.json", "signature.json")
def data_profile(bundle: Bundle, w: Words) -> str:
    """Counts, missing values and ranges of the reference rows."""
    total, rows = bundle.profile.rows, []
    for column in bundle.signature.inputs:
        if (entry := bundle.profile.columns.get(column.name)) is None:
            continue
        if column.numeric and column.observed:
            seen = w.span(column.observed)
        elif entry.edges:
            seen = w("mostly {range}", range=w.span((entry.edges[0], entry.edges[-1])))
        else:
            seen = md.value(w, entry.categories[:8]) + (" …" if len(entry.categories) > 8 else "")
        share = w.share(entry.missing / total) if total else ""
        rows.append((md.code(column.name), w(column.type), share, seen))
    text = w("The reference profile holds {rows} rows.", rows=w.number(total))
    return f"{text}\n\n{md.table(w, 'Profile of the reference rows', 'Column; Type; >Missing; Seen', rows)}"


@fact("deployment.endpoint", SETTINGS)
def deployment_endpoint(c: Context, w: Words) -> str:
    """Address, routes and security."""
    serving, project = c.settings.serving, c.settings.project
    guard = "by key (SHA-256 of each key in the settings)" if serving.key_hashes else "none: loopback only"
    size, most = w.number(serving.max_body_mb), w.number(serving.max_rows)
    rows = [
        ("Address", md.code(f"http://{serving.host}:{serving.port}")),
        ("Predictions", w(MODES[project.mode])),
        ("Deployment target", project.target or w("none")),
        ("Worker processes", serving.workers),
        ("Access", w(guard)),
        ("Largest request", w("{size} MB, {rows} rows", size=size, rows=most)),
    ]
    known = [route for route in ROUTES if project.mode != "batch" or route[1] not in ONLINE]
    routes = [(verb, md.code(path), w(text)) for verb, path, text in known]
    table = md.table(w, "Routes of the service", "Method; Route; Gives", routes)
    return f"{md.pairs(w, 'Environment and access', rows)}\n\n{table}"


@fact("deployment.service", LOG)
def deployment_service(c: Context, w: Words) -> str:
    """Traffic, latency and errors as they were logged."""
    series = queries.traffic_series(c.store, *EVER)
    if not series:
        return w("No traffic has been logged yet.")
    total = sum(row["requests"] for row in series)

    def counted(kind: int) -> str:
        found = sum(row["requests"] for row in series if row["status"] // 100 == kind)
        return f"{w.number(found)} ({w.share(found / total)})"

    quantiles = queries.latency_quantiles(series, (0.5, 0.95, 0.99)) or {}
    rows = [
        ("Requests", w.number(total)),
        ("First and last minute", f"{w.time(series[0]['minute'])}, {w.time(series[-1]['minute'])}"),
        ("Refused (4xx)", counted(4)),
        ("Failed (5xx)", counted(5)),
    ]
    for share, value in quantiles.items():
        rows.append((w("Latency, {share} quantile at most", share=w.share(share)), md.seconds(w, value)))
    return md.pairs(w, "Service as measured", rows)


@fact("deployment.versions", REGISTRY, LOG)
def deployment_versions(c: Context, w: Words) -> str:
    """Who points where, and how it came to that."""
    aliases = [(alias, md.code(version)) for alias, version in sorted(c.registry.aliases().items())]
    if not aliases:
        return w("No alias points to a model yet.")
    rows = []
    for event in queries.recent_events(c.store, 10):
        version, before = (md.code((event[name] or "")[:12]) for name in ("version", "previous"))
        rows.append((w.time(event["time"]), w(event["action"]), version, before, event["actor"], event["reason"]))
    heads = "Time; Action; Version; Before; By; Reason"
    tables = md.table(w, "Aliases", "Alias; Version", aliases), md.table(w, "Last events of the models", heads, rows)
    return "\n\n".join(tables)


@fact("pipeline.runs", LOG)
def pipeline_runs(c: Context, w: Words) -> str:
    """The last batch runs."""
    rows = []
    for run in queries.recent_runs(c.store, 5):
        counts = (w.number(run[f"rows_{part}"]) for part in ("in", "published", "quarantined"))
        rows.append((w.time(run["started"]), w(run["status"]), *counts, md.seconds(w, run["seconds"])))
    heads = "Started; State; >Rows in; >Published; >Quarantined; >Duration"
    return md.table(w, "Last batch runs", heads, rows) if rows else w("No batch has been run yet.")


@fact("monitoring.state", LOG)
def monitoring_state(c: Context, w: Words) -> str:
    """The newest result of each check, the worst first."""
    found = queries.latest_checks(c.store)
    if not found:
        command = f"`{c.settings.project.slug} monitor run`"
        return w("No check has been run yet: run {command}.", command=command)
    found.sort(key=lambda check: (WORST_FIRST.index(check["state"]), check["kind"], check["subject"]))
    rows = [
        (w(check["kind"]), md.code(check["subject"]), md.value(w, check["value"]), w(check["state"])) for check in found
    ]
    text = w("Checks of {time}.", time=w.time(max(check["time"] for check in found)))
    return f"{text}\n\n{md.table(w, 'State of the checks', 'Check; Subject; >Value; State', rows)}"


@fact("settings.quality", SETTINGS)
def settings_quality(c: Context, w: Words) -> str:
    """The limits that the monitoring applies."""
    m, limit = c.settings.monitoring, c.settings.pipeline.quarantine_limit
    rows = [
        ("Drift (population stability index), warning / alert", f"{w.number(m.psi_warning)} / {w.number(m.psi_alert)}"),
        ("Refused rows, warning / alert", f"{w.share(m.rejected_warning)} / {w.share(m.rejected_alert)}"),
        ("Error against hold-out, warning / alert", f"{w.number(m.error_warning)} / {w.number(m.error_alert)}"),
        ("Window of the checks", w("{hours} hours", hours=w.number(m.window_hours))),
        ("Fewest rows for a check", w.number(m.minimum_rows)),
        ("Largest share of quarantined rows in a batch", w.share(limit)),
    ]
    return md.pairs(w, "Limits", rows)


@fact("architecture.context", SETTINGS)
def architecture_context(c: Context, w: Words) -> str:
    """The C4 context view."""
    return diagrams.context(c.settings, w)


@fact("architecture.containers", SETTINGS)
def architecture_containers(c: Context, w: Words) -> str:
    """The C4 container view."""
    return diagrams.containers(c.settings, w)


def _levels(w: Words, entry: dict[str, str]) -> str:
    return f"{md.levels(w, entry['values'])} {entry['unit']}".strip()


def _source(w: Words, *places: str) -> str:
    return f"{w('Source')}{w.colon} {', '.join(w(place) for place in places)}"
