"""What the service may listen on, and with what certificate."""

from __future__ import annotations

import ipaddress
import ssl
from datetime import UTC, datetime

from ...errors import ProjectError
from ...settings import Serving, Settings
from ...store import keys
from ...store.database import Store
from .origins import ANY
from .tokens import Tokens

LOCAL = ("localhost", "127.0.0.1", "[::1]")  # what this machine calls itself
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2; all of 1.3 are good


def check_exposure(settings: Settings, host: str) -> None:
    """See that the service can be opened at an address, to callers that are known.

    Any website may call (``serving.cors_origins`` with ``*``) only if callers need a key: without one, a page that
    somebody on this machine has open could read what the service knows.

    Raises:
        ProjectError: other machines, or any website, could call, and there is neither key nor issuer; or the settings
            of certificate or issuer cannot be used.
    """
    certificate(settings)
    if settings.serving.issuer:
        Tokens(settings.serving)
        return
    anywhere = ANY in settings.serving.cors_origins
    if loopback(host) and not anywhere:
        return
    with Store(settings) as store:
        if any(key.state(datetime.now(UTC)) == "active" for key in keys.known(store).values()):
            return
    risk = "answer every website" if loopback(host) else f"listen on {host or 'every address'}"
    instead = "name the origins in serving.cors_origins" if loopback(host) else "listen on 127.0.0.1"
    raise ProjectError(
        f"the service does not {risk} without keys: make one with "
        f"`{settings.project.slug} key create NAME --scope predict`, set serving.issuer, or {instead}"
    )


def loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_names(serving: Serving) -> tuple[str, ...]:
    """Return the names that the service answers to; none if every one is good.

    On loopback, where no key may be needed, these are names of this machine unless others are set: a website could
    have its own name resolve to this machine, and then ask from somebody's browser (DNS rebinding).
    """
    if ANY in serving.trusted_hosts:
        return ()
    if serving.trusted_hosts or not loopback(serving.host):
        return serving.trusted_hosts
    own = f"[{serving.host}]" if ":" in serving.host else serving.host
    return tuple(dict.fromkeys((*LOCAL, own)))


def certificate(settings: Settings) -> dict[str, str]:
    """Return what uvicorn wants to know for TLS; nothing if it is off.

    Raises:
        ProjectError: the certificate or its key cannot be used.
    """
    names = settings.serving.tls_certificate, settings.serving.tls_key
    if not any(names):
        return {}
    if not all(names):
        raise ProjectError("TLS needs both serving.tls_certificate and serving.tls_key: set the other too, or none")
    chain, key = (settings.path(name) for name in names)
    for path in (chain, key):
        if not path.is_file():
            raise ProjectError(f"the file {path} of serving.tls_certificate or serving.tls_key is not there")
    try:
        # A key with a password is refused: nobody is there to type it.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain, key, password="")
    except (OSError, ValueError) as error:
        raise ProjectError(
            f"the certificate {chain} cannot be used with the key {key} ({_reason(error)}): "
            "give PEM files that belong together, the key without a password, readable for this user"
        ) from None
    return {"ssl_certfile": str(chain), "ssl_keyfile": str(key), "ssl_ciphers": CIPHERS}


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
