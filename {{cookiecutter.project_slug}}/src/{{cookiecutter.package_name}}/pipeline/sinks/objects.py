"""Object stores: the run's files below a prefix, its manifest after them, ``latest.json`` at last.

A reader who follows a manifest never sees half. ``s3://bucket/prefix``, ``az://...``, ``gs://...``
"""

from __future__ import annotations

from ...errors import ProjectError
from ...models.bundle import encode
from ...settings import Settings
from .. import manifest
from ..remote import STORES, Report, bucket, patiently, stored
from . import Published

SCHEMES = STORES
LATEST = "latest.json"


def publish(run: Published, url: str, settings: Settings, report: Report) -> None:
    """Upload what is missing; an object appears whole or not at all.

    Raises:
        ProjectError: the store is away for too long, or refuses.
    """
    store, prefix = bucket(url)
    base, name = f"{prefix.rstrip('/')}/" if prefix.strip("/") else "", url.rstrip("/")
    done = 0

    def upload() -> None:
        import obstore

        nonlocal done
        with stored(name):
            have = {one["path"]: one["size"] for chunk in obstore.list(store, f"{base}{run.id}") for one in chunk}
            last = f"{base}{run.id}/{manifest.NAME}"
            for entry in run.manifest["files"]:
                path, key = run.folder / entry["path"], f"{base}{run.id}/{entry['path']}"
                if have.get(key) != path.stat().st_size:
                    obstore.put(store, key, path)
                    done += 1
            if last not in have:
                obstore.put(store, last, run.folder / manifest.NAME)
            latest = {"run": run.id, "manifest": f"{run.id}/{manifest.NAME}"}
            obstore.put(store, f"{base}{LATEST}", encode(latest))

    try:
        patiently(upload, lambda: done, name, settings.pipeline.patience_seconds, report)
    except OSError as error:
        raise ProjectError(f"{run.folder} cannot be read ({error.strerror}): run the pipeline again") from None
    if done:
        report(f"{name}/{run.id} has the run: {done} files uploaded")
