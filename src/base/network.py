"""The network as the environment describes it: proxies, certificates, and this machine's own addresses."""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from urllib.request import getproxies_environment

from src.base.errors import UserError

SCHEMES = ("http", "https", "socks5", "socks5h")
HERE = "localhost,127.0.0.1,::1"


def reach_this_machine(environ: MutableMapping[str, str]) -> None:
    """Adds this machine's own addresses to NO_PROXY, where a proxy is set: none leads back to a server that runs here.

    Both spellings get the same value, because one library reads the one and another the other.
    """
    if not any(name.lower().endswith("_proxy") and environ[name] for name in environ):
        return
    given = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    if given.strip() != "*" and not given.endswith(HERE):  # with anything beside it, the star means nothing
        given = f"{given},{HERE}".lstrip(",")
    environ["no_proxy"] = environ["NO_PROXY"] = given


def check_proxies() -> None:
    """Raises UserError where no client can be made with the proxies and certificates of the environment.

    The client itself decides, because it would refuse a proxy that it never uses.
    """
    import httpx2 as httpx

    try:
        httpx.Client().close()
    except (ValueError, ImportError, httpx.InvalidURL) as error:
        raise UserError(
            f"A proxy of the environment cannot be used: {named(getproxies_environment())}. Set it to an address like "
            f"http://proxy.example:3128 ({', '.join(SCHEMES)}), or unset it"
        ) from error
    except OSError as error:  # ssl.SSLError is one
        raise UserError(
            f"SSL_CERT_FILE or SSL_CERT_DIR of the environment cannot be used: {error}. Point it to a file of "
            "certificates (PEM), or unset it"
        ) from error


def named(proxies: Mapping[str, str]) -> str:
    """The proxies by the variable of each, without user and password. NO_PROXY is none.

    A password may hold a raw / or @, so that the proxy cannot be used. A proxy has no path, so the last @ ends it.
    """
    shown = {kind: re.sub(r"^([\w+.-]+://)?.*@", r"\1", value) for kind, value in proxies.items() if kind != "no"}
    return ", ".join(f"{kind.upper()}_PROXY={value}" for kind, value in sorted(shown.items()))
