"""Try a version out on real traffic: beside the champion, or instead of it for a share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ProjectError

if TYPE_CHECKING:
    from ..settings import Settings

GROUP = "model"
app = typer.Typer()

Version = Annotated[str | None, typer.Argument(help="The version, or its first characters; none: how it goes so far.")]
Stop = Annotated[bool, typer.Option("--stop", help="End it.")]
Reason = Annotated[str, typer.Option(help="Why, for the record.")]


@app.command()
def shadow(version: Version = None, stop: Stop = False, reason: Reason = "") -> None:
    """Try a version out on copies of the requests, beside the champion; nobody gets its answers."""
    from ..settings import load

    settings = load()
    if version or stop:
        _move(settings, "shadow", None if stop else version, None, reason)
        return
    from ..models.registry import Registry
    from ..serving.plane.shadow import report
    from ..store.database import Store

    registry = Registry(settings)
    if alias := registry.aliases().get("shadow"):
        with Store(settings) as store:
            typer.echo("\n".join(report(store, registry, alias)))
    else:
        typer.echo(f"there is no shadow: `{settings.project.slug} model shadow VERSION` begins with one")


@app.command()
def canary(
    version: Version = None,
    share: Annotated[str, typer.Option(help="Of the requests: 10% or 0.1.")] = "10%",
    stop: Stop = False,
    reason: Reason = "",
) -> None:
    """Let a version answer a share of the requests; it is withdrawn by itself when it is worse.

    The same session (header X-Session-ID), or else the same body, always gets the same version. A request that the
    canary fails on is answered by the champion.

    Worse means, by settings [canary]: more requests fail than the champion's rate plus the margin (exact binomial
    test), latencies are longer than the champion's times 1 + margin (Mann-Whitney U test), or so are the errors
    against feedback (regression: Mann-Whitney of absolute errors; classification: binomial of wrong answers). All
    tests are one-sided; look k spends significance / (3 k (k + 1)) on each, which adds up to the significance.
    """
    from ..settings import load

    settings = load()
    if version or stop:
        _move(settings, "canary", None if stop else version, _share(share), reason)
        return
    for line in _evidence(settings):
        typer.echo(line)


def _share(text: str) -> float:
    """Read a share that is written as 10% or 0.1."""
    number = text.strip().removesuffix("%")
    try:
        share = float(number) / (100 if "%" in text else 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1 or (share == 1 and "%" not in text):  # is 1 all of it, or one percent?
        raise ProjectError("the share must be written like 10% or 0.1")
    return share


def _move(settings: Settings, name: str, version: str | None, share: float | None, reason: str) -> None:
    """Point the alias to a version, or drop it; record it first."""
    from ..models.registry import CHAMPION, Registry
    from ..settings import user
    from ..store.database import Store
    from ..store.events import record

    registry = Registry(settings)
    aliases = registry.aliases()
    before = aliases[name].version if name in aliases else None
    target = registry.load(version).version if version else None
    if target is None and before is None:
        typer.echo(f"there is no {name}")
        return
    if target and CHAMPION not in aliases:
        raise ProjectError(
            f"a {name} goes beside a champion: run `{settings.project.slug} model promote VERSION` first"
        )
    if target and target == aliases[CHAMPION].version:
        raise ProjectError(f"{target} is the champion: choose another version")
    with Store(settings) as store:
        words = f"{share:.4g} of the requests" if target and share else ""
        text = ": ".join(word for word in (words, reason) if word)
        record(
            store,
            name if target else "withdraw",
            target or str(before),
            user(),
            alias=name,
            previous=before,
            reason=text,
        )
    if target:
        registry.point(name, target, by=user(), reason=reason, share=share)
        typer.echo(f"{name}: {before or 'none'} -> {target}" + (f", {share:.4g} of the requests" if share else ""))
    else:
        registry.drop(name)
        typer.echo(f"{name}: {before} -> none")


def _evidence(settings: Settings) -> list[str]:
    """Say what the log knows of the canary so far."""
    from datetime import UTC, datetime

    from ..models.registry import CANARY, CHAMPION, Registry
    from ..serving.plane.canary import gather, looks
    from ..store.database import Store

    registry = Registry(settings)
    aliases = registry.aliases()
    if CANARY not in aliases or CHAMPION not in aliases:
        return [f"there is no canary: `{settings.project.slug} model canary VERSION --share 10%` begins with one"]
    alias, champion = aliases[CANARY], aliases[CHAMPION]
    look = max(1, looks(alias, settings.canary.seconds, datetime.now(UTC)))
    task = registry.load(CHAMPION).signature.task
    with Store(settings) as store:
        found = gather(settings, store, task, alias, champion, look)
    head = f"canary {alias.version} answers {alias.share or 0:.4g} of the requests since {alias.since}"
    return [f"{head}, champion {champion.version}", *map(str, found)]
