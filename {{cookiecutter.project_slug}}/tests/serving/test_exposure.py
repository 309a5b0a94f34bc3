"""Where the service may listen, and with what certificate."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest

from project.errors import ProjectError
from project.serving.security import check_exposure
from project.serving.security.exposure import certificate
from project.settings import PREFIX, Settings
from project.store import keys
from project.store.database import Store


def change(settings: Settings, **values: object) -> Settings:
    return settings.model_copy(update={"serving": settings.serving.model_copy(update=values)})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "", "example.com", "127.0.0.1.example.com"])
def test_other_machines_are_let_in_only_with_keys(settings: Settings, host: str) -> None:
    with pytest.raises(ProjectError, match=f"{settings.project.slug} key create"):
        check_exposure(settings, host)
    with Store(settings) as store:
        key, _ = keys.create(store, "somebody", ["read"], "test")
        check_exposure(settings, host)
        keys.revoke(store, key.id)
    with pytest.raises(ProjectError, match="without keys"):
        check_exposure(settings, host)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.3.2.1"])
def test_loopback_needs_no_key(settings: Settings, host: str) -> None:
    check_exposure(settings, host)


def test_every_website_may_call_only_with_keys(settings: Settings) -> None:
    open_to_all = change(settings, cors_origins=("*",))
    with pytest.raises(ProjectError, match="every website"):
        check_exposure(open_to_all, "127.0.0.1")
    with Store(settings) as store:
        keys.create(store, "somebody", ["read"], "test")
    check_exposure(open_to_all, "127.0.0.1")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_https_with_a_certificate(champion: Settings, served: Any, pem: Path, workers: str) -> None:
    names = {"TLS_CERTIFICATE": "certificate.pem", "TLS_KEY": "key.pem"}
    environment = {f"{PREFIX}SERVING__{name}": str(pem / file) for name, file in names.items()}
    trust = ssl.create_default_context(cafile=pem / "certificate.pem")
    with served(champion, "--workers", workers, **environment) as (address, _, said):
        assert address.startswith("https://")
        assert f"{address}/docs" in said
        assert "model " in said
        with httpx.Client(base_url=address, verify=trust, trust_env=False) as client:
            for path in ("/v1/model", "/docs", "/nowhere"):
                assert "max-age" in client.get(path).headers["strict-transport-security"]
        with pytest.raises(httpx.HTTPError):
            httpx.get(address.replace("https", "http") + "/health/live", trust_env=False)


def test_without_tls_no_browser_is_told_to_use_it(client: httpx.Client) -> None:
    assert "strict-transport-security" not in client.get("/v1/model").headers


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (("certificate.pem", ""), "both"),
        (("", "key.pem"), "both"),
        (("certificate.pem", "nowhere.pem"), "nowhere.pem of serving.tls_certificate or serving.tls_key is not there"),
        (("certificate.pem", "other.pem"), "belong together"),
        (("certificate.pem", "secret.pem"), "without a password"),
        (("key.pem", "key.pem"), "cannot be used"),
    ],
)
def test_a_certificate_that_cannot_be_used(
    settings: Settings, pem: Path, files: tuple[str, str], sentence: str
) -> None:
    paths = [str(pem / file) if file else "" for file in files]
    with pytest.raises(ProjectError, match=sentence):
        certificate(change(settings, tls_certificate=paths[0], tls_key=paths[1]))
    assert certificate(settings) == {}
