"""An object store: Amazon S3 and its likes, Azure Blob Storage, Google Cloud Storage. The extra ``objects``.

The layout is that of a folder, so a folder that was copied to a bucket is a registry. Credentials are taken from
the environment by the stores' own names: ``AWS_*`` (``AWS_ENDPOINT_URL`` for a store of one's own), ``AZURE_*``,
``GOOGLE_*``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from ...errors import ProjectError
from ...settings import Settings
from ..bundle import MANIFEST, VERSION, Bundle
from . import Alias, Edit
from .remote import Remote, in_parallel

SCHEMES = ("s3", "az", "gs", "memory")
ATTEMPTS = 50  # to move an alias that others move at the same moment
PATIENCE: Any = {"max_retries": 2, "retry_timeout": timedelta(seconds=20)}


def open_place(url: str, settings: Settings) -> Objects:
    """Return the registry at ``scheme://bucket/prefix``."""
    return Objects(url, settings)


@cache
def _store(url: str, slug: str) -> Any:
    """Open an obstore store, once a process: it keeps its connections."""
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError:
        raise ProjectError(f"{url} needs an extra: pip install '{slug}[objects]'") from None
    if url.startswith("memory:"):
        return from_url("memory:///")
    given = [value for name, value in os.environ.items() if name.startswith(("AWS_", "AZURE_")) and "ENDPOINT" in name]
    options: Any = {"connect_timeout": "5s", "timeout": "300s"}
    options["allow_http"] = any(value.startswith("http://") for value in given)  # asked for by name, so meant
    try:
        return from_url(url, client_options=options, retry_config=PATIENCE)
    except (BaseError, ValueError) as error:
        raise ProjectError(f"the model registry {url} cannot be opened ({_first(error)}): correct its URL") from None


class Objects(Remote):
    """A registry in a bucket. An alias is replaced only if it is still what was read (a conditional put)."""

    def __init__(self, url: str, settings: Settings) -> None:
        """Open the store; nothing is asked of it yet."""
        super().__init__(settings)
        self._url = url.rstrip("/")
        self._store = _store(self._url, settings.project.slug)

    def names(self) -> list[str]:
        """List the folders of versions: one call a thousand."""
        with self._reachable():
            found = self._store.list_with_delimiter("versions")["common_prefixes"]
        return [name for prefix in found if VERSION.fullmatch(name := prefix.rpartition("/")[2])]

    def download(self, version: str, name: str, target: Path) -> None:
        """Stream an object to a file."""
        with target.open("wb") as file, self._reachable():
            for chunk in self._store.get(f"versions/{version}/{name}").stream():
                file.write(chunk)

    def publish(self, bundle: Bundle) -> None:
        """Upload the files side by side and the list of files last: without it a version does not exist."""

        def upload(name: str) -> None:
            with self._reachable():
                self._store.put(f"versions/{bundle.version}/{name}", bundle.folder / name)

        in_parallel(upload, bundle.manifest["files"])
        upload(MANIFEST)

    def aliases(self) -> dict[str, Alias]:
        """Read the documents of the aliases."""
        with self._reachable():
            paths = [meta["path"] for page in self._store.list("aliases") for meta in page]
        names = sorted(Path(path).stem for path in paths if path.endswith(".json"))
        found = {name: alias for name, (alias, _) in zip(names, in_parallel(self._read, names), strict=True)}
        return {name: alias for name, alias in found.items() if alias}

    def stamp(self) -> object:
        """List the aliases with their entity tags."""
        with self._reachable():
            found = [meta for page in self._store.list("aliases") for meta in page]
        return sorted((meta["path"], meta["e_tag"], meta["last_modified"]) for meta in found)

    def change(self, name: str, edit: Edit) -> Alias | None:
        """Put the new document if the old one is unchanged; begin again if it is not."""
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        path = f"aliases/{name}.json"
        for _ in range(ATTEMPTS):
            before, mode = self._read(name)
            after = edit(before)
            with self._reachable():
                try:
                    if after:
                        self._store.put(path, after.to_json(), mode=mode)
                    elif before:
                        self._store.delete(path)
                    return before
                except (AlreadyExistsError, PreconditionError):
                    continue
        raise ProjectError(f"the alias {name} is being moved by others all the time: try again")

    def _read(self, name: str) -> tuple[Alias | None, Any]:
        """Return the alias, and the condition on which it may be replaced."""
        try:
            with self._reachable():
                got = self._store.get(f"aliases/{name}.json")
                content, meta = bytes(got.bytes()), got.meta
        except FileNotFoundError:
            return None, "create"
        identity = {"e_tag": meta["e_tag"], "version": meta["version"]}
        return Alias.from_json(name, content), {key: value for key, value in identity.items() if value}

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        """Say in one sentence that the store does not answer; what is not there is a `FileNotFoundError`."""
        from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

        try:
            yield
        except (FileNotFoundError, AlreadyExistsError, PreconditionError):
            raise
        except (BaseError, ConnectionError, TimeoutError, ValueError) as error:
            at = os.environ.get("AWS_ENDPOINT_URL", "") if self._url.startswith("s3:") else ""
            raise ProjectError(
                f"the model registry {self._url}{at and f' at {at}'} does not answer ({_first(error)}): check the"
                " network, the bucket's name and the credentials in the environment"
            ) from None


def _first(error: Exception) -> str:
    """Return the cause that an error of the store names, without its dump."""
    line = str(error).strip().partition("\n")[0].strip()
    return line if len(line) <= 120 else f"...{line[-110:]}"
