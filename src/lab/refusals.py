"""What MLflow's refusals are called: what is wrong, and what mends it. No line holds a password."""

from __future__ import annotations

import importlib.util
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from src.base.errors import UserError
from src.base.secrets import shown

AWAY = "MLflow is out of reach"
LATER = "Later: python -m src.tracking sync"


@dataclass(frozen=True)
class Refusal:
    """One kind of refusal. {name}: the database's file, {experiment}: the experiment."""

    command: str  # how the line of a command that needs MLflow begins
    remedy: str
    run: str = AWAY  # how the line of a run, which goes on without MLflow, begins


NO_ANSWER = Refusal("The MLflow server does not answer", "Start it, then the same command again")
BY_STATUS = {
    401: Refusal(
        "The MLflow server refuses the login",
        "It reads MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, which may be out of "
        "date, or ~/.mlflow/credentials",
        "MLflow refuses the login",
    ),
    403: Refusal(
        "The MLflow server does not let this user do that",
        "Ask who runs it for the permission EDIT on experiment '{experiment}', or name one of yours: "
        "tracking.experiment=... A server with logins answers a wrong path prefix in tracking.uri like this, too",
        "MLflow does not let this user log",
    ),
    404: Refusal(
        "There is a server, but what MLflow asks for is not at this address",
        "Give tracking.uri with the server's path prefix, if it has one. An older MLflow server lacks what newer "
        "clients ask for",
        "MLflow is not at this address",
    ),
}
BY_TEXT = (
    (
        r"CERTIFICATE_VERIFY_FAILED|certificate",
        Refusal(
            "The MLflow server's certificate is not trusted",
            "Name the file of who signed it: export MLFLOW_TRACKING_SERVER_CERT_PATH=...",
            "MLflow's certificate is not trusted",
        ),
    ),
    (
        r"SSLError|\[SSL",
        Refusal(
            "The MLflow server does not speak https as asked",
            "Look at tracking.uri: http or https?",
            "MLflow does not speak https as asked",
        ),
    ),
    (
        r"not in a valid JSON format",
        Refusal(
            "What answers is no MLflow server",
            "It may be the page of a login or of a proxy: look at tracking.uri in a browser",
            "What answers is no MLflow server",
        ),
    ),
)
OF_A_FILE = (
    (
        r"invalid interpolation syntax",  # alembic's, of the path of its own files
        Refusal(
            "MLflow does not work where the folder of its environment has a % in its name",
            "Rename that folder and make .venv anew there; {name} itself is whole",
        ),
    ),
    (r"locked", Refusal("{name} is locked by another process", "The same command again later")),
    (
        r"readonly|may not be written",
        Refusal("{name} may not be written", "Give yourself the right, or name another: tracking.uri=..."),
    ),
)
NEWER = Refusal(
    "{name} was written by a newer MLflow",
    "Use that MLflow, or another database: tracking.uri=sqlite:///$PWD/another.db",
)
OLDER = Refusal(
    "{name} was written by an older MLflow",
    "Copy the file, then in its folder: python -m mlflow db upgrade sqlite:///{name}",
)
DAMAGED = Refusal(
    "{name} cannot be opened",
    "Move it away: the next run begins another, and python -m src.tracking sync logs every kept cell into it",
)


def refusal_of(error: BaseException, database: Path | None) -> Refusal:
    """The kind of an error. database: the file, None for a server."""
    text = str(error)
    if database is not None and (
        schema := re.search(r"found version (\w+)|locate revision identified by '(\w+)'", text)
    ):
        return OLDER if _is_known(schema[1] or schema[2]) else NEWER
    for pattern, refusal in BY_TEXT if database is None else OF_A_FILE:
        if re.search(pattern, text):
            return refusal
    if database is not None:
        return DAMAGED
    return BY_STATUS.get(status_of(error), NO_ANSWER)


def _is_known(schema: str) -> bool:
    """Whether the MLflow that is installed knows this version of a database, and so can upgrade it."""
    installed = importlib.util.find_spec("mlflow")
    folder = Path(str(installed and installed.origin)).parent / "store/db_migrations/versions"
    return any(folder.glob(f"{schema}_*.py"))


def status_of(error: BaseException) -> int:
    """The HTTP status that a server answered with. 0 where it did not answer."""
    status = getattr(getattr(error, "response", None), "status_code", None)  # of an artifact's upload
    code = re.search(r"error code (\d{3}) != ", str(error))
    if status or code:
        return int(status or code[1])  # type: ignore[index]
    asked = getattr(error, "get_http_status_code", None)
    return int(asked()) if asked and getattr(error, "json", None) else 0


def reason_of(error: BaseException) -> str:
    """An error in one line. Logins are left out."""
    lines = [line for line in str(error).splitlines() if not line.startswith("(raised as a result of Query-invoked")]
    return shown((lines or [type(error).__name__])[0])


def say(text: str) -> None:
    """Say something of MLflow on stderr, without the line of source that Python would print below it."""
    warnings.warn_explicit(text, UserWarning, "MLflow", 1)


def warn_unlogged(error: BaseException, database: Path | None, experiment: str) -> None:
    """Say once that a run goes on without MLflow, why, and how to log its cells later."""
    refusal = refusal_of(error, database)
    remedy = "" if refusal.run == AWAY else f"{refusal.remedy.format(experiment=experiment)}. "
    say(f"{refusal.run}, the run goes on without it: {reason_of(error).rstrip('.')}. {remedy}{LATER}")


def refused(error: BaseException, database: Path | None, experiment: str) -> UserError:
    """The error of a command that needs MLflow."""
    refusal, name = refusal_of(error, database), database.name if database else ""
    begin = refusal.command.format(name=name)
    return UserError(
        f"{begin}: {reason_of(error).rstrip('.')}. {refusal.remedy.format(name=name, experiment=experiment)}"
    )
