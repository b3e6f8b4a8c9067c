"""Shards of one model: a complete division, several processes into one store, and what a stop leaves behind."""

import json
import os
import re
import signal
import time
from dataclasses import replace

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st

from src import run
from src.base import conf, grid
from src.base.errors import UserError
from src.base.files import ROOT
from src.cell.file import read_cell
from src.lab import preemption, progress, shards
from tests import test_pipeline as line
from tests import warm
from tests.tiny import tiny

N = 120
TASKS, CONDITIONS = line.TASKS, ("closed_few", "closed_adv_zero")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    tiny("llama", folder / "weights")
    (folder / "tasks").mkdir()
    for task in TASKS:
        (folder / "tasks" / f"{task}.jsonl").write_text(line.made_up(task, N))
    return folder


def composed(words):
    grid.register()
    with initialize_config_dir(str(conf.CONF), version_base="1.3"):
        return compose("config", overrides=list(words))


def execute(place, *more, out=None):
    return run.execute(composed(line.words(place, *more, out=out)))


def started(*words, **more):
    return warm.started("src.run", *words, cwd=ROOT, env={"OMP_NUM_THREADS": "1", **more})


def keys(store):
    """The key of every record, as often as it was written."""
    whole = [row.split(b"\t") for path in store.glob("*.jsonl") for row in path.read_bytes().splitlines()]
    return [parts[1] for parts in whole if len(parts) == 3]


def wait_for_records(store, count, running):
    for _ in range(1200):
        if len(keys(store)) >= count:
            return
        assert running.poll() is None, running.communicate()
        time.sleep(0.1)
    raise AssertionError("nothing was stored within two minutes")


# ---- the division -------------------------------------------------------------------------


@given(st.lists(st.integers(0, 10**6), max_size=60), st.integers(1, 9))
def test_every_item_is_in_one_shard_and_no_shard_carries_too_much(weights, count):
    place = shards.balanced(weights, count)
    assert len(place) == len(weights)
    assert set(place) <= set(range(count))
    assert place == shards.balanced(weights, count)
    load = [sum(w for w, p in zip(weights, place, strict=True) if p == shard) for shard in range(count)]
    # Graham: no more than an equal part and one more item
    assert max(load) <= sum(weights) / count + max(weights, default=0)
    if len(weights) >= count:
        assert set(place) == set(range(count))


def test_the_shards_of_a_run_are_its_cells(place):
    whole = grid.compose_run(composed(line.words(place)))
    parts = [shards.own_cells(replace(whole, shard=shard, shards=3)) for shard in range(3)]
    names = [cell.name for part in parts for cell in part]
    assert sorted(names) == sorted(cell.name for cell in whole.cells)
    assert all(parts)


