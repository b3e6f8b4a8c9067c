"""What is written to MLflow. Each cell is a run, under the parent run of its model.

A run has its cell's fingerprint as a tag and is found again by it, so logging a cell twice updates one run. If MLflow
is out of reach, a warning says so once and the work continues, because every finished cell is kept in a file as well.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import platform
import random
import re
import sqlite3
import subprocess
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from src.base.errors import UserError
from src.base.files import ROOT, alone
from src.base.schema import Model, Run
from src.cell.file import Recorded, Scored, kept_path, read_header, write_cell
from src.lab.database import begin, client_of
from src.lab.facts import Facts, facts_of, figure, summary

FORMAT = "2"  # version of what is logged. `sync` logs a run of another version again
UNREAL = ("random", "fake")  # weights whose numbers never stand among those of real weights
PACKAGES = ("torch", "transformers", "tokenizers", "bert-score", "numpy", "pandas", "mlflow", "hydra-core", "dvc")
SAMPLING = {"sampling_interval": 10, "samples_before_logging": 3}  # interval in s; means are logged

ATTEMPTS = 8  # of a piece of work that clashes with another process
CLASHES = ("BAD_REQUEST", "INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS")  # see `settled`

CELLS, TWINS = "cells", "twins"
T = TypeVar("T")


@dataclass(frozen=True)
class View:
    """A shared view of MLflow's table of runs. The default shows no parameter and no metric, and hides cells."""

    caption: str
    query: str
    order: str
    ascending: bool
    columns: Mapping[str, int]  # name -> width in pixels, in the order shown


VIEWS = {
    CELLS: View(
        "every cell, the best first", "tags.kind = 'cell'", "metrics.accuracy", False,
        {"params.model": 120, "params.task": 130, "params.prompt": 76, "params.shots": 48, "params.tuned": 52,
         "metrics.exact_match": 80, "metrics.bertscore_accuracy": 80, "metrics.likelihood": 76, "metrics.chance": 62,
         "metrics.above_chance": 84, "metrics.n": 40, "metrics.tokens_per_s": 80},
    ),
    TWINS: View(
        "base above tuned, task by task", "tags.kind = 'cell' and params.control = 'None'", "params.pair", True,
        {"params.task": 130, "params.condition": 110, "params.model": 120, "params.tuned": 52,
         "metrics.accuracy": 72, "metrics.chance": 62, "metrics.above_chance": 84, "metrics.n": 40},
    ),
}  # fmt: skip

# MLflow always shows these columns.
FIRST, LAST = {"attributes.`Run Name`": 110, "runDateAndNestInfo": 126}, {"duration": 66}


def git_state() -> dict[str, str]:
    """The commit and whether the checkout has changes. Both are "unknown" without git."""

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
    """Installed versions of the packages that a number can depend on."""
    return {f"version_{name}": importlib.metadata.version(name) for name in PACKAGES} | {
        "version_python": platform.python_version()
    }


def default_uri() -> str:
    """The project's own database of runs. The URI is absolute, because MLflow would take the current folder."""
    return f"sqlite:///{ROOT / 'mlflow.db'}"


