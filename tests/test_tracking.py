"""MLflow as its users meet it: what a run holds, what survives a lost store of runs, what the page shows."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from src import run, tracking
from src.base import conf, grid
from src.base.errors import UserError
from src.base.files import ROOT
from src.base.logins import USER_OF_SERVER
from src.base.schema import Model
from src.cell.file import kept_path, load_encoder, path_of, read_cell, read_header, scored
from src.lab import runs
from src.lab.facts import Facts, facts_of
from src.lab.moved import own_folder
from src.lab.opening import opened
from src.lab.runs import with_speed
from src.lab.views import TWINS as TWINS_VIEW
from src.lab.views import VIEWS
from tests import warm
from tests.pages.test_page import CHROMIUM, Browser
from tests.test_pipeline import made_up
from tests.tiny import tiny

TASKS, CONDITIONS = ("analytic_entailment", "social_iqa"), ("closed_few", "closed_adv_zero")
SCRIPT = "<script>document.title='broken'</script>"
TWINS = {"gpt2": "base", "gpt2_it": "tuned"}  # model -> its tiny checkpoint
MACHINE = {"device", "git_commit", "git_dirty"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tracked")
    for seed, name in enumerate(TWINS.values()):
        tiny("gpt2", folder / name, seed)
    (folder / "tasks").mkdir()
    for task in TASKS:
        (folder / "tasks" / f"{task}.jsonl").write_text(made_up(task).replace("What sinks", f"{SCRIPT} What sinks"))
    return folder


def words(place: Path, model: str, uri: str, *more: str) -> list[str]:
    return [
        f"+model={model}", f"model.path={place / TWINS[model]}", "model.tasks=null", "limit=6", "seeds=[2266]",
        f"data={place / 'tasks'}", f"store={place / 'store'}", f"tasks=[{','.join(TASKS)}]",
        f"conditions=[{','.join(CONDITIONS)}]", f"tracking.uri={uri}", "tracking.experiment=a-test",
        "tracking.system_metrics=false", *more,
    ]  # fmt: skip


def execute(place: Path, model: str, uri: str, *more: str) -> int:
    grid.register()
    given = grid.checked_overrides(words(place, model, uri, *more))
    with initialize_config_dir(str(conf.CONF), version_base="1.3"):
        return run.execute(compose("config", overrides=given))


def client_of(uri: str) -> tuple[Any, str]:
    import mlflow

    client = mlflow.MlflowClient(uri)
    return client, client.get_experiment_by_name("a-test").experiment_id


def logged_in(uri: str, kind: str = "cell") -> dict[str, Any]:
    """name -> run."""
    client, experiment = client_of(uri)
    runs = client.search_runs([experiment], f"tags.kind = '{kind}'")
    assert len({r.info.run_name for r in runs}) == len(runs)
    return {r.info.run_name: r for r in runs}


def contents(runs: dict[str, Any], *without: str) -> dict[str, tuple[dict[str, Any], ...]]:
    """What runs say of their cells: all but ids, who logged it, and what is named."""
    gone = {"logged_by", *without}
    return {
        name: tuple(
            {k: v for k, v in part.items() if k not in gone and not k.startswith(("mlflow.", "system/"))}
            for part in (r.data.params, r.data.metrics, r.data.tags)
        )
        for name, r in runs.items()
    }


@pytest.fixture(scope="module")
def uri(place: Path) -> str:
    """Both twins, run live."""
    uri = f"sqlite:///{place / 'runs.db'}"
    for model in TWINS:
        assert execute(place, model, uri, f"out={place / 'outputs' / model}") == 0
    return uri


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that MLflow made, which takes it seconds, to be copied."""
    import mlflow

    path = tmp_path_factory.mktemp("empty") / "runs.db"
    mlflow.MlflowClient(f"sqlite:///{path}")
    return path


@pytest.fixture
def another(empty: Path, tmp_path: Path) -> str:
    """An empty store of runs."""
    return f"sqlite:///{shutil.copy(empty, tmp_path / 'another.db')}"


@pytest.fixture(scope="module")
def kept(place: Path, uri: str) -> Path:
    return place / "cells/a-test"


def artifact(uri: str, name: str, run_id: str) -> Path:
    """The file of an artifact, beside its database."""
    client, _ = client_of(uri)
    folder = own_folder(client, client.get_run(run_id))
    assert folder is not None
    return folder / name


