"""The facts that documents state: read here from where they are kept, worded in ``style/facts.md``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from jinja2 import ChainableUndefined
from jinja2.runtime import Macro

from ..models.registry import CHAMPION, Registry
from ..settings import Settings
from ..store import queries
from ..store.database import Store
from .words import Markdown, Words, templates

EVER = datetime(2000, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
MOVES, MOST = ("promote", "rollback", "shadow", "canary", "withdraw"), 1_000
SPOKEN = ("metric", "baseline", "unit")  # values of a gate that are words of the project, not of the data
OF_MODEL = ("model_", "data_")
NOTHING_TO_SAY = re.compile(r"^\|[^|\n]*\| *\|\n", re.MULTILINE)  # a row of a label and no value


def collect(settings: Settings) -> dict[str, str]:
    """State every fact as Markdown that ends in its source; none ever fails for want of data.

    Returns:
        The facts by name: each macro ``group_name`` of the template is the fact ``group.name``.
    """
    registry, words = Registry(settings), Words(settings.project.language)
    aliases = registry.aliases()
    bundle = registry.load(CHAMPION) if CHAMPION in aliases else None
    with Store(settings) as store:
        events, runs = queries.recent_events(store, 10), queries.recent_runs(store, 5)
        moves = queries.recent_events(store, MOST, MOVES)
        checks, series = queries.latest_checks(store), queries.traffic_series(store, *EVER)
    # No clock is read, so a second refresh changes nothing.
    moments = [event["time"] for event in events] + [run["started"] for run in runs] + [one["time"] for one in checks]
    known = {
        "settings": settings,
        "project": settings.project,
        "bundle": bundle,
        "aliases": aliases,
        "events": events,
        "moves": moves,
        "runs": runs,
        "checks": checks,
        "series": series,
        "quantiles": queries.latency_quantiles(series, (0.5, 0.95, 0.99)) or {},
        "newest": max(moments, default=None),
        "words": words.known,
        "colon": words.colon,
        "_": words,
        "source": words.source,
    }
    environment = templates(finalize=words.show, undefined=ChainableUndefined, autoescape=False)
    environment.filters["markdown"] = Markdown
    environment.filters["phrases"] = lambda said: _phrases(words, said)
    environment.filters["translated"] = words
    for one in (words.code, words.label, words.levels, words.seconds, words.share, words.time):
        environment.filters[one.__name__] = one
    module = environment.get_template("facts.md").make_module(known)
    macros = {name: macro for name, macro in vars(module).items() if isinstance(macro, Macro)}
    unpromoted = macros.pop("unpromoted")
    facts = {}
    for name, macro in macros.items():
        text = str(unpromoted() if bundle is None and name.startswith(OF_MODEL) else macro())
        facts[name.replace("_", ".", 1)] = NOTHING_TO_SAY.sub("", text).strip()
    return facts


def _phrases(words: Words, said: Sequence[Any]) -> Markdown:
    """Say in the language of the documents what gates measured: texts with places for values."""
    parts = []
    for text, values in said:
        known = {name: words(value) if name in SPOKEN else value for name, value in values.items()}
        parts.append(words(text, **known) if known else words.show(words(text)))
    return Markdown(("\u00a0; " if words.language == "fr" else "; ").join(parts))
