"""Every cell as an MLflow run under its model's parent run. The only door to MLflow."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import re
import sqlite3
import subprocess
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from src.base.errors import UserError
from src.base.files import ROOT, alone
from src.base.schema import Model, Run
from src.cell.file import Recorded, Scored, kept_path, read_header, write_cell
from src.lab.facts import Facts, facts_of, figure, summary

FORMAT = "2"  # of what is logged: `sync` logs a run of another format anew
UNREAL = ("random", "fake")  # weights whose numbers never enter an experiment of real ones
PACKAGES = ("torch", "transformers", "tokenizers", "bert-score", "numpy", "pandas", "mlflow", "hydra-core", "dvc")
SAMPLING = {"sampling_interval": 10, "samples_before_logging": 3}  # seconds; system metrics are means of the samples


CELLS, TWINS = "cells", "twins"


@dataclass(frozen=True)
class View:
    """A shared view of MLflow's runs table, whose own default shows no parameter and no metric and folds the cells."""

    said: str
    query: str
    order: str
    ascending: bool
    columns: Mapping[str, int]  # in their order; width in pixels


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

FIRST, LAST = {"attributes.`Run Name`": 110, "runDateAndNestInfo": 126}, {"duration": 66}  # what no view can hide


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


def default_uri() -> str:
    """The project's own store of runs, as an absolute URI: MLflow would take the current folder."""
    return f"sqlite:///{ROOT / 'mlflow.db'}"


def database_of(uri: str) -> Path | None:
    """The file of a SQLite store; None of a server."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def connected(uri: str | None, experiment: str) -> tuple[Any, str]:
    """(client, experiment id); database, experiment and views are made where they are missing."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # the default blocks four minutes on a dead server
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")  # seconds, where one hangs
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    import logging

    import mlflow

    for name in ("alembic", "mlflow"):  # after the import, which sets them
        logging.getLogger(name).setLevel(logging.CRITICAL)

    uri = uri or default_uri()
    database = database_of(uri)
    with alone(database.parent) if database else nullcontext():  # of two that create one at once, one would die
        client = mlflow.MlflowClient(uri)
        _readable_while_written(database)
        found = client.get_experiment_by_name(experiment)
        beside = (database.resolve().parent / "mlartifacts").as_uri() if database else None
        made = found.experiment_id if found else client.create_experiment(experiment, artifact_location=beside)
        for name in VIEWS:
            key, view = f"mlflow.sharedViewState.{name}", json.dumps(_view(name))
            if not found or found.tags.get(key) != view:
                client.set_experiment_tag(made, key, view)
    return client, made


def _readable_while_written(database: Path | None) -> None:
    """SQLite's write-ahead log, which stays with the file: the UI reads while a run logs, and a commit costs less."""
    if database is not None:
        with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(database, 1)) as found:
            found.execute("PRAGMA journal_mode = WAL")  # refused while an older UI has it open: then the next time


def _view(name: str) -> dict[str, Any]:
    """The state of MLflow's runs table, as its UI reads it (undocumented; a test looks at the page)."""

    def quoted(column: str) -> str:
        return "{}.`{}`".format(*column.split("."))

    view = VIEWS[name]
    widths = {quoted(column): width for column, width in view.columns.items()}
    every = {**FIRST, **widths, **LAST}
    return {
        "selectedColumns": list(widths), "columnOrder": ["1", *every], "columnWidths": every,
        "orderByKey": quoted(view.order), "orderByAsc": view.ascending, "searchFilter": view.query, "startTime": "ALL",
        "lifecycleFilter": "Active", "modelVersionFilter": "All Runs", "datasetsFilter": [], "runsExpanded": {},
        "runsHidden": [], "runsPinned": [],
    }  # fmt: skip


def found_run(client: Any, experiment: str, query: str) -> Any | None:
    """The run that answers the query, or None. Of several, which two processes began at once, the oldest stays."""
    runs = client.search_runs([experiment], query)
    return oldest(client, runs) if runs else None