# ---- what a run holds ----------------------------------------------------------------------


def test_every_column_of_the_views_is_logged(uri: str) -> None:
    for view in VIEWS.values():
        for name, each in logged_in(uri).items():
            for column in view.columns:
                kind, key = column.split(".")
                absent = key == "bertscore_accuracy" and "adv" in name  # letters have no BERTScore
                assert absent or key in getattr(each.data, kind), (name, column)


def test_above_chance_is_the_primary_accuracy_minus_exact_chance(uri: str) -> None:
    for each in logged_in(uri).values():
        metrics = each.data.metrics
        assert metrics["accuracy"] == metrics[each.data.params["primary_metric"]]
        assert metrics["chance"] == pytest.approx(1 / 3)
        assert metrics["above_chance"] == pytest.approx(metrics["accuracy"] - 1 / 3)


def test_the_twins_view_puts_a_base_model_above_the_one_tuned_from_it(uri: str) -> None:
    client, experiment = client_of(uri)
    view = VIEWS[TWINS_VIEW]
    rows = client.search_runs([experiment], view.query, order_by=[f"{view.order} ASC"])
    shown = [(r.data.params["task"], r.data.params["condition"], r.data.params["model"]) for r in rows]
    assert shown == [(t, c, m) for t in TASKS for c in sorted(CONDITIONS) for m in TWINS]


def test_a_data_set_is_an_input_with_its_hash_and_without_its_text(uri: str, place: Path) -> None:
    for each in logged_in(uri).values():
        (found,) = each.inputs.dataset_inputs
        assert found.dataset.name == each.data.params["task"]
        assert each.data.tags["data_sha256"].startswith(found.dataset.digest)
        assert len(found.dataset.digest) == 36
    with contextlib.closing(sqlite3.connect(place / "runs.db")) as database:
        assert not any("What sinks" in line for line in database.iterdump())


