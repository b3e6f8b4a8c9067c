"""What was computed in all: wall-clock time, CPU time and tokens, of finished, failed, stopped and killed runs alike.

Each run of a model is a clock in MLflow: a run of kind `attempt` under the model's, told as it goes. A killed run stays
RUNNING there and counts until its last beat. A cell that no attempt names was computed before there were attempts, or
on a host that did not reach MLflow: its own seconds count, and its CPU time is unknown. `python -m src.plan --spent`
shows the sum.
"""

from __future__ import annotations

import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.base.files import alone
from src.base.logins import without_login
from src.base.schema import Run
from src.lab.database import client_of
from src.lab.opening import database_at, default_uri
from src.lab.refusals import refused
from src.lab.runs import Tracker

ATTEMPT = "attempt"
FIRST, LONGEST = 1.0, 30.0  # seconds between two beats: twice as many each time, up to the longest
UNKNOWN = "unknown"
ENDED = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "stopped"}
CUT_OFF, CELL_ALONE = "cut off or running", "cells alone"

Used = Callable[[], Mapping[str, float]]
Group = tuple[str, str, str, str, str]


# ---- Telling MLflow


class Clock:
    """Tells MLflow what one run of a model has spent so far, in beats, from a thread of its own."""

    def __init__(self, client: Any, experiment: str, tags: Mapping[str, str], used: Used) -> None:
        """Begin. tags: `mlflow.parentRunId`, `model` and `suite`. used: what the engine counts, by name."""
        self.client, self.used = client, used
        self.wall, self.cpu, self.at_start = time.monotonic(), time.process_time(), dict(used())
        self.where = machine()
        told = {**tags, "kind": ATTEMPT, "machine": self.where}
        run = client.create_run(experiment, tags=told, run_name=f"{ATTEMPT} at {tags['model']} ({tags['suite']})")
        self.run_id: str = run.info.run_id
        self.cells = 0
        self.failed = False  # no cell was done, though nothing was raised
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._beats, name="clock", daemon=True)
        self.thread.start()

    def beat(self) -> None:
        """Tell what was spent since the beginning."""
        from mlflow.entities import Metric, RunTag

        now, used = int(1000 * time.time()), self.used()
        spent = {
            "wall_s": time.monotonic() - self.wall, "cpu_s": time.process_time() - self.cpu,
            **{name: value - self.at_start.get(name, 0.0) for name, value in used.items()},
        }  # fmt: skip
        where = machine()  # an accelerator is known once the model is loaded
        tags = [RunTag("machine", where)] if where != self.where else []
        self.where = where
        self.client.log_batch(self.run_id, metrics=[Metric(k, v, now, 0) for k, v in spent.items()], tags=tags)

    def cell(self, wall_s: float) -> None:
        """Name a finished cell by its seconds, so that they do not count twice."""
        self.cells += 1
        self.client.log_metric(self.run_id, "cell_s", wall_s, step=self.cells)

    def finish(self, status: str, reachable: bool) -> None:
        """The last beat. What cannot be told any more is left as it was told."""
        self.over.set()
        if not reachable:  # a server that hangs would hold up the end
            return
        self.thread.join()
        with suppress(Exception):
            self.beat()
            self.client.set_terminated(self.run_id, status)

    def _beats(self) -> None:
        pause = FIRST
        with suppress(Exception):  # MLflow is out of reach: the run goes on, and says so elsewhere
            self.beat()
            while not self.over.wait(pause):
                self.beat()
                pause = min(2 * pause, LONGEST)


@contextmanager
def clocked(tracker: Tracker, run: Run, used: Used) -> Iterator[None]:
    """Keep a clock while the cells of a model are computed. Without MLflow there is none."""
    named = {"mlflow.parentRunId": tracker.parent, "model": run.model.name, "suite": run.suite}
    if tracker.client is not None:
        with suppress(Exception):  # out of reach just now: the tracker says so at its first cell
            tracker.clock = Clock(tracker.client, tracker.experiment, named, used)
    status = "KILLED"  # a stop, and whatever else is no Exception
    try:
        yield
        status = "FAILED" if tracker.clock and tracker.clock.failed else "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        if tracker.clock:
            tracker.clock.finish(status, reachable=tracker.client is not None)


