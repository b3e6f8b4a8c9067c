"""What was computed is summed from MLflow: finished, failed, stopped, killed and deleted runs, each second once."""

from __future__ import annotations

import json
import re
import signal
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from src import plan
from src.base.files import ROOT
from src.lab import spent
from src.lab.preemption import Stopped
from tests import warm
from tests.test_pipeline import execute, place  # noqa: F401
from tests.tiny import tiny

MODEL, SUITE = "a_model", "a_suite"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from mlflow import MlflowClient

    made = MlflowClient(f"sqlite:///{tmp_path_factory.mktemp('spent') / 'runs.db'}")
    return made


@pytest.fixture
def experiment(client: Any, request: pytest.FixtureRequest) -> str:
    """An experiment of the test's own in the one database, which MLflow takes seconds to make."""
    return str(client.create_experiment(request.node.name))


def attempted(client: Any, experiment: str, cells: tuple[float, ...] = (), error: BaseException | None = None) -> str:
    """The id of an attempt that finished these cells and then ended, in order or by this error."""
    tracker = SimpleNamespace(client=client, experiment=experiment, parent="a-parent", clock=None)
    run = SimpleNamespace(model=SimpleNamespace(name=MODEL), suite=SUITE)
    tokens = {"tokens": 100.0}
    with suppress(*([type(error)] if error else [])), spent.clocked(tracker, run, lambda: dict(tokens)):  # type: ignore[arg-type]
        for seconds in cells:
            tokens["tokens"] += 10
            tracker.clock.cell(seconds)
        if error:
            raise error
    return str(tracker.clock.run_id)


def cell(client: Any, experiment: str, seconds: float, tokens: float = 7, run_id: str | None = None) -> str:
    """A cell's run with what `run` and `sync` log of its speed; logged again where its id is given."""
    from mlflow.entities import Metric, Param

    run_id = run_id or client.create_run(experiment, tags={"kind": "cell"}).info.run_id
    now = int(1000 * time.time()) + len(client.get_metric_history(run_id, "wall_s"))
    metrics = [Metric("wall_s", seconds, now, 0), Metric("tokens", tokens, now, 0)]
    client.log_batch(run_id, metrics, [Param("model", MODEL), Param("suite", SUITE)])
    return str(run_id)


def rows_of(client: Any, experiment: str) -> dict[str, spent.Spent]:
    """How it ended -> row, of one experiment."""
    name = client.get_experiment(experiment).name
    rows = [row for row in spent.spent_in(client) if row.experiment.removesuffix(" (deleted)") == name]
    assert len({row.ended for row in rows}) == len(rows)
    return {row.ended: row for row in rows}


def test_every_way_to_end_is_a_row_of_its_own_with_its_time_and_tokens(client: Any, experiment: str) -> None:
    attempted(client, experiment, cells=(3.5, 4.25))
    attempted(client, experiment, cells=(1.5,))
    attempted(client, experiment, error=RuntimeError("a fault"))
    attempted(client, experiment, cells=(2.5,), error=Stopped("SIGTERM"))
    rows = rows_of(client, experiment)
    assert {ended: (row.n, row.tokens) for ended, row in rows.items()} == {
        "finished": (2, 30), "failed": (1, 0), "stopped": (1, 10),
    }  # fmt: skip
    assert all(row.cpu_s is not None and "cores" in row.machine for row in rows.values())
    assert {(row.model, row.suite) for row in rows.values()} == {(MODEL, SUITE)}


def test_a_run_of_which_no_cell_was_done_has_failed(place: Path) -> None:  # noqa: F811
    from mlflow import MlflowClient

    assert execute(place, "conditions=[closed_few]", "tasks=[social_iqa]") == 0
    (place / "tasks/social_iqa.jsonl").unlink()
    assert execute(place, "conditions=[closed_few]", "tasks=[social_iqa]") == 1
    assert sorted(row.ended for row in spent.spent_in(MlflowClient(f"sqlite:///{place / 'runs.db'}"))) == [
        "failed", "finished",
    ]  # fmt: skip


def test_a_deleted_run_and_a_deleted_experiment_count(client: Any, experiment: str) -> None:
    client.delete_run(attempted(client, experiment, cells=(9.5,)))
    client.delete_run(cell(client, experiment, 61.5))
    client.delete_experiment(experiment)
    rows = rows_of(client, experiment)
    assert {ended: row.n for ended, row in rows.items()} == {"finished": 1, spent.CELL_ALONE: 1}
    assert {row.experiment for row in rows.values()} == {f"{client.get_experiment(experiment).name} (deleted)"}


