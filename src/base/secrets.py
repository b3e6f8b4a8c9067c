"""What may be said of an address: no login, no key. Every UserError is said by `shown`."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

HIDDEN = "***"

LOGIN = re.compile(r"(?<=://)[^\s/?#'\"]*@")
HEADER = re.compile(r"((?:['\"]|Authorization:\s*)(?:Bearer|Basic)\s+)[^'\"]+")
QUERY = re.compile(r"([?&;][^=&;\s]*(?:pass|pwd|token|secret|key)[^=&;\s]*=)[^&;\s'\"]*", re.IGNORECASE)


class Address(NamedTuple):
    """An address, and the login that stood in it. The login is percent-encoded, as in the address."""

    bare: str
    user: str
    password: str


def address_of(uri: str) -> Address:
    """The parts of an address. A password with a raw /, @ or blank is found too, though no address may hold it."""
    scheme, colon, rest = uri.partition("://")
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    port = host.rpartition(":")[2]
    if not colon or "@" not in rest or ("@" not in host and (":" not in host or port.isdigit())):
        return Address(uri, "", "")
    login, _, place = rest.rpartition("@")
    user, _, password = login.partition(":")
    return Address(f"{scheme}://{place}", user, password)


def shown(text: object) -> str:
    """A text as it may be printed or kept. Logins of addresses, keys and passwords are left out of it."""
    said = LOGIN.sub("", str(text))
    said = QUERY.sub(rf"\1{HIDDEN}", HEADER.sub(rf"\1{HIDDEN}", said))
    for name, value in os.environ.items():
        if name.startswith("MLFLOW_TRACKING_") and name.endswith(("_PASSWORD", "_TOKEN")) and value:
            said = said.replace(value, HIDDEN)
    return said