def machine() -> str:
    """The processor, the cores that this process may use, its threads, and accelerators where torch has found some."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    said = [_processor(), f"{cores} cores"]
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        with suppress(Exception):  # another thread is importing it
            said.append(f"{torch.get_num_threads()} threads")
            said += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join(said)


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


# ---- Reading MLflow


@dataclass(frozen=True)
class Spent:
    """What one attempt, one cell or one group of them spent. Groups have whole numbers, so that parts add up."""

    experiment: str
    model: str
    suite: str
    machine: str
    ended: str  # a value of ENDED, or CUT_OFF, or CELL_ALONE
    n: int  # attempts; cells where `ended` is CELL_ALONE
    wall_s: float
    cpu_s: float | None  # None: nobody measured it
    tokens: float
    usd: float

    @property
    def group(self) -> Group:
        """What rows are summed by."""
        return self.experiment, self.model, self.suite, self.machine, self.ended


def spent(uri: str | None) -> list[Spent]:
    """A row for each group, none where no database was begun. Raises UserError where MLflow is out of reach."""
    database = database_at(uri)
    if database is not None and not database.is_file():
        return []
    try:
        with alone(database.parent) if database else nullcontext():  # a run may be creating it
            client = client_of(without_login(uri, os.environ) if uri else default_uri())
        return spent_in(client)
    except Exception as error:  # SQLite, alembic and MLflow each raise their own
        raise refused(error, database, "any") from error


def spent_in(client: Any) -> list[Spent]:
    """A row for each group, over all experiments, deleted ones and deleted runs included."""
    from mlflow.entities import ViewType

    experiments = {
        each.experiment_id: each.name + (" (deleted)" if each.lifecycle_stage == "deleted" else "")
        for each in _pages(lambda token: client.search_experiments(ViewType.ALL, 1000, page_token=token))
    }

    def runs(kind: str) -> Iterator[Any]:
        query, ids = f"tags.kind = '{kind}'", list(experiments)
        return _pages(lambda token: client.search_runs(ids, query, ViewType.ALL, 1000, page_token=token))

    rows, counted = [], set()
    for run in runs(ATTEMPT):
        rows.append(_attempt(run, experiments[run.info.experiment_id]))
        counted |= {metric.value for metric in client.get_metric_history(run.info.run_id, "cell_s")}
    for run in runs("cell"):
        if "wall_s" in run.data.metrics:
            rows += _alone(client, run, experiments[run.info.experiment_id], counted)
    groups: dict[Group, list[Spent]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return [total(each, key) for key, each in sorted(groups.items())]


def _attempt(run: Any, experiment: str) -> Spent:
    tags, metrics = run.data.tags, run.data.metrics
    return Spent(
        experiment, tags["model"], tags["suite"], tags["machine"], ENDED.get(run.info.status, CUT_OFF), 1,
        metrics.get("wall_s", 0.0), metrics.get("cpu_s", 0.0), metrics.get("tokens", 0.0), metrics.get("cost_usd", 0.0),
    )  # fmt: skip


def _alone(client: Any, run: Any, experiment: str, counted: set[float]) -> Iterator[Spent]:
    """The computations of a cell that are in no attempt. `counted` gets their seconds, which tell one from another.

    A cell that is computed again has several values in its history. One that is logged again repeats a value.
    """
    for metric in client.get_metric_history(run.info.run_id, "wall_s"):
        if metric.value in counted:
            continue
        counted.add(metric.value)
        beside = {
            name: [m.value for m in client.get_metric_history(run.info.run_id, name) if m.timestamp == metric.timestamp]
            for name in ("tokens", "cost_usd")
        }
        told = {name: values[0] for name, values in beside.items() if values}
        params = run.data.params
        yield Spent(
            experiment, params.get("model", UNKNOWN), params.get("suite", UNKNOWN), UNKNOWN, CELL_ALONE, 1,
            metric.value, None, told.get("tokens", 0.0), told.get("cost_usd", 0.0),
        )  # fmt: skip


def total(rows: Sequence[Spent], group: Group = ("all", "", "", "", "")) -> Spent:
    """The sum of these rows. CPU time is the sum of what was measured, None where nothing was."""
    cpu = [row.cpu_s for row in rows if row.cpu_s is not None]
    n, wall_s, tokens = (sum(getattr(row, name) for row in rows) for name in ("n", "wall_s", "tokens"))
    usd = round(sum(row.usd for row in rows), 6)
    return Spent(*group, n, round(wall_s), round(sum(cpu)) if cpu else None, round(tokens), usd)


def remarks(rows: Iterable[Spent]) -> list[str]:
    """What the sum does not hold, or holds in part, a sentence each."""
    rows = list(rows)
    cut, alone = ([row for row in rows if row.ended == ended] for ended in (CUT_OFF, CELL_ALONE))
    said = ["Energy: unknown, no run here reads a meter."]
    if cut:
        said.append(
            f"{sum(r.n for r in cut)} runs were killed, or are still running: each counts until its last beat, at most "
            f"{LONGEST:.0f} s before it ended."
        )
    if alone:
        count, wall = sum(row.n for row in alone), clock_time(sum(row.wall_s for row in alone))
        said.append(
            f"{count} cells ({wall}) were computed before runs left a record, or out of MLflow's reach: their CPU time "
            "and machine are unknown, and so is what failed then. Of a cell in whose middle MLflow went out of reach, "
            "the part before counts twice."
        )
    said.append(
        "Not recorded: the start of a process before its run begins, runs with tracking.enabled=false whose cells were "
        "never synced, and every stage but `run`."
    )
    return said


def clock_time(seconds: float) -> str:
    """Whole seconds as hours:minutes:seconds, so that printed parts add up to the printed sum."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _pages(page: Callable[[str | None], Any]) -> Iterator[Any]:
    """Every entry of a listing that comes in pages."""
    token: str | None = None
    while True:
        listed = page(token)
        yield from listed
        token = listed.token
        if not token:
            return