def database_of(uri: str) -> Path | None:
    """The file of a SQLite database. None for a server."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def connected(uri: str | None, experiment: str) -> tuple[Any, str]:
    """(client, experiment id). Database, experiment and views are created where they are missing."""
    uri = uri or default_uri()
    database = database_of(uri)
    with alone(database.parent) if database else nullcontext():  # two processes that create it at once would clash
        if database:
            begin(database)
        client = client_of(uri)
        _readable_while_written(database)
        artifacts = (database.resolve().parent / "mlartifacts").as_uri() if database else None
        return client, settled(lambda: _experiment(client, experiment, artifacts))


def _experiment(client: Any, experiment: str, artifacts: str | None) -> str:
    """The id of the experiment. It and its views are created where they are missing."""
    existing = client.get_experiment_by_name(experiment)
    if existing:
        experiment_id = existing.experiment_id
    else:
        experiment_id = client.create_experiment(experiment, artifact_location=artifacts)
    for name in VIEWS:
        key, view = f"mlflow.sharedViewState.{name}", json.dumps(_view(name))
        if not existing or existing.tags.get(key) != view:
            client.set_experiment_tag(experiment_id, key, view)
    return str(experiment_id)


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


def _view(name: str) -> dict[str, Any]:
    """The state of MLflow's table of runs as its UI reads it. The format is undocumented, so a test opens the page."""

    def quoted(column: str) -> str:
        return "{}.`{}`".format(*column.split("."))

    view = VIEWS[name]
    widths = {quoted(column): width for column, width in view.columns.items()}
    all_widths = {**FIRST, **widths, **LAST}
    return {
        "selectedColumns": list(widths), "columnOrder": ["1", *all_widths], "columnWidths": all_widths,
        "orderByKey": quoted(view.order), "orderByAsc": view.ascending, "searchFilter": view.query, "startTime": "ALL",
        "lifecycleFilter": "Active", "modelVersionFilter": "All Runs", "datasetsFilter": [], "runsExpanded": {},
        "runsHidden": [], "runsPinned": [],
    }  # fmt: skip


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


def reason_of(error: BaseException) -> str:
    """An error in one line. User and password of a URI are left out."""
    lines = [line for line in str(error).splitlines() if not line.startswith("(raised as a result of Query-invoked")]
    return re.sub(r"//[^/@\s]*@", "//", (lines or [type(error).__name__])[0])


def warn_unreachable(error: Exception) -> None:
    """Say once that MLflow is out of reach, and how to log the cells later."""
    text = f"MLflow is out of reach, the run goes on without it: {reason_of(error)}. Later: python -m src.tracking sync"
    warnings.warn_explicit(text, UserWarning, "MLflow", 1)  # so that Python prints no line of source below it


@dataclass
class Tracker:
    """Logs the cells of one model. `client` is None if tracking is turned off or MLflow is out of reach."""

    client: Any
    kept: Path  # the folder where every finished cell is kept
    experiment: str = ""
    parent: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    clock: Any = None  # spent.Clock of this run, if it has one

    def cell(self, cell: Scored, recorded: Recorded) -> None:
        """Keep one finished cell in a file, then log it. If logging fails, a warning says so once."""
        recorded = replace(recorded, tags={**self.tags, **recorded.tags})
        path = kept_path(self.kept, cell.header.fingerprint)
        write_cell(path, replace(cell.header, recorded=with_speed(recorded, path)), cell.answers)
        if self.client is None:
            return
        try:
            log_cell(self.client, self.experiment, self.parent, facts_of(cell, recorded), "run")
            if self.clock and "wall_s" in recorded.metrics:
                self.clock.cell(recorded.metrics["wall_s"])
        except Exception as error:  # the cell is in its file already
            warn_unreachable(error)
            self.client = None


def kept_in(store: Path, experiment: str) -> Path:
    """The folder of the finished cells of an experiment. It lies beside the example store."""
    return store.parent / "cells" / experiment


def real_or_apart(experiment: str, weights: str) -> str:
    """The experiment of a model. Numbers of random weights and of fake engines go into an experiment of their own."""
    suffix = f" ({weights})"  # `sync` may be given an experiment that has it already
    return experiment if weights not in UNREAL or experiment.endswith(suffix) else experiment + suffix


def log_cell(client: Any, experiment: str, parent: str, facts: Facts, by: str) -> None:
    """Log one cell: parameters, metrics, tags, data set and the table of examples. by: "run" or "sync"."""
    from mlflow.utils.time import get_current_time_millis

    now = get_current_time_millis()  # once, so that a second attempt logs no metric twice
    settled(lambda: _log_cell(client, experiment, standing(client, experiment, parent), facts, by, now))


