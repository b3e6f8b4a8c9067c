"""MLflow's client, and a database of runs that is begun whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from src.lab.moved import uri_of


def client_of(uri: str) -> Any:
    """MLflow's client, quiet and soon tired of a server that does not answer."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # by default a dead server blocks for four minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")  # seconds, for a server that hangs
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    import logging

    import mlflow

    for name in ("alembic", "mlflow"):  # after the import, because MLflow sets them then
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return mlflow.MlflowClient(uri)


def begin(database: Path) -> None:
    """Make a SQLite database where there is none. One process at a time may do so.

    MLflow makes its tables in some 300 steps and cannot go on from the middle. So they are made under another name, and
    a start that is killed leaves nothing under the right one.
    """
    if database.exists():
        return
    part = database.with_name(f"{database.name}.part")
    for left in ("", "-journal", "-wal", "-shm"):  # of a killed start
        Path(f"{part}{left}").unlink(missing_ok=True)
    client_of(uri_of(part))
    part.replace(database)
