"""What is said of an address, and where its password goes. A password stands in no line, file or list of processes."""

from __future__ import annotations

import os
import re
from collections.abc import MutableMapping
from typing import NamedTuple
from urllib.parse import unquote

from src.base.errors import UserError

USER_OF_SERVER = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")  # read by MLflow itself
SERVER = "MLFLOW_TRACKING_URI"
HIDDEN = "***"

LOGIN = re.compile(r"(?<=://)[^\s/?#'\"]*@")
SAID_OF_A_KEY = re.compile(r"((?:Bearer|Basic)\s+)[^'\"]+")
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
    said = QUERY.sub(rf"\1{HIDDEN}", SAID_OF_A_KEY.sub(rf"\1{HIDDEN}", said))
    for name, value in os.environ.items():
        if name.startswith("MLFLOW_TRACKING_") and name.endswith(("_PASSWORD", "_TOKEN")) and value:
            said = said.replace(value, HIDDEN)
    return said


def without_login(uri: str, environment: MutableMapping[str, str]) -> str:
    """The address of an MLflow server without its login, which goes to where MLflow looks for it.

    Hydra writes overrides to multirun/, launchers pickle them, and others read them in the list of processes. The
    environment is read by this user alone. Raises UserError for the password of a database.
    """
    bare, user, password = address_of(uri)
    if not user and not password:
        return uri
    if not bare.startswith(("http://", "https://")):
        if not password:
            return uri
        raise UserError(
            f"tracking.uri={bare} holds a password, which would stand in files. Name an MLflow server (http...), or "
            "leave the password to the database's own file, e.g. ~/.pgpass"
        )
    environment.update(dict(zip(USER_OF_SERVER, (unquote(user), unquote(password)), strict=True)))
    return bare


def without_logins(words: list[str]) -> list[str]:
    """Overrides, and the environment, with the login of the MLflow server where MLflow looks for it.

    The login of a server that an override replaces is dropped, because it is not for the other one. Raises UserError
    for the login of an engine: no variable takes it.
    """
    if SERVER in os.environ:
        replaced = any(word.lstrip("+").startswith("tracking.uri=") for word in words)
        os.environ[SERVER] = without_login(os.environ[SERVER], {} if replaced else os.environ)
    return [_without_login(word) for word in words]


def _without_login(word: str) -> str:
    key, equals, value = word.partition("=")
    name = key.lstrip("+")
    if name == "tracking.uri":
        quote = value[:1] if value[:1] in ("'", '"') and value[:1] == value[-1:] else ""
        bare = without_login(value.strip(quote) if quote else value, os.environ)
        return f"{key}{equals}{quote}{bare}{quote}"
    if name == "engine.base_url" and address_of(value).password:
        raise UserError(
            "engine.base_url holds a password, which others read in the list of processes. Put the whole address into "
            "a variable: export SERVER=..., then 'engine.base_url=${oc.env:SERVER}'"
        )
    return word
