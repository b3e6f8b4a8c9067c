"""Every cell as an MLflow run under its model's parent run. If the store of runs is out of reach, the work goes on.

A run is found again by its fingerprint: computing a cell twice updates its run and never doubles it.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from src import config
from src.config import ROOT, Cell, Run

TABLES = json.dumps([{"path": "examples.json", "type": "table"}])
VIEW = "cells"  # the shared view that `make ui` opens
COLUMNS = (
    "params.model", "params.task", "params.prompt", "params.shots", "metrics.exact_match", "metrics.bertscore_accuracy",
    "metrics.likelihood", "metrics.chance", "metrics.unparsed", "metrics.n", "metrics.tokens_per_s", "tags.fingerprint",
)  # fmt: skip
PACKAGES = ("torch", "transformers", "tokenizers", "bert-score", "numpy", "pandas", "mlflow", "hydra-core", "dvc")


def git_state() -> dict[str, str]:
    """Commit and dirty flag of the checkout; "unknown" without git."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain")
    return {
        "git_commit": commit or "unknown",
        "git_dirty": "unknown" if changes is None else str(bool(changes)).lower(),
    }


def versions() -> dict[str, str]:
    """Installed versions of the packages a number can depend on."""
    return {f"version_{name}": importlib.metadata.version(name) for name in PACKAGES} | {
        "version_python": platform.python_version()
    }


@dataclass
class Tracker:
    """Where the runs of one model go. `client` is None where no MLflow store could be opened."""

    client: Any
    experiment: str = ""
    parent: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    def cell(
        self,
        cell: Cell,
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        examples: Sequence[Mapping[str, Any]],
    ) -> None:
        """Log one finished cell: parameters, metrics and the per-example table. A failure is said, not raised."""
        if self.client is None:
            return
        try:
            self._cell(cell, params, metrics, tags, examples)
        except Exception as error:  # whatever the tracking store does, the cell is in the example store
            _unreachable(error)
            self.client = None

    def _cell(
        self,
        cell: Cell,
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        examples: Sequence[Mapping[str, Any]],
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.utils.time import get_current_time_millis

        name = f"{cell.task.name} {cell.condition.name} {params['model']}"
        wanted = {
            **self.tags,
            **tags,
            "mlflow.parentRunId": self.parent,
            "kind": "cell",
            "mlflow.loggedArtifacts": TABLES,
        }
        run_id, new = _run(self.client, self.experiment, f"tags.fingerprint = '{tags['fingerprint']}'", name)
        now = get_current_time_millis()
        self.client.log_batch(
            run_id,
            metrics=[Metric(key, float(value), now, 0) for key, value in metrics.items()],
            params=[Param(key, str(value)[:6000]) for key, value in params.items()] if new else [],
            tags=[RunTag(key, value) for key, value in wanted.items()],
        )
        # not log_table, which appends where a run is updated; the tag makes the UI show the file as a table
        table = {"columns": list(examples[0]), "data": [list(e.values()) for e in examples]}
        self.client.log_dict(run_id, table, "examples.json")
        self.client.set_terminated(run_id)


def _unreachable(error: Exception) -> None:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    warnings.warn(f"MLflow is out of reach, the run goes on without it: {reason}", stacklevel=3)


def _run(client: Any, experiment: str, query: str, name: str) -> tuple[str, bool]:
    found = client.search_runs([experiment], query, max_results=1)
    if found:
        return found[0].info.run_id, False
    return client.create_run(experiment, run_name=name).info.run_id, True


def default_uri() -> str:
    """The project's own store of runs, as an absolute URI: MLflow would take the current folder."""
    return f"sqlite:///{ROOT / 'mlflow.db'}"


def _open(uri: str | None, experiment: str) -> tuple[Any, str]:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # the default blocks four minutes on a dead server
    import logging

    import mlflow

    for name in ("alembic", "mlflow"):  # after the import, which sets them
        logging.getLogger(name).setLevel(logging.CRITICAL)

    client = mlflow.MlflowClient(uri or default_uri())
    found = client.get_experiment_by_name(experiment)
    if found:
        return client, found.experiment_id
    artifacts = None if uri else (ROOT / "mlartifacts").as_uri()
    made = client.create_experiment(experiment, artifact_location=artifacts)
    client.set_experiment_tag(made, f"mlflow.sharedViewState.{VIEW}", json.dumps(_view()))
    return client, made


def create(where: Mapping[str, Any]) -> None:
    """Make the store of runs and the experiment of a `tracking` configuration; where out of reach, say so."""
    try:
        _open(where["uri"], str(where["experiment"]))
    except Exception as error:
        _unreachable(error)


def _view() -> dict[str, Any]:
    """The runs table with the columns that matter, cells flat: MLflow's default shows no parameter and no metric."""
    columns = ["{}.`{}`".format(*column.split(".")) for column in COLUMNS]
    return {
        "selectedColumns": columns, "orderByKey": "metrics.`exact_match`", "orderByAsc": False,
        "searchFilter": "tags.kind = 'cell'", "startTime": "ALL", "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs", "datasetsFilter": [], "runsExpanded": {}, "runsHidden": [], "runsPinned": [],
    }  # fmt: skip


@contextmanager
def model_run(run: Run) -> Iterator[Tracker]:
    """The parent run of one model in one suite; cells are logged through the Tracker it yields."""
    try:
        client, experiment = _open(run.tracking["uri"], str(run.tracking["experiment"]))
        name = f"{run.model.name} ({run.suite})"
        parent, new = _run(client, experiment, f"tags.kind = 'model' and tags.mlflow.runName = '{name}'", name)
        tags = {**git_state(), **versions()}
        for key, value in {**tags, "kind": "model"}.items():
            client.set_tag(parent, key, value)
        if new:
            for key, value in asdict(run.model).items():
                client.log_param(parent, key, value)
        tracker = Tracker(client, experiment, parent, tags)
    except Exception as error:
        _unreachable(error)
        tracker = Tracker(None)
    status = "FAILED"
    try:
        yield tracker
        status = "FINISHED"
    finally:
        if tracker.client is not None:
            tracker.client.set_terminated(tracker.parent, status)


def main() -> None:
    """`python -m src.tracking` prints where the runs are and opens the MLflow UI on them (`make ui`)."""
    try:
        _, experiment = _open(None, "emergence-audit")
    except Exception as error:  # SQLite, alembic and MLflow each have their own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        sys.exit(f"error: mlflow.db cannot be opened: {reason}. Move it away: the next run begins another")
    port = os.environ.get("PORT", "5000")
    print(f"MLflow UI: http://127.0.0.1:{port}/#/experiments/{experiment}/runs?viewStateShareKey={VIEW}", flush=True)
    store = ["--backend-store-uri", default_uri(), "--default-artifact-root", (ROOT / "mlartifacts").as_uri()]
    command = ["mlflow", "server", *store, "--host", "127.0.0.1", "--port", port, "--workers", "1"]
    os.execvp("mlflow", command)


if __name__ == "__main__":
    main()
