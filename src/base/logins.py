"""Where the login of an address goes: to the environment, so that no file and no list of processes holds it."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from urllib.parse import unquote

from src.base.errors import UserError
from src.base.secrets import address_of, shown

USER_OF_SERVER = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")  # read by MLflow itself
SERVER = "MLFLOW_TRACKING_URI"


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
    for the login or key of an engine: no variable takes it.
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
        if shown(bare) != bare:
            raise UserError(
                "tracking.uri holds a key, which would stand in files. MLflow reads one from MLFLOW_TRACKING_TOKEN"
            )
        return f"{key}{equals}{quote}{bare}{quote}"
    if name == "engine.base_url" and (shown(value) != value or address_of(value).password):
        raise UserError(
            "engine.base_url holds a login or key, which others read in the list of processes. Put the address into "
            "a variable: export SERVER=..., then 'engine.base_url=${oc.env:SERVER}'"
        )
    return word