def _log_cell(client: Any, experiment: str, parent: str, facts: Facts, by: str, now: int) -> None:
    from mlflow.entities import Metric, Param, RunTag

    tags = {
        **facts.tags, "mlflow.parentRunId": parent, "kind": "cell", "logged_by": by, "logged_format": FORMAT,
        "mlflow.loggedArtifacts": _tables("examples.json"),
    }  # fmt: skip
    query = f"tags.kind = 'cell' and tags.fingerprint = '{facts.tags['fingerprint']}'"
    began = now - int(1000 * facts.metrics.get("wall_s", 0))
    run = found_run(client, experiment, query) or client.create_run(experiment, began, tags, facts.name)
    run_id = run.info.run_id
    client.log_inputs(run_id, [_data_set(facts)])
    client.log_dict(run_id, _table(facts.examples), "examples.json")
    client.log_batch(  # last, because the tag completions_sha256 says that the run is complete
        run_id,
        metrics=[Metric(key, float(value), now, 0) for key, value in facts.metrics.items()],
        params=[Param(key, value) for key, value in facts.params.items() if key not in run.data.params],
        tags=[RunTag(key, value) for key, value in tags.items() if run.data.tags.get(key) != value],
    )
    client.set_terminated(run_id, end_time=run.info.end_time or now)  # an update keeps the duration of the first


def _tables(*paths: str) -> str:
    """The value of the tag that makes the UI show these files as tables."""
    return json.dumps([{"path": path, "type": "table"} for path in paths])