def test_longer_prompts_weigh_more(place):
    whole = grid.compose_run(composed(line.words(place, "conditions=[closed_few,closed_zero]")))
    few, zero = (shards.weight(whole, cell) for cell in whole.cells[:2])
    assert few > zero > 0
    assert shards.weight(replace(whole, limit=12), whole.cells[0]) > few


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["shard=2", "shards=2"], "shard is a whole number from 0 to 1"),
        (["shard=-1", "shards=2"], "from 0 to 1"),
        (["shard=1"], "with shards=1"),
        (["shards=0"], "1 or more"),
        (["shards=5"], "at most 4 shards"),
        (["time_limit_h=0"], "above 0"),
        (["time_limit_h=soon"], "above 0"),
    ],
)
def test_a_shard_that_does_not_exist_is_refused(place, words, said):
    with pytest.raises(UserError, match=said):
        grid.compose_run(composed([*line.words(place), *words]))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["+model=gpt2", "shards=2", "shard=0,1"], "add -m"),
        (["-m", "+model=gpt2,gpt2_xl", "task=gsm8k,codenames"], "load a model for every cell"),
        (["-m", "+model=gpt2,gpt22"], "Unknown model 'gpt22'"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused(words, said):
    with pytest.raises(UserError, match=said):
        grid.checked_overrides(words)


def test_a_sweep_over_models_and_shards_is_taken():
    words = ["-m", "+model=gpt2,gpt2_xl", "shards=2", "shard=0,1"]
    assert sorted(grid.checked_overrides(words)) == sorted(words)


# ---- a shard's output ---------------------------------------------------------------------


def test_shards_fill_one_folder_and_a_whole_run_makes_of_it_what_it_would_have_made_alone(place):
    store = f"store='{place / 'by_shards'}'"
    for shard in (0, 1):
        assert execute(place, store, "shards=2", f"shard={shard}", out="outputs/shards") == 0
    folder = place / "outputs/shards"
    assert len(list(folder.glob("*.jsonl"))) == 4
    assert {path.name for path in folder.glob("ledger*")} == {"ledger_0_of_2.json", "ledger_1_of_2.json"}
    before = keys(place / "by_shards")
    assert len(before) == len(set(before))
    assert execute(place, store, out="outputs/shards") == 0
    assert keys(place / "by_shards") == before
    assert [path.name for path in folder.glob("ledger*")] == ["ledger.json"]
    assert execute(place, f"store='{place / 'alone'}'", out="outputs/alone") == 0
    assert line.cached_bytes(folder) == line.cached_bytes(place / "outputs/alone")


def test_the_summary_has_a_line_a_condition_with_its_interval(place, capsys):
    assert execute(place, f"store='{place / 'alone'}'") == 0
    said = capsys.readouterr().out
    for condition in CONDITIONS:
        assert sum(condition in row and " to " in row for row in said.splitlines()) == 1
    assert "make ui" in said
    assert "\x1b" not in said


def test_the_interval_of_one_task_is_wilsons_and_more_tasks_make_it_narrower():
    mean, low, high = progress.interval([0.5], [16])
    assert (mean, round(low, 4), round(high, 4)) == (0.5, 0.28, 0.72)  # Wilson, 8 of 16
    _, lower, higher = progress.interval([0.5] * 4, [16] * 4)
    assert higher - lower == pytest.approx((high - low) / 2)
    assert progress.interval([0.0], [16])[2] > 0.1  # no answer right is no certainty


# ---- ending early -------------------------------------------------------------------------


def test_a_time_limit_ends_the_run_says_how_to_go_on_and_writes_nothing_for_the_pipeline(place, capsys):
    store = f"store='{place / 'limited'}'"
    assert execute(place, store, "time_limit_h=1e-9", out="outputs/limited") == preemption.AGAIN
    said = capsys.readouterr()
    assert "4 of 4 cells left" in said.err
    assert "the same command goes on" in said.err
    assert not (place / "outputs/limited").exists()
    assert execute(place, store, "time_limit_h=1e-9", "incomplete=report", out="outputs/limited") == preemption.AGAIN
    ledger = json.loads((place / "outputs/limited/ledger.json").read_text())
    assert {entry["status"] for entry in ledger} == {"not_done"}
    assert all("95% of time_limit_h" in entry["reason"] for entry in ledger)


def test_signals_are_the_systems_again_afterwards():
    with preemption.stoppable(None):
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        with pytest.raises(preemption.Stopped, match="SIGUSR1"):
            os.kill(os.getpid(), signal.SIGUSR1)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_ends_the_run_and_the_next_start_computes_only_the_rest(place, tmp_path, number):
    asked = [f"limit={N}", f"store='{tmp_path / 'store'}'", "token_budget=256", f"out='{tmp_path / 'out'}'"]
    words = line.words(place, *asked)
    running = started(*words)
    wait_for_records(tmp_path / "store", 100, running)
    running.send_signal(number)
    said, complained = running.communicate(timeout=120)
    assert running.returncode == preemption.AGAIN, complained
    assert f"stopped by {number.name}" in complained
    assert "the same command goes on" in complained
    assert "Traceback" not in complained
    assert "cells done" in said
    assert not list(tmp_path.glob("out/ledger*"))
    first = keys(tmp_path / "store")
    again = started(*words)
    again.communicate(timeout=300)
    assert again.returncode == 0
    found = keys(tmp_path / "store")
    assert len(found) == len(set(found)) > len(first) >= 100
    assert len(json.loads((tmp_path / "out/ledger.json").read_text())) == 4
    assert all(len(read_cell(path)[1]) == N for path in (tmp_path / "out").glob("*.jsonl"))


# ---- several processes --------------------------------------------------------------------


def sweep(place, folder, launcher, *more):
    given = line.words(
        place, f"store='{folder / 'store'}'", "shards=2", "shard=0,1", f"hydra/launcher={launcher}",
        f"hydra.sweep.dir='{folder / 'sweep'}'", f"tracking.uri='sqlite:///{folder / 'new.db'}'", *more,
    )  # fmt: skip
    return started("-m", *given)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "more"),
    [("joblib", ["hydra.launcher.n_jobs=2"]), ("submitit_local", ["hydra.launcher.timeout_min=9"])],
)
def test_two_processes_fill_one_store_and_one_database(place, tmp_path, launcher, more):
    import mlflow

    running = sweep(place, tmp_path, launcher, *more)
    said, complained = running.communicate(timeout=300)
    assert running.returncode == 0, complained
    assert "2 of 2 jobs done" in said
    found = keys(tmp_path / "store")
    assert len({path.name for path in (tmp_path / "store").iterdir()}) == 2  # two writers
    assert len(found) == len(set(found))
    assert execute(place, f"store='{tmp_path / 'store'}'", out="outputs/swept") == 0
    assert keys(tmp_path / "store") == found
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'new.db'}")
    experiment = client.get_experiment_by_name("a-test").experiment_id
    runs = client.search_runs([experiment], "tags.kind = 'cell'")
    assert len(runs) == len({r.data.tags["fingerprint"] for r in runs}) == 4
    assert {r.info.status for r in runs} == {"FINISHED"}