def oldest(client: Any, runs: Iterable[Any]) -> Any:
    """The run that began first. The others are deleted: two processes began them at once."""
    first, *doubles = sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))
    for double in doubles:
        client.delete_run(double.info.run_id)
    return first


def reason_of(error: BaseException) -> str:
    """An error in one line, without the user and password that a URI may hold."""
    lines = [line for line in str(error).splitlines() if not line.startswith("(raised as a result of Query-invoked")]
    return re.sub(r"//[^/@\s]*@", "//", (lines or [type(error).__name__])[0])


def warn_unreachable(error: Exception) -> None:
    """Say once that MLflow is out of reach, and how to log the cells later."""
    text = f"MLflow is out of reach, the run goes on without it: {reason_of(error)}. Later: python -m src.tracking sync"
    warnings.warn_explicit(text, UserWarning, "MLflow", 1)  # no line of source below it


@dataclass
class Tracker:
    """Where the cells of one model go. `client` is None where nothing is logged: turned off, or out of reach."""

    client: Any
    kept: Path  # folder where every finished cell is kept
    experiment: str = ""
    parent: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    def cell(self, cell: Scored, recorded: Recorded) -> None:
        """Keep one finished cell, then log it. A failure to log is said once, not raised."""
        recorded = replace(recorded, tags={**self.tags, **recorded.tags})
        path = kept_path(self.kept, cell.header.fingerprint)
        write_cell(path, replace(cell.header, recorded=with_speed(recorded, path)), cell.answers)
        if self.client is None:
            return
        try:
            log_cell(self.client, self.experiment, self.parent, facts_of(cell, recorded), "run")
        except Exception as error:  # whatever the store of runs does, the cell is kept
            warn_unreachable(error)
            self.client = None


def kept_in(store: Path, experiment: str) -> Path:
    """The folder of the finished cells of an experiment, beside the example store."""
    return store.parent / "cells" / experiment


def real_or_apart(experiment: str, weights: str) -> str:
    """The experiment of a model: numbers of random weights and fake engines go into one of their own."""
    apart = f" ({weights})"  # an experiment that is already theirs, as `sync` is told, stays
    return experiment if weights not in UNREAL or experiment.endswith(apart) else experiment + apart


def log_cell(client: Any, experiment: str, parent: str, facts: Facts, by: str) -> None:
    """One cell's run: parameters, metrics, tags, data set and the per-example table. by: "run" | "sync"."""
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.utils.time import get_current_time_millis

    tags = {
        **facts.tags, "mlflow.parentRunId": parent, "kind": "cell", "logged_by": by, "logged_format": FORMAT,
        "mlflow.loggedArtifacts": _tables("examples.json"),
    }  # fmt: skip
    query = f"tags.kind = 'cell' and tags.fingerprint = '{facts.tags['fingerprint']}'"
    now = get_current_time_millis()
    began = now - int(1000 * facts.metrics.get("wall_s", 0))
    run = found_run(client, experiment, query) or client.create_run(experiment, began, tags, facts.name)
    run_id = run.info.run_id
    client.log_inputs(run_id, [_data_set(facts)])
    client.log_dict(run_id, _table(facts.examples), "examples.json")
    client.log_batch(  # after the files: its hash of the completions says that the run is whole
        run_id,
        metrics=[Metric(key, float(value), now, 0) for key, value in facts.metrics.items()],
        params=[Param(key, value) for key, value in facts.params.items() if key not in run.data.params],
        tags=[RunTag(key, value) for key, value in tags.items() if run.data.tags.get(key) != value],
    )
    client.set_terminated(run_id, end_time=run.info.end_time or now)  # an update keeps how long the first took


def _tables(*paths: str) -> str:
    """The tag that makes the UI show these files as tables."""
    return json.dumps([{"path": path, "type": "table"} for path in paths])