def _table(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows in the form that the UI shows. MLflow's log_table would append to the table when a run is updated."""
    return {"columns": list(rows[0]) if rows else [], "data": [list(row.values()) for row in rows]}


def _data_set(facts: Facts) -> Any:
    """The prepared task file as an MLflow input: its name and digest, without its text."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"source": facts.params["task.source"], "file": facts.params["task.file"]})
    digest = facts.tags["data_sha256"][:36]  # MLflow allows 36 characters. The whole hash is a tag
    profile = json.dumps({"num_rows": int(facts.metrics["n"])})
    data_set = Dataset(facts.params["task"], digest, "conf/source", source, profile=profile)
    return DatasetInput(data_set, [InputTag("mlflow.data.context", "evaluation")])


@contextmanager
def model_run(run: Run) -> Iterator[Tracker]:
    """Open the parent run of one model in one suite. Yields the Tracker that logs its cells."""
    experiment = real_or_apart(str(run.tracking["experiment"]), run.model.weights)
    tracker = Tracker(None, kept_in(run.store, experiment), tags={**git_state(), **versions()})
    monitor = None
    if run.tracking.get("enabled", True):
        try:
            client, tracker.experiment = connected(run.tracking["uri"], experiment)
            tracker.parent = parent_run(client, tracker.experiment, run.model, run.suite, tracker.tags)
            monitor = _monitor(run.tracking, tracker.parent)
            tracker.client = client
        except Exception as error:
            warn_unreachable(error)
    status = "FAILED"
    try:
        yield tracker
        status = "FINISHED"
    finally:
        if monitor:
            monitor.finish()
        if tracker.client is not None:
            _close(tracker, status)


def _close(tracker: Tracker, status: str) -> None:
    try:
        close(tracker.client, tracker.experiment, tracker.parent, status)
    except Exception as error:
        warn_unreachable(error)


def close(client: Any, experiment: str, parent: str, status: str = "FINISHED") -> None:
    """Summarise the parent run of a model and end it."""
    settled(lambda: _closed(client, experiment, parent, status))


def _closed(client: Any, experiment: str, parent: str, status: str) -> None:
    kept = standing(client, experiment, parent)
    if kept != parent:
        for run in _cells_of(client, experiment, parent):  # logged before the parent run was deleted
            client.set_tag(run.info.run_id, "mlflow.parentRunId", kept)
    summarise(client, experiment, kept)
    client.set_terminated(kept, status)


def standing(client: Any, experiment: str, parent: str) -> str:
    """The run id of a model's parent run. If another process deleted this one as a double, the id of the one kept."""
    run = client.get_run(parent)
    if run.info.lifecycle_stage == "active":
        return parent
    kept = found_run(client, experiment, _of_model(run.info.run_name))
    return str(kept.info.run_id) if kept else parent


def _of_model(name: str) -> str:
    return f"tags.kind = 'model' and tags.mlflow.runName = '{name}'"


def parent_run(client: Any, experiment: str, model: Model, suite: str, tags: Mapping[str, str]) -> str:
    """Open the parent run of a model in one suite, and return its run id."""
    return settled(lambda: _parent_run(client, experiment, model, suite, tags))


def _parent_run(client: Any, experiment: str, model: Model, suite: str, tags: Mapping[str, str]) -> str:
    from mlflow.entities import Param, RunTag

    name = f"{model.name} ({suite})"
    query = _of_model(name)
    if not found_run(client, experiment, query):
        client.create_run(experiment, run_name=name, tags={"kind": "model"})
    run = found_run(client, experiment, query)  # again, because another shard may have begun one at the same moment
    assert run is not None
    params = {key: str(value) for key, value in asdict(model).items() if key not in run.data.params}
    client.log_batch(
        run.info.run_id,
        params=[Param(key, value) for key, value in params.items()],
        tags=[RunTag(key, value) for key, value in tags.items()],
    )
    client.update_run(run.info.run_id, status="RUNNING")
    return str(run.info.run_id)


def _monitor(tracking: Mapping[str, Any], parent: str) -> Any:
    """Start a thread that samples the machine for the parent run. None if `tracking.system_metrics` is off."""
    if not tracking.get("system_metrics", True):
        return None
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    uri = tracking["uri"] or default_uri()
    monitor = SystemMetricsMonitor(parent, resume_logging=True, tracking_uri=uri, **SAMPLING)
    monitor.start()
    return monitor


def summarise(client: Any, experiment: str, parent: str) -> None:
    """Log a table of a model's cells and a figure of accuracy by task to its parent run, from what MLflow holds."""
    by_fingerprint: dict[str, list[Any]] = {}
    for run in _cells_of(client, experiment, parent):
        by_fingerprint.setdefault(run.data.tags["fingerprint"], []).append(run)
    cells = {fingerprint: oldest(client, same) for fingerprint, same in by_fingerprint.items()}
    flat = [{**run.data.params, **run.data.metrics, "fingerprint": name} for name, run in cells.items()]
    rows = summary(cell for cell in flat if "accuracy" in cell)
    client.log_metric(parent, "cells", len(cells))
    if rows:
        client.log_dict(parent, _table(rows), "summary.json")
        client.set_tag(parent, "mlflow.loggedArtifacts", _tables("summary.json"))
        name = client.get_run(parent).info.run_name
        client.log_figure(parent, figure(rows, name), "accuracy.png")


def _cells_of(client: Any, experiment: str, parent: str) -> list[Any]:
    query = f"tags.kind = 'cell' and tags.mlflow.parentRunId = '{parent}'"
    return list(client.search_runs([experiment], query, max_results=50_000))


def opened(uri: str | None, experiment: str) -> tuple[Any, str]:
    """`connected` for a command that needs MLflow. Raises UserError if it is out of reach."""
    try:
        return connected(uri, experiment)
    except Exception as error:  # SQLite, alembic and MLflow each raise their own
        raise unreachable_error(uri, error) from error


def unreachable_error(uri: str | None, error: Exception) -> UserError:
    """The error of a command that needs MLflow and cannot open it."""
    reason, database = reason_of(error), database_of(uri or default_uri())
    if database is None:
        return UserError(f"The MLflow server does not answer: {reason}. Start it, then the same command again")
    if "locked" in reason:
        return UserError(f"{database.name} is locked by another process: {reason}. The same command again later")
    return UserError(f"{database.name} cannot be opened: {reason}. Move it away: the next run begins another")


def with_speed(recorded: Recorded, path: Path) -> Recorded:
    """The record, with the speed of an earlier run if this one took every answer from the store.

    path: the kept file of the same cell, which holds that speed.
    """
    if recorded.metrics or not path.is_file():
        return recorded
    with contextlib.suppress(UserError):  # a damaged file is written again
        before = read_header(path).recorded
        return replace(recorded, metrics=before.metrics) if before else recorded
    return recorded
