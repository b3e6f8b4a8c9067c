"""What is logged to MLflow. Each cell is a run, under the parent run of its model.

A run has its cell's fingerprint as a tag and is found again by it, so logging a cell twice updates one run. If MLflow
is out of reach, a warning says so once and the work continues, because every finished cell is kept in a file as well.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from src.base import git
from src.base.errors import UserError
from src.base.files import whole
from src.base.schema import Model, Run
from src.cell.file import Recorded, Scored, kept_path, read_header, write_cell
from src.lab.facts import Facts, facts_of, figure, summary
from src.lab.moved import database_of, own_folder
from src.lab.opening import connected, database_at, default_uri, found_run, oldest, settled
from src.lab.refusals import warn_unlogged

EXAMPLES, TABLE = "examples.json", "summary.json"  # the artifacts of a cell, and of a model
FORMAT = "2"  # version of what is logged. `sync` logs a run of another version again
UNREAL = ("random", "fake")  # weights whose numbers never stand among those of real weights
PACKAGES = ("torch", "transformers", "tokenizers", "bert-score", "numpy", "pandas", "mlflow", "hydra-core", "dvc")
SAMPLING = {"sampling_interval": 10, "samples_before_logging": 3}  # interval in s; means are logged


def git_state() -> dict[str, str]:
    """The commit and whether the checkout has changes. Both are "unknown" without git."""
    try:
        return {"git_commit": git.commit()[0], "git_dirty": str(bool(git.changes())).lower()}
    except UserError:
        return {"git_commit": "unknown", "git_dirty": "unknown"}


def versions() -> dict[str, str]:
    """Installed versions of the packages that a number can depend on."""
    return {f"version_{name}": importlib.metadata.version(name) for name in PACKAGES} | {
        "version_python": platform.python_version()
    }


@dataclass
class Tracker:
    """Logs the cells of one model. `client` is None if tracking is turned off or MLflow is out of reach."""

    client: Any
    kept: Path  # the folder where every finished cell is kept
    name: str = ""  # of the experiment
    experiment: str = ""  # its id
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
            warn_unlogged(error, database_of(self.client.tracking_uri), self.name)
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
        "mlflow.loggedArtifacts": _tables(EXAMPLES),
    }  # fmt: skip
    query = f"tags.kind = 'cell' and tags.fingerprint = '{facts.tags['fingerprint']}'"
    began = now - int(1000 * facts.metrics.get("wall_s", 0))
    run = found_run(client, experiment, query) or client.create_run(experiment, began, tags, facts.name)
    run_id = run.info.run_id
    client.log_inputs(run_id, [_data_set(facts)])
    log_table(client, run, facts.examples, EXAMPLES)
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


def log_table(client: Any, run: Any, rows: Sequence[Mapping[str, Any]], name: str) -> None:
    """Log rows as an artifact. It goes beside a database of this machine, else to the server."""
    folder = own_folder(client, run)
    if folder is None:
        client.log_dict(run.info.run_id, _table(rows), name)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with whole(folder / name) as part:
        part.write_text(json.dumps(_table(rows)), encoding="utf-8")


def log_figure(client: Any, run: Any, chart: Any, name: str) -> None:
    """Log a figure as an artifact, to where `log_table` logs."""
    folder = own_folder(client, run)
    if folder is None:
        client.log_figure(run.info.run_id, chart, name)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with whole(folder / name) as part:
        chart.savefig(part, format="png")


def has_artifact(client: Any, run: Any, name: str) -> bool:
    """Whether an artifact of a run is where it was logged to. True for the folder of another machine."""
    folder = own_folder(client, run)
    if folder is not None:
        return (folder / name).is_file()
    if database_of(client.tracking_uri) is None and urlsplit(run.info.artifact_uri).scheme in ("", "file"):
        return True
    return any(each.path == name for each in client.list_artifacts(run.info.run_id))


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
    tracker = Tracker(None, kept_in(run.store, experiment), experiment, tags={**git_state(), **versions()})
    monitor = None
    if run.tracking.get("enabled", True):
        try:
            client, tracker.experiment = connected(run.tracking["uri"], experiment)
            tracker.parent = parent_run(client, tracker.experiment, run.model, run.suite, tracker.tags)
            monitor = _monitor(run.tracking, tracker.parent)
            tracker.client = client
        except Exception as error:
            warn_unlogged(error, database_at(run.tracking["uri"]), experiment)
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
        warn_unlogged(error, database_of(tracker.client.tracking_uri), tracker.name)


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
        run = client.get_run(parent)
        log_table(client, run, rows, TABLE)
        client.set_tag(parent, "mlflow.loggedArtifacts", _tables(TABLE))
        log_figure(client, run, figure(rows, run.info.run_name), "accuracy.png")


def _cells_of(client: Any, experiment: str, parent: str) -> list[Any]:
    query = f"tags.kind = 'cell' and tags.mlflow.parentRunId = '{parent}'"
    return list(client.search_runs([experiment], query, max_results=50_000))


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