def _table(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows as the UI shows them. Not by MLflow's log_table, which appends where a run is updated."""
    return {"columns": list(rows[0]) if rows else [], "data": [list(row.values()) for row in rows]}


def _data_set(facts: Facts) -> Any:
    """The prepared task file as an MLflow input: name and digest, none of its text."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"source": facts.params["task.source"], "file": facts.params["task.file"]})
    digest = facts.tags["data_sha256"][:36]  # as much as MLflow holds; the whole is a tag
    profile = json.dumps({"num_rows": int(facts.metrics["n"])})
    data_set = Dataset(facts.params["task"], digest, "conf/source", source, profile=profile)
    return DatasetInput(data_set, [InputTag("mlflow.data.context", "evaluation")])


@contextmanager
def model_run(run: Run) -> Iterator[Tracker]:
    """The parent run of one model in one suite; cells are logged through the Tracker it yields."""
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
        summarise(tracker.client, tracker.experiment, tracker.parent)
        tracker.client.set_terminated(tracker.parent, status)
    except Exception as error:
        warn_unreachable(error)


def parent_run(client: Any, experiment: str, model: Model, suite: str, tags: Mapping[str, str]) -> str:
    """The run id of a model's parent in one suite, open for its cells."""
    from mlflow.entities import Param, RunTag

    name = f"{model.name} ({suite})"
    query = f"tags.kind = 'model' and tags.mlflow.runName = '{name}'"
    if not found_run(client, experiment, query):
        client.create_run(experiment, run_name=name, tags={"kind": "model"})
    run = found_run(client, experiment, query)  # again: a shard may have begun another at the same moment
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
    """A thread that samples the machine for the parent run; None where `tracking.system_metrics` is off."""
    if not tracking.get("system_metrics", True):
        return None
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    uri = tracking["uri"] or default_uri()
    monitor = SystemMetricsMonitor(parent, resume_logging=True, tracking_uri=uri, **SAMPLING)
    monitor.start()
    return monitor


def summarise(client: Any, experiment: str, parent: str) -> None:
    """On a model's parent run: its cells as a table, and accuracy by task as a figure. In: what MLflow holds of it."""
    runs = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent}'", max_results=50_000)
    by_fingerprint: dict[str, list[Any]] = {}
    for run in runs:
        by_fingerprint.setdefault(run.data.tags["fingerprint"], []).append(run)
    single = {fingerprint: oldest(client, same) for fingerprint, same in by_fingerprint.items()}
    flat = [{**run.data.params, **run.data.metrics, "fingerprint": name} for name, run in single.items()]
    rows = summary(each for each in flat if "accuracy" in each)
    client.log_metric(parent, "cells", len(single))
    if rows:
        client.log_dict(parent, _table(rows), "summary.json")
        client.set_tag(parent, "mlflow.loggedArtifacts", _tables("summary.json"))
        name = client.get_run(parent).info.run_name
        client.log_figure(parent, figure(rows, name), "accuracy.png")


def opened(uri: str | None, experiment: str) -> tuple[Any, str]:
    """`_open` for a person who asked for MLflow: raises UserError where it is out of reach."""
    try:
        return connected(uri, experiment)
    except Exception as error:  # SQLite, alembic and MLflow each have their own
        raise unreachable_error(uri, error) from error


def unreachable_error(uri: str | None, error: Exception) -> UserError:
    """What a person who asked for MLflow is told where it cannot be opened."""
    reason, database = reason_of(error), database_of(uri or default_uri())
    if database is None:
        return UserError(f"The MLflow server does not answer: {reason}. Start it, then the same command again")
    if "locked" in reason:
        return UserError(f"{database.name} is locked by another process: {reason}. The same command again later")
    return UserError(f"{database.name} cannot be opened: {reason}. Move it away: the next run begins another")


def with_speed(recorded: Recorded, path: Path) -> Recorded:
    """What was recorded; where no model was needed, with the speed that the kept file has from when one was."""
    if recorded.metrics or not path.is_file():
        return recorded
    with contextlib.suppress(UserError):  # a damaged one is written anew
        before = read_header(path).recorded
        return replace(recorded, metrics=before.metrics) if before else recorded
    return recorded
