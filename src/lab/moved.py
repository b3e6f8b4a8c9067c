"""A folder that was moved or copied: no artifact of its own database is looked for by the path of another day.

Runs name their artifacts `mlflow-artifacts:/<run>/artifacts`, which means mlartifacts/ beside the database. So does
`mlflow ui` in that folder. Databases of earlier versions hold the whole path, which is rewritten when one is opened.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from src.base.files import whole
from src.lab.refusals import say

SCHEME = "mlflow-artifacts:/"
FOLDER = "mlartifacts"  # `mlflow ui` takes it by itself
WHOLE_PATHS = f"select run_uuid, artifact_uri from runs where artifact_uri like 'file:%/{FOLDER}/' || run_uuid || '/%'"


def database_of(uri: str) -> Path | None:
    """The file of a SQLite database. None for a server."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(unquote(uri.removeprefix("sqlite:///").partition("?")[0]))


def uri_of(database: Path) -> str:
    """The URI of a SQLite database. In it % and ? would have a meaning of their own."""
    return f"sqlite:///{str(database).replace('%', '%25').replace('?', '%3F')}"


def artifacts_of(database: Path) -> Path:
    """The folder of the artifacts of a database. It lies beside the file, also where a link leads to that."""
    return database.resolve().parent / FOLDER


def own_folder(client: Any, run: Any) -> Path | None:
    """The folder of a run's artifacts beside its database. None where MLflow finds them: on a server, elsewhere."""
    database, uri = database_of(client.tracking_uri), str(run.info.artifact_uri)
    if database is None or not uri.startswith(SCHEME):
        return None
    return artifacts_of(database) / unquote(urlsplit(uri).path.lstrip("/"))


def settle_in(database: Path) -> None:
    """Let a database of an earlier version find its artifacts beside it, wherever the folder stands.

    One process does it at a time, and all in one transaction. Artifacts that lie at the old place alone are copied
    first, and nothing at the old place is changed.
    """
    if not database.is_file():
        return
    with contextlib.closing(sqlite3.connect(database, timeout=20)) as sqlite:
        tables = {name for (name,) in sqlite.execute("select name from sqlite_master where type = 'table'")}
        if not {"runs", "experiments"} <= tables:
            return
        query = f"select count(*) from experiments where artifact_location like 'file:%/{FOLDER}'"
        if not sqlite.execute(query).fetchone()[0] and not sqlite.execute(WHOLE_PATHS).fetchone():
            return
        with sqlite:
            sqlite.execute("begin immediate")
            whole = sqlite.execute(WHOLE_PATHS).fetchall()
            copied = sum(_brought(database, run, uri) for run, uri in whole)
            sqlite.executemany(
                "update runs set artifact_uri = ? where run_uuid = ?",
                [(f"{SCHEME}{run}/{uri.rpartition(f'/{FOLDER}/{run}/')[2]}", run) for run, uri in whole],
            )
            sqlite.execute(
                f"update experiments set artifact_location = ? where artifact_location like 'file:%/{FOLDER}'", [SCHEME]
            )
    more = f" The artifacts of {copied} runs were copied here from where they were written." if copied else ""
    say(
        f"MLflow: {database.name} named the folder it was made in. Its {len(whole)} runs now find their artifacts in "
        f"{FOLDER}/ beside it, wherever both are moved.{more}"
    )


def _brought(database: Path, run: str, uri: str) -> bool:
    """Copy the files of a run that lie at its old place alone. Whether there were any."""
    old, here = Path(unquote(urlsplit(uri).path)).parent, artifacts_of(database) / run
    found = False
    for path in sorted(old.rglob("*")) if old.is_dir() else []:
        copy = here / path.relative_to(old)
        if path.is_file() and not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            with whole(copy) as part:
                shutil.copyfile(path, part)
            found = True
    return found