@pytest.mark.slow
def test_a_failing_cell_of_one_job_is_the_exit_code_of_the_sweep(place, tmp_path):
    running = sweep(place, tmp_path, "joblib", "hydra.launcher.n_jobs=2", "tasks=[strategyqa,social_iqa]")
    said, complained = running.communicate(timeout=300)
    assert running.returncode == 1
    assert "jobs done" in said
    assert "shard=" in complained
    assert "Traceback" not in complained
    assert "dvc repro prepare" in said


@pytest.mark.slow
def test_slurm_is_given_an_array_of_shards_that_requeues_itself(place, tmp_path):
    """With stubs in place of Slurm's commands: what is submitted is the real script. No cluster was at hand."""
    stubs = tmp_path / "bin"
    stubs.mkdir()
    for name, does in {"srun": "exit 0", "sbatch": f"cp $1 {tmp_path}/x; mv {tmp_path}/x {tmp_path}/job.sh"}.items():
        (stubs / name).write_text(f"#!/bin/sh\n{does}\necho Submitted batch job 1\n")
        (stubs / name).chmod(0o755)
    words = line.words(
        place, "shards=2", "shard=0,1", "hydra/launcher=slurm", "hydra.launcher.partition=gpu",
        f"hydra.sweep.dir='{tmp_path / 'sweep'}'", f"tracking.uri='sqlite:///{tmp_path / 'new.db'}'",
    )  # fmt: skip
    running = started("-m", *words, PATH=f"{stubs}:{os.environ['PATH']}")
    for _ in range(1200):
        if (tmp_path / "job.sh").exists() or running.poll() is not None:
            break
        time.sleep(0.1)
    running.kill()  # it waits for jobs that never come
    running.communicate()
    script = (tmp_path / "job.sh").read_text()
    for option in ("--array=0-1", "--gpus-per-node=1", "--time=720", "--signal=USR2@180", "--partition=gpu"):
        assert f"#SBATCH {option}" in script
    assert re.search(r"-m submitit\.core\.\w*submit\b", script)