def test_the_models_run_has_its_cells_as_a_table_and_a_figure(uri: str) -> None:
    found = logged_in(uri, "model")
    assert set(found) == {f"{model} (pilot)" for model in TWINS}
    parent = found["gpt2 (pilot)"]
    assert parent.data.metrics["cells"] == 4
    table = json.loads(artifact(uri, "summary.json", parent.info.run_id).read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [(row["task"], row["condition"]) for row in rows] == [(t, c) for t in TASKS for c in sorted(CONDITIONS)]
    live = {r.data.tags["fingerprint"]: r for r in logged_in(uri).values()}
    assert all(row["accuracy"] == live[row["fingerprint"]].data.metrics["accuracy"] for row in rows)
    assert artifact(uri, "accuracy.png", parent.info.run_id).read_bytes().startswith(b"\x89PNG")


def test_the_proof_of_how_a_cell_was_computed_stands_in_the_cell_and_in_its_run(
    uri: str, kept: Path, place: Path
) -> None:
    for each in logged_in(uri).values():
        head = read_header(kept_path(kept, each.data.tags["fingerprint"]))
        assert head.proof
        assert (each.data.tags["way"], each.data.tags["proof"]) == (head.proof.way, str(head.proof))
        assert each.data.metrics["proof_within"] == head.proof.within
        pulled = read_header(path_of(place / "outputs" / head.model, head.task, head.condition))
        assert pulled == replace(head, proof=None, recorded=None)


def test_a_cell_that_is_answered_from_the_store_keeps_its_proof(
    kept: Path, place: Path, tmp_path: Path, another: str
) -> None:
    shutil.copytree(place / "store", tmp_path / "store")  # apart, because a run keeps its cells beside its store
    assert execute(place, "gpt2", another, f"store={tmp_path / 'store'}") == 0
    again = {path.name: read_header(path).proof for path in (tmp_path / "cells/a-test").glob("*.jsonl")}
    assert len(again) == 4
    assert again == {name: read_header(kept / name).proof for name in again}


def test_views_are_mended_in_an_experiment_that_is_there_already(tmp_path: Path, another: str) -> None:
    import mlflow

    made = mlflow.MlflowClient(another).create_experiment("a-test", (tmp_path / "files").as_uri())
    client, experiment = opened(another, "a-test")
    assert experiment == made
    client.set_experiment_tag(made, "mlflow.sharedViewState.cells", "{}")
    opened(another, "a-test")
    tags = client.get_experiment(made).tags
    for name, view in VIEWS.items():
        state = json.loads(tags[f"mlflow.sharedViewState.{name}"])
        assert [column.replace("`", "") for column in state["selectedColumns"]] == list(view.columns)


# ---- sync ----------------------------------------------------------------------


def test_sync_tells_what_the_run_told_and_a_repeat_changes_nothing(uri: str, kept: Path, another: str) -> None:
    assert tracking.sync([kept], another, "a-test") == "8 cells logged, 0 were there already"
    assert contents(logged_in(another)) == contents(logged_in(uri))
    assert {r.data.tags["logged_by"] for r in logged_in(another).values()} == {"sync"}
    assert set(logged_in(another, "model")) == set(logged_in(uri, "model"))
    for name, each in logged_in(another).items():
        live = artifact(uri, "examples.json", logged_in(uri)[name].info.run_id).read_text()
        assert artifact(another, "examples.json", each.info.run_id).read_text() == live
    ids = {r.info.run_id for r in logged_in(another).values()}
    assert tracking.sync([kept], another, "a-test") == "0 cells logged, 8 were there already"
    assert {r.info.run_id for r in logged_in(another).values()} == ids


def test_sync_from_pulled_outputs_invents_no_machine(uri: str, place: Path, another: str) -> None:
    """What DVC holds says nothing of engine, machine and speed; the configuration comes from conf/."""
    assert tracking.sync([place / "outputs"], another, "a-test") == "8 cells logged, 0 were there already"
    found, live = logged_in(another), logged_in(uri)
    for name, (params, metrics, tags) in contents(found).items():
        params_live, metrics_live, tags_live = contents(live)[name]
        assert params == {key: value for key, value in params_live.items() if key != "limit"}  # 6 was given by hand
        of_the_run = ("wall_s", "tokens", "tokens_per_s", "proof_within")
        assert metrics == {k: v for k, v in metrics_live.items() if k not in of_the_run}
        assert tags.items() <= tags_live.items()
        assert not {*tags} & MACHINE
        assert not [key for key in tags if key.startswith("version_")]


def test_sync_mends_what_is_half_logged_changed_or_doubled(uri: str, kept: Path, another: str) -> None:
    tracking.sync([kept], another, "a-test")
    client, experiment = client_of(another)
    half, changed, doubled = list(logged_in(another).values())[:3]
    client.update_run(half.info.run_id, status="RUNNING")  # as kill -9 leaves it
    client.set_tag(changed.info.run_id, "completions_sha256", "of another machine")
    client.create_run(experiment, run_name=doubled.info.run_name, tags=dict(doubled.data.tags))
    assert tracking.sync([kept], another, "a-test").startswith("2 cells logged, 6")
    assert contents(logged_in(another)) == contents(logged_in(uri))  # logged_in refuses doubles
    assert {r.info.status for r in logged_in(another).values()} == {"FINISHED"}


def test_sync_makes_good_what_was_deleted(uri: str, kept: Path, another: str) -> None:
    """A cell's table, a model's table, a cell, and the run of a model, whose cells then have no parent."""
    tracking.sync([kept], another, "a-test")
    client, _ = client_of(another)
    base, tuned = logged_in(another, "model").values()
    of_tuned = [r for r in logged_in(another).values() if r.data.tags["mlflow.parentRunId"] == tuned.info.run_id]
    without_table, deleted, *_ = of_tuned
    artifact(another, "examples.json", without_table.info.run_id).unlink()
    client.delete_run(deleted.info.run_id)
    artifact(another, "summary.json", tuned.info.run_id).unlink()
    client.delete_run(base.info.run_id)
    assert tracking.sync([kept], another, "a-test") == "6 cells logged, 2 were there already"
    assert contents(logged_in(another)) == contents(logged_in(uri))
    parents = {r.info.run_id: r for r in logged_in(another, "model").values()}
    assert {r.data.tags["mlflow.parentRunId"] for r in logged_in(another).values()} == set(parents)
    for kind, name in (("cell", "examples.json"), ("model", "summary.json")):
        assert all(artifact(another, name, r.info.run_id).is_file() for r in logged_in(another, kind).values())
    artifact(another, "summary.json", next(iter(parents))).unlink()
    assert tracking.sync([kept], another, "a-test") == "0 cells logged, 8 were there already"
    assert artifact(another, "summary.json", next(iter(parents))).is_file()


def test_a_worker_that_may_not_log_leaves_its_cells_for_sync(place: Path, tmp_path: Path) -> None:
    away = f"sqlite:///{tmp_path / 'absent.db'}"
    given = (f"store={tmp_path / 'store'}", "tracking.enabled=false", "tasks=[social_iqa]")
    assert execute(place, "gpt2", away, *given) == 0
    assert not (tmp_path / "absent.db").exists()
    assert tracking.sync([tmp_path / "cells/a-test"], away, "a-test") == "2 cells logged, 0 were there already"
    (cell,) = [r for r in logged_in(away).values() if r.data.params["condition"] == "closed_few"]
    assert cell.data.metrics["tokens_per_s"] > 0  # measured by the worker, and kept with the cell
    assert cell.data.tags["device"] == "cpu"


def test_random_weights_never_enter_an_experiment_of_real_ones(place: Path, tmp_path: Path, another: str) -> None:
    given = (f"store={tmp_path / 'store'}", "tasks=[social_iqa]", "model.weights=random", f"out={tmp_path / 'out'}")
    assert execute(place, "gpt2", another, *given) == 0
    said = tracking.sync([tmp_path / "out"], another, "a-test")
    assert said.startswith("0 cells logged")
    assert "random weights have an experiment of their own" in said
    assert logged_in(another) == {}
    client, _ = client_of(another)
    apart = client.get_experiment_by_name("a-test (random)").experiment_id
    assert len(client.search_runs([apart], "tags.kind = 'cell'")) == 2


def test_sync_reads_no_store_and_names_a_damaged_cell(
    uri: str, place: Path, kept: Path, tmp_path: Path, another: str
) -> None:
    (tmp_path / "mixed").mkdir()
    damaged, whole, *_ = sorted(kept.iterdir())
    (tmp_path / "mixed" / damaged.name).write_text(damaged.read_text().replace("sinks", "swims"))
    (tmp_path / "mixed" / whole.name).write_bytes(whole.read_bytes())
    segment = next((place / "store").glob("*.jsonl"))
    (tmp_path / "mixed" / segment.name).write_bytes(segment.read_bytes())
    (tmp_path / "mixed/task.jsonl").write_text('{"id": "t/0"}\n')
    newer = whole.read_text().replace(whole.stem, "000000000000").replace('"lettered"', '"colour": 1, "lettered"', 1)
    (tmp_path / "mixed/newer.jsonl").write_text(newer)
    said = tracking.sync([tmp_path / "mixed"], another, "a-test")
    assert said.startswith("1 cells logged, 0 were there already\n  not logged: ")
    assert f"{damaged.name} was edited" in said
    assert "newer.jsonl is not a whole cell (its header has the unknown key 'colour')" in said
    assert said.count("not logged") == 2


def test_a_kept_cell_that_is_answered_from_the_store_keeps_the_speed_it_was_computed_at(
    kept: Path, tmp_path: Path
) -> None:
    path = next(each for each in kept.iterdir() if read_header(each).recorded.metrics)
    computed = read_header(path).recorded
    fast, idle = replace(computed, metrics={"tokens": 1.0}), replace(computed, metrics={})
    assert with_speed(idle, path) == computed
    assert with_speed(fast, path) == fast
    (tmp_path / "damaged.jsonl").write_text("no cell")
    assert with_speed(idle, tmp_path / "damaged.jsonl") == idle


# ---- two programs that log at one moment ----------------------------------------------------------------------


def facts_in(path: Path) -> Facts:
    head, answers = read_cell(path)
    assert head.recorded is not None
    return facts_of(scored(head, answers, load_encoder, head.recorded.params["primary_metric"]), head.recorded)


def of_gpt2(kept: Path) -> list[Path]:
    return [path for path in sorted(kept.iterdir()) if read_header(path).model == "gpt2"]


@pytest.fixture
def each_writes_after_both_have_read() -> Iterator[threading.Event]:
    """No thread writes parameters until another one has read that they are missing. The event: this has happened."""
    from mlflow.store.tracking.dbmodels.models import SqlParam
    from sqlalchemy import event
    from sqlalchemy.orm import Session

    both, met = threading.Barrier(2, timeout=60), threading.Event()

    def wait(session: Session, *_: object) -> None:
        if any(isinstance(each, SqlParam) for each in session.new):
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait()
                met.set()

    event.listen(Session, "before_flush", wait)
    yield met
    event.remove(Session, "before_flush", wait)


def test_two_programs_that_write_at_one_moment_leave_one_run_for_each_cell(
    kept: Path, tmp_path: Path, another: str, each_writes_after_both_have_read: threading.Event
) -> None:
    folder = tmp_path / "half"
    folder.mkdir()
    for path in of_gpt2(kept):
        if read_header(path).lettered:  # needs no encoder: two threads that load one at once break transformers
            shutil.copy(path, folder)
    with ThreadPoolExecutor(2) as both:
        said = [each.result() for each in [both.submit(tracking.sync, [folder], another, "a-test") for _ in range(2)]]
    assert each_writes_after_both_have_read.is_set()
    assert said == ["2 cells logged, 0 were there already"] * 2
    found, parents = logged_in(another), logged_in(another, "model")  # refuses doubles
    assert (len(found), len(parents)) == (2, 1)
    assert {r.info.status for r in [*found.values(), *parents.values()]} == {"FINISHED"}
    assert parents["gpt2 (pilot)"].data.params["name"] == "gpt2"


def test_cells_follow_when_another_program_deletes_their_models_run_as_a_double(kept: Path, another: str) -> None:
    """The clock of the other machine is late, so its run of the model is the older one, though it came second."""
    client, experiment = opened(another, "a-test")
    model, (before, after, *_) = conf.load("model", "gpt2", Model), of_gpt2(kept)
    mine = runs.parent_run(client, experiment, model, "pilot", {})
    runs.log_cell(client, experiment, mine, facts_in(before), "run")
    client.create_run(experiment, start_time=1, run_name="gpt2 (pilot)", tags={"kind": "model"})
    theirs = runs.parent_run(client, experiment, model, "pilot", {})
    assert theirs != mine
    runs.log_cell(client, experiment, mine, facts_in(after), "run")
    runs.close(client, experiment, mine)
    (parent,) = logged_in(another, "model").values()
    assert (parent.info.run_id, parent.info.status, parent.data.metrics["cells"]) == (theirs, "FINISHED", 2)
    assert [r.data.tags["mlflow.parentRunId"] for r in logged_in(another).values()] == [theirs] * 2


def log_while_another_program_deletes_it_as_a_double(path: Path, uri: str) -> None:
    import mlflow

    class Late(mlflow.MlflowClient):
        """Another program logs the same cell, and deletes this run, after this one was found and before it is whole."""

        def log_batch(self, run_id: str, *given: Any, **named: Any) -> None:
            run = self.get_run(run_id)
            if not self.search_runs([run.info.experiment_id], "attributes.start_time < 2"):
                self.create_run(run.info.experiment_id, 1, run.data.tags, run.info.run_name)
                self.delete_run(run_id)
            super().log_batch(run_id, *given, **named)

    client, experiment = opened(uri, "a-test")
    parent = runs.parent_run(client, experiment, conf.load("model", "gpt2", Model), "pilot", {})
    runs.log_cell(Late(uri), experiment, parent, facts_in(path), "run")
    (cell,) = logged_in(uri).values()
    assert (cell.info.start_time, cell.info.status) == (1, "FINISHED")
    assert cell.data.metrics["n"] == 6


def test_a_cell_is_logged_though_another_program_deletes_its_run_as_a_double(kept: Path, another: str) -> None:
    log_while_another_program_deletes_it_as_a_double(of_gpt2(kept)[0], another)


# ---- a store of runs that fails ----------------------------------------------------------------------


def heard(work: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        work()
    return [str(w.message) for w in found if "MLflow" in str(w.message)]


def test_a_foreign_database_costs_one_line_and_no_cell(place: Path, tmp_path: Path, another: str) -> None:
    foreign = tmp_path / "mlflow.db"
    foreign.write_text("another program's file, and no database\n" * 40)
    before, uri = foreign.read_bytes(), f"sqlite:///{foreign}"
    given = (f"store={tmp_path / 'store'}", f"out={tmp_path / 'out'}")
    (said,) = heard(lambda: execute(place, "gpt2", uri, *given))
    assert "the run goes on without it" in said
    assert "python -m src.tracking sync" in said
    assert "\n" not in said
    assert foreign.read_bytes() == before
    with pytest.raises(UserError, match=r"mlflow.db cannot be opened: .*not a database.* Move it away"):
        tracking.sync([tmp_path / "cells/a-test"], uri, "a-test")
    assert tracking.sync([tmp_path / "cells/a-test"], another, "a-test").startswith("4 cells logged")


def test_no_password_of_a_uri_is_said(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in USER_OF_SERVER:  # to forget afterwards what the run puts there
        monkeypatch.setenv(name, "")
    uri, given = "http://me:secret@127.0.0.1:9/api", (f"store={tmp_path / 'store'}", "tasks=[social_iqa]")
    (said,) = heard(lambda: execute(place, "gpt2", uri, *given))
    assert "127.0.0.1" in said
    assert "secret" not in said


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["sync", "no/such/folder"], "no/such/folder is no folder. Name folders of finished cells"),
        (["sync", "tracking.experimint=x"], "experimint"),
        (["sync", "traking.uri=x"], "Unknown key 'traking'. Did you mean tracking"),
        (["sync", "tracking.uri=http://127.0.0.1:9"], "The MLflow server does not answer"),
    ],
)
def test_a_mistake_is_one_line(
    given: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tracking", *given, f"store={tmp_path / 'store'}"])
    with pytest.raises(SystemExit) as ended:
        tracking.main()
    assert str(ended.value.code).startswith("error: ")
    assert message in str(ended.value.code)
    assert "\n" not in str(ended.value.code)
    assert "Traceback" not in capsys.readouterr().err


# ---- slow: real servers, real processes, a real browser ----------------------------------------------------------


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def until(wanted: Callable[[], Any], what: str, limit: float = 120) -> Any:
    """The first true value of `wanted`, asked again and again."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        with contextlib.suppress(OSError, sqlite3.OperationalError):
            if found := wanted():
                return found
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {limit} s")


@contextlib.contextmanager
def server(database: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    store = ["--backend-store-uri", f"sqlite:///{database}"]
    store += ["--artifacts-destination", str(database.parent / "mlartifacts")]
    command = [sys.executable, "-m", "mlflow", "server", *store, "--host", "127.0.0.1", "--port", str(port)]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    quiet["env"] = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # eight idle processes
    serving = subprocess.Popen([*command, "--workers", "1"], start_new_session=True, **quiet)  # type: ignore[call-overload]
    try:
        until(lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200, "server")
        yield serving
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(serving.pid, signal.SIGKILL)
        serving.wait(timeout=30)


def finished_cells(database: Path) -> int:
    """Read past the server, as a user who opens the file would."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as found:
        query = "select count(*) from runs join tags using (run_uuid) where key = 'kind' and value = 'cell'"
        return int(found.execute(f"{query} and status = 'FINISHED'").fetchone()[0])


def started(*given: str) -> warm.Running:
    return warm.started("src.run", *given, cwd=ROOT)


@pytest.mark.slow
def test_a_server_that_goes_away_costs_one_line_and_sync_makes_it_good(place: Path, tmp_path: Path) -> None:
    port, database = free_port(), tmp_path / "server.db"
    uri = f"http://127.0.0.1:{port}"
    many = [name for name in conf.known("condition") if name.startswith("closed_") and "shifts" not in name][:8]
    given = words(place, "gpt2", uri, f"store={tmp_path / 'store'}", f"conditions=[{','.join(many)}]")
    given = [word for word in given if not word.startswith("tracking.system")]  # with system metrics
    with server(database, port) as serving:
        running = started(*given)
        until(lambda: finished_cells(database) >= 2, "two cells")
        os.killpg(serving.pid, signal.SIGKILL)
        said, complained = running.communicate(timeout=300)
    assert running.returncode == 0, complained
    assert f"{2 * len(many)} of {2 * len(many)} cells done" in said
    assert complained.count("MLflow is out of reach, the run goes on without it") == 1
    other = [line for line in complained.splitlines() if "longer than the window" not in line]  # a tiny model's
    assert len(other) == 1, complained
    before = finished_cells(database)
    assert 2 <= before < 2 * len(many)
    with server(database, port):
        asked = (f"store={tmp_path / 'store'}", f"tracking.uri={uri}", "tracking.experiment=a-test")
        done = warm.ran("src.tracking", "sync", *asked, cwd=ROOT)
        assert f"{2 * len(many) - before} cells logged" in done.stdout, done.stderr
        assert len(logged_in(uri)) == finished_cells(database) == 2 * len(many)


@pytest.mark.slow
def test_mlflows_own_ui_in_a_moved_folder_answers_with_every_artifact(kept: Path, tmp_path: Path, another: str) -> None:
    """As MLflow's users start it: in the folder, with the address of the database alone."""
    project, port = tmp_path / "a project", free_port()
    project.mkdir()
    shutil.move(another.removeprefix("sqlite:///"), project / "mlflow.db")
    tracking.sync([kept], f"sqlite:///{project / 'mlflow.db'}", "a-test")
    moved = project.rename(tmp_path / "50%25 moved, #1")
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", "sqlite:///mlflow.db", "--port", str(port)]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    quiet["env"] = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    serving = subprocess.Popen([*command, "--workers", "1"], cwd=moved, **quiet)
    address = f"http://127.0.0.1:{port}"
    try:
        until(lambda: urllib.request.urlopen(f"{address}/health", timeout=5).status == 200, "ui")
        found = {**logged_in(address), **logged_in(address, "model")}
        assert len(found) == 10
        for each in found.values():
            name = "summary.json" if each.data.tags["kind"] == "model" else "examples.json"
            page = f"{address}/get-artifact?path={name}&run_uuid={each.info.run_id}"
            assert json.loads(urllib.request.urlopen(page, timeout=20).read())["data"]
            assert client_of(address)[0].list_artifacts(each.info.run_id)
    finally:
        os.killpg(serving.pid, signal.SIGKILL)
        serving.wait(timeout=30)
    assert not project.exists()


@pytest.mark.slow
def test_two_processes_begin_one_database_and_log_into_it_at_once(place: Path, tmp_path: Path) -> None:
    """Both compute the same cells of one model: each cell and the model have one run in the end."""
    uri = f"sqlite:///{tmp_path / 'new.db'}"
    both = [started(*words(place, "gpt2", uri, f"store={tmp_path / name / 'store'}")) for name in ("one", "two")]
    for running in both:
        _, complained = running.communicate(timeout=300)
        assert running.returncode == 0
        assert "MLflow" not in complained, complained
    found, parents = logged_in(uri), logged_in(uri, "model")  # refuses doubles
    assert (len(found), len(parents)) == (4, 1)
    assert {r.info.status for r in [*found.values(), *parents.values()]} == {"FINISHED"}
    assert {r.data.tags["mlflow.parentRunId"] for r in found.values()} == {parents["gpt2 (pilot)"].info.run_id}


@pytest.mark.slow
def test_a_server_tells_of_another_program_as_a_database_does(kept: Path, tmp_path: Path) -> None:
    port = free_port()
    with server(tmp_path / "server.db", port):
        log_while_another_program_deletes_it_as_a_double(of_gpt2(kept)[0], f"http://127.0.0.1:{port}")


@pytest.mark.slow
def test_a_locked_database_costs_one_line_and_no_cell(place: Path, kept: Path, tmp_path: Path, another: str) -> None:
    """Of a run and of a sync at once, since each waits for the other program for as long as MLflow waits."""
    opened(another, "a-test")
    given = (f"store={tmp_path / 'store'}", "tasks=[social_iqa]")
    asked = ("sync", str(kept), f"tracking.uri={another}", "tracking.experiment=a-test")
    with contextlib.closing(sqlite3.connect(another.removeprefix("sqlite:///"))) as other:
        other.execute("BEGIN IMMEDIATE")
        syncing = warm.started("src.tracking", *asked, cwd=ROOT)
        (said,) = heard(lambda: execute(place, "gpt2", another, *given))
        assert "locked" in said
        _, complained = syncing.communicate(timeout=300)
    assert syncing.returncode == 1
    assert "is locked by another process" in complained
    assert tracking.sync([tmp_path / "cells/a-test"], another, "a-test").startswith("2 cells logged")


@pytest.mark.slow
def test_the_machine_is_sampled_on_the_models_run_unless_turned_off(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING", "1")
    sampled = {}
    for on in ("true", "false"):
        uri = f"sqlite:///{tmp_path / on}.db"
        given = (f"store={tmp_path / on / 'store'}", f"tracking.system_metrics={on}")
        assert execute(place, "gpt2", uri, *given) == 0
        metrics = logged_in(uri, "model")["gpt2 (pilot)"].data.metrics
        sampled[on] = {key for key in metrics if key.startswith("system/")}
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= sampled["true"]
    assert sampled["false"] == set()


@pytest.fixture(scope="module")
def page(uri: str, place: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Browser, str]]:
    port = free_port()
    with server(place / "runs.db", port):
        browser = Browser(tmp_path_factory.mktemp("profile"))
        browser("Emulation.setDeviceMetricsOverride", width=2200, height=1200, deviceScaleFactor=1, mobile=False)
        yield browser, f"http://127.0.0.1:{port}"
        browser.process.terminate()
        browser.process.wait(timeout=20)


def shown(browser: Browser, url: str, script: str, what: str) -> Any:
    """What `script` finds on the page once it finds something; a page of its own, as the UI ignores a new hash."""
    browser("Page.navigate", url="about:blank")
    browser("Page.navigate", url=url)
    return until(functools.partial(browser.run, script), what)


HEADERS = (
    "(() => { const found = [...document.querySelectorAll('.ag-header-cell')].map(e => [e.getAttribute('col-id'),"
    + ("e.getBoundingClientRect().left]); return found.length > 6 && document.querySelector('.ag-row') && found })()")
)
ROWS = """(() => { const found = {}; document.querySelectorAll('.ag-row [col-id]').forEach(e => {
  const row = e.closest('.ag-row').getAttribute('row-index');
  (found[row] ??= {})[e.getAttribute('col-id')] = e.textContent; });
  return Object.keys(found).sort((a, b) => a - b).map(i => found[i]) })()"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
@pytest.mark.parametrize("name", list(VIEWS))
def test_a_link_opens_its_columns_in_their_order_and_its_cells_flat(page: tuple[Browser, str], name: str) -> None:
    browser, address = page
    _, experiment = client_of(address)
    link = next(line.split()[0] for line in tracking.links(address, experiment).splitlines() if f"={name} " in line)
    headers = shown(browser, link, HEADERS, "the runs table")
    columns = ["{}.`{}`".format(*column.split(".")) for column in VIEWS[name].columns]
    found = [column for column, _ in sorted(headers, key=lambda each: each[1]) if column in columns]
    assert found == columns
    rows = browser.run(ROWS)
    assert len(rows) == 8
    if name == TWINS_VIEW:
        assert [row["params.`model`"] for row in rows] == [*TWINS] * 4
        assert [row["params.`tuned`"] for row in rows] == ["False", "True"] * 4


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
def test_a_run_opens_and_its_examples_are_a_table_in_which_a_script_is_text(page: tuple[Browser, str]) -> None:
    browser, address = page
    _, experiment = client_of(address)
    cell = logged_in(address)["social_iqa closed_few gpt2"]
    opened = f"{address}/#/experiments/{experiment}/runs/{cell.info.run_id}"
    text = shown(browser, opened, "(t => t?.includes('above_chance') && t)(document.body?.innerText)", "run")
    assert cell.data.tags["fingerprint"] in text
    table = "(text => text?.includes('What sinks') && text)(document.body?.innerText)"
    text = shown(browser, f"{opened}/artifacts/examples.json", table, "the table of examples")
    assert SCRIPT in text
    assert "unparsed_because" in text
    assert browser.run("document.title") != "broken"
    assert browser.run("[...document.scripts].some(each => each.textContent.includes('broken'))") is False


def test_every_finished_cell_is_kept_whole(kept: Path, place: Path) -> None:
    """Beside the store, with what only its run knew; `collect` reads it as it reads DVC's outputs."""
    for path in (place / "outputs").glob("*/*.jsonl"):
        head, answers = read_cell(path)
        again, same = read_cell(kept_path(kept, head.fingerprint))
        assert answers == same
        assert replace(again, proof=None, recorded=None) == head
        assert again.recorded.tags["device"] == "cpu"
