"""The way to MLflow: its address, the experiment, and work that clashes with another process."""

from __future__ import annotations

import contextlib
import json
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

from src.base.files import ROOT, alone
from src.base.logins import without_login
from src.lab.database import begin, client_of
from src.lab.moved import SCHEME, database_of, settle_in, uri_of
from src.lab.refusals import refused, say, status_of
from src.lab.views import VIEWS, state_of

ATTEMPTS = 8  # of a piece of work that clashes with another process
CLASHES = ("BAD_REQUEST", "INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS")  # see `settled`
T = TypeVar("T")


def default_uri() -> str:
    """The project's own database of runs. The URI is absolute, because MLflow would take the current folder."""
    return uri_of(ROOT / "mlflow.db")


def database_at(uri: str | None) -> Path | None:
    """The file of the database of runs. None for a server."""
    return database_of(uri or default_uri())


def connected(uri: str | None, experiment: str) -> tuple[Any, str]:
    """(client, experiment id). Database, experiment and views are created where they are missing."""
    uri = without_login(uri, os.environ) if uri else default_uri()
    database = database_of(uri)
    with alone(database.parent) if database else nullcontext():  # two processes that create it at once would clash
        if database:
            _check_writable(database)
            begin(database)
            settle_in(database)
        client = client_of(uri)
        _readable_while_written(database)
        return client, settled(lambda: _experiment(client, experiment, SCHEME if database else None))


def _check_writable(database: Path) -> None:
    """Raises PermissionError for a file or folder that may not be written. MLflow would try for 100 seconds."""
    for path in (database.resolve(), database.resolve().parent):
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(f"{path} may not be written by this user")


def _experiment(client: Any, name: str, artifacts: str | None) -> str:
    """The id of the experiment. It and its views are created where they are missing, and it is restored if deleted."""
    existing = client.get_experiment_by_name(name)
    if existing:
        experiment = str(existing.experiment_id)
    else:
        experiment = str(client.create_experiment(name, artifact_location=artifacts))
    if existing and existing.lifecycle_stage != "active":
        _restore(client, experiment, name)
    for view in VIEWS:
        key, state = f"mlflow.sharedViewState.{view}", json.dumps(state_of(view))
        if not existing or existing.tags.get(key) != state:
            _set_view(client, experiment, key, state)
    return experiment


def _set_view(client: Any, experiment: str, key: str, state: str) -> None:
    """Set a view. A user who may only read sees the experiment without it."""
    try:
        client.set_experiment_tag(experiment, key, state)
    except Exception as error:
        if status_of(error) != 403:
            raise


def _restore(client: Any, experiment: str, name: str) -> None:
    """Restore a deleted experiment, with a word. MLflow restores runs that were deleted as doubles too."""
    client.restore_experiment(experiment)
    runs = client.search_runs([experiment], max_results=50_000)
    same: dict[tuple[Any, ...], list[Any]] = {}
    for run in runs:
        tags = run.data.tags
        same.setdefault((tags.get("kind"), tags.get("fingerprint") or run.info.run_name), []).append(run)
    kept = [oldest(client, doubled) for (kind, _), doubled in same.items() if kind in ("cell", "model")]
    say(
        f"MLflow: the experiment '{name}' was deleted. It is restored, with its runs ({len(kept)} cells and models). "
        "To begin anew: tracking.experiment=<another name>"
    )


def settled(work: Callable[[], T]) -> T:
    """What `work` returns. If it clashes with another process, it is done anew on what is there then.

    Two processes that find a value missing both write it, and the database takes one (BAD_REQUEST). One process may
    delete a doubled run that another still writes to, or both give a parameter a value (INVALID_PARAMETER_VALUE). Both
    may create one experiment (RESOURCE_ALREADY_EXISTS). A server answers with the same codes as a database. A dead
    server and a locked database have other codes: MLflow has waited for them already, so they are not tried again.
    """
    for attempt in range(ATTEMPTS - 1):
        try:
            return work()
        except Exception as error:
            if getattr(error, "error_code", None) not in CLASHES:
                raise
        time.sleep(random.uniform(0, 0.02 * 2**attempt))  # s, random so that two processes part
    return work()


def _readable_while_written(database: Path | None) -> None:
    """Turn on SQLite's write-ahead log for good. The UI can then read while a run logs, and a commit costs less."""
    if database is not None:
        with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(database, 1)) as sqlite:
            sqlite.execute("PRAGMA journal_mode = WAL")  # fails while an older UI has the file open


def found_run(client: Any, experiment: str, query: str) -> Any | None:
    """The run that matches the query, or None. If two processes began one each, the oldest is kept."""
    runs = client.search_runs([experiment], query)
    return oldest(client, runs) if runs else None


def oldest(client: Any, runs: Iterable[Any]) -> Any:
    """The run that began first. The others are deleted: another process began them at the same moment."""
    first, *duplicates = sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))
    for duplicate in duplicates:
        client.delete_run(duplicate.info.run_id)
    return first


def opened(uri: str | None, experiment: str) -> tuple[Any, str]:
    """`connected` for a command that needs MLflow. Raises UserError if it is out of reach."""
    try:
        return connected(uri, experiment)
    except Exception as error:  # SQLite, alembic and MLflow each raise their own
        raise refused(error, database_at(uri), experiment) from error