def test_a_cell_counts_once_and_each_of_its_computations_does(client: Any, experiment: str) -> None:
    attempted(client, experiment, cells=(33.125,))
    cell(client, experiment, 33.125)  # in the attempt
    again = cell(client, experiment, 50.25, tokens=5)  # before there were attempts
    cell(client, experiment, 50.25, tokens=5, run_id=again)  # told again by `sync`
    cell(client, experiment, 70.5, tokens=6, run_id=again)  # computed again
    cell(client, experiment, 50.25, tokens=5)  # the same computation under another run
    alone = rows_of(client, experiment)[spent.CELL_ALONE]
    assert (alone.n, alone.wall_s, alone.tokens, alone.cpu_s) == (2, round(50.25 + 70.5), 11, None)


def test_the_clock_tells_the_processors_time(client: Any, experiment: str) -> None:
    tracker: Any = SimpleNamespace(client=client, experiment=experiment, parent="p", clock=None)
    run: Any = SimpleNamespace(model=SimpleNamespace(name=MODEL), suite=SUITE)
    with spent.clocked(tracker, run, dict):
        end = time.process_time() + 1.2
        while time.process_time() < end:
            sum(range(10_000))
    row = rows_of(client, experiment)["finished"]
    assert row.cpu_s is not None
    assert row.cpu_s >= 1
    assert row.wall_s >= 1


def test_the_printed_sum_is_that_of_the_printed_parts(
    client: Any, experiment: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for seconds in (0.4, 0.4, 3599.6):
        cell(client, experiment, seconds)
    attempted(client, experiment, cells=(1.0,))
    uri = client.tracking_uri
    plan.show_spent(uri, tmp_path / "rows.csv", as_json=False)
    said = capsys.readouterr().out
    walls = [
        sum(int(part) * 60**power for power, part in enumerate(reversed(found.split(":"))))
        for found in re.findall(r" (\d+:\d\d:\d\d) +(?:\d+:\d\d:\d\d|unknown) ", said)
    ]
    assert len(walls) > 2
    assert walls[-1] == sum(walls[:-1]) >= 3600
    assert "Energy: unknown" in said
    plan.show_spent(uri, None, as_json=True)
    told = json.loads(capsys.readouterr().out)
    for name in ("n", "wall_s", "tokens"):
        assert told["all"][name] == sum(row[name] for row in told["rows"])
    assert told["all"]["wall_s"] == walls[-1]
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 1 + len(told["rows"])


def test_no_database_and_an_empty_one_are_said_in_words(
    client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    missing = tmp_path / "runs.db"
    plan.show_spent(f"sqlite:///{missing}", None, as_json=False)
    assert "Nothing was computed yet" in capsys.readouterr().out
    assert not missing.exists()
    MlflowClient(f"sqlite:///{missing}")
    plan.show_spent(f"sqlite:///{missing}", None, as_json=False)
    assert "Nothing was computed yet" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("end", "named"), [(signal.SIGKILL, spent.CUT_OFF), (signal.SIGTERM, "stopped")])
def test_a_run_that_is_killed_leaves_its_time(tmp_path: Path, end: signal.Signals, named: str) -> None:
    """A real one, on a tiny random checkpoint, ended in the middle of a cell that never finishes."""
    from mlflow import MlflowClient

    from tests.test_pipeline import made_up, words

    tiny("llama", tmp_path / "weights")
    (tmp_path / "tasks").mkdir()
    for task in ("analytic_entailment", "social_iqa"):
        (tmp_path / f"tasks/{task}.jsonl").write_text(made_up(task, 400))
    asked = words(tmp_path, "limit=400", "token_budget=256")
    client = MlflowClient(f"sqlite:///{tmp_path / 'runs.db'}")  # before the run, or both would create the database
    running = warm.started("src.run", *asked, cwd=ROOT, both=True)
    until = time.monotonic() + 400
    beats: list[Any] = []
    while len(beats) < 3 and time.monotonic() < until:
        time.sleep(0.5)
        assert running.poll() is None, running.communicate()[0]
        experiment = client.get_experiment_by_name("a-test")
        runs = client.search_runs([experiment.experiment_id], "tags.kind = 'attempt'") if experiment else []
        beats = [metric for run in runs for metric in client.get_metric_history(run.info.run_id, "wall_s")]
    assert len(beats) >= 3, "the run told nothing in 400 s"
    running.send_signal(end)
    running.communicate(timeout=120)
    (row,) = spent.spent(f"sqlite:///{tmp_path / 'runs.db'}")
    assert (row.ended, row.n) == (named, 1)
    assert row.wall_s >= 1
    assert row.cpu_s is not None
    assert ("killed" in " ".join(spent.remarks([row]))) == (named == spent.CUT_OFF)
