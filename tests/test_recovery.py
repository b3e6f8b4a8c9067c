"""Whatever stops a stage, the next start ends in the bytes of an undisturbed one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from src import report
from src.base import conf
from src.base.files import ROOT
from src.base.grid import compose_run, params, register
from src.base.values import digest
from src.cell.store import Store
from src.engine.job import Completion, Likelihood, Request, Result
from src.question.prompts import Prompt
from tests import scratch, warm
from tests.test_pipeline import execute, made_up, words
from tests.tiny import tiny

TASK = "analytic_entailment"
pytestmark = pytest.mark.slow


def content(folder: Path, *outs: str) -> dict[str, bytes]:
    """Every file of these outs by path; hidden leftovers are none of them."""
    found = [p for out in outs for p in ((folder / out).rglob("*") if (folder / out).is_dir() else [folder / out])]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(found) if path.is_file()}


def finished(tree: Path, *command: str) -> str:
    done = warm.ran(*command, cwd=tree, both=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The code and conf, the published data, and one task's raw file of our own."""
    tree = tmp_path / "checkout"
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "data/published", tree / "data/published")
    shutil.copytree(ROOT / "data/reference", tree / "data/reference")
    shutil.copy(ROOT / "dvc.yaml", tree)
    given = params() | {"tasks": [TASK], "sources": ["minilm"]}  # no source whose other tasks would be prepared
    (tree / "params.yaml").write_text(json.dumps(given))
    task = conf.load_task(TASK)
    entry = [{"input": f"case {i}", "target_scores": {"yes": 1, "no": 0}} for i in range(task.n_source)]
    raw = tree / "data/raw" / task.source / task.file
    raw.parent.mkdir(parents=True)
    raw.write_text(json.dumps({"examples": entry}))
    source = tree / "conf/source" / f"{task.source}.yaml"  # which pins the file, as prepare asks
    pins = yaml.safe_load(source.read_text())
    (pins.get("converted") or pins["files"])[task.file] = hashlib.sha256(raw.read_bytes()).hexdigest()
    source.write_text(yaml.safe_dump(pins))
    return tree


KILLED_AT = """
import os, runpy, sys
place, end, module = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
here, parent, writes = os.getcwd(), os.getpid(), 0
outs = (here + "/data", here + "/reports")
def hook(event, args):
    global writes
    changes = event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir") or (
        event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR))
    named = changes and not isinstance(args[0], int)  # what is opened by number was opened by name before
    if named and os.getpid() == parent and os.path.abspath(os.fsdecode(args[0])).startswith(outs):
        writes += 1
        if writes == place:
            os.kill(parent, end)
sys.addaudithook(hook)
sys.argv = sys.argv[3:]
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
finally:
    print("writes", writes)
"""
"""Runs a module and stops it before its n-th change under data/ or reports/: opening to write, rename, removal."""


def stopped_at(tree: Path, place: int, end: signal.Signals, command: str) -> tuple[int, str]:
    done = warm.ran("-c", KILLED_AT, str(place), str(int(end)), *command.split(), cwd=tree)
    return done.returncode, done.stderr + done.stdout


def test_prepare_is_stopped_at_every_single_write(checkout: Path) -> None:
    """What stands under its own name is whole at each of them, and the next run ends in the undisturbed bytes."""
    finished(checkout, "src.prepare")
    undisturbed = content(checkout, "data/tasks")
    for place in range(1, 60):
        end = (signal.SIGKILL, signal.SIGTERM)[place % 2]
        code, said = stopped_at(checkout, place, end, "src.prepare")
        if code == 0:
            break
        assert code == -end, said
        for path, whole in content(checkout, "data/tasks").items():
            assert path.endswith(".part") or whole == undisturbed[path], f"half-written {path} at write {place}"
    assert code == 0
    assert place > 5
    assert content(checkout, "data/tasks") == undisturbed


STAGES: dict[str, tuple[str, ...]] = {  # as dvc.yaml has them behind `infer`, and what each makes
    "src.verify --publish": ("reports/hashes",), "src.collect": ("data/scores.parquet",), "src.stats": ("data/stats",),
    "src.audit": ("data/audit",), "src.fidelity": ("data/fidelity",), "src.report": tuple(report.OUTS),
}  # fmt: skip


def test_each_later_stage_is_stopped_at_a_seeded_write(checkout: Path) -> None:
    """The next start gives the bytes of an undisturbed one."""
    finished(checkout, "src.prepare")
    weights = tiny("llama", checkout / "weights")
    grid = ["limit=4", "seeds=[2266]", "conditions=[closed_adv_zero,closed_adv_few]", "tracking.enabled=false"]
    given = ["+model=llama_7b", f"model.path='{weights}'", "model.weights=random", "model.tasks=null"]
    finished(checkout, "src.run", *given, *grid, "out=data/outputs/llama_7b")
    chance = random.Random(7)
    for n, (command, made) in enumerate(STAGES.items()):
        end = (signal.SIGKILL, signal.SIGTERM)[n % 2]
        code, said = stopped_at(checkout, 0, end, command)
        assert code == 0, said
        undisturbed, writes = content(checkout, *made), int(said.split()[-1])
        assert undisturbed
        for path in undisturbed:  # as DVC does before a stage
            (checkout / path).unlink()
        assert stopped_at(checkout, chance.randint(1, writes), end, command)[0] == -end, command
        finished(checkout, *command.split())
        assert content(checkout, *made) == undisturbed, command


def test_a_disk_that_fills_up_leaves_the_old_file_and_no_other(checkout: Path) -> None:
    finished(checkout, "src.prepare")
    undisturbed = content(checkout, "data/tasks")
    before = conf.load_task(TASK).n_source
    assert before > 0
    full = warm.ran("src.prepare", cwd=checkout, both=True, largest=900)
    assert full.returncode == 1
    assert "error: prepare: File too large" in full.stdout
    assert "Traceback" not in full.stdout
    left = content(checkout, "data/tasks")
    assert all(undisturbed[path] == left[path] for path in left)
    finished(checkout, "src.prepare")
    assert content(checkout, "data/tasks") == undisturbed


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recovery")
    tiny("llama", folder / "weights")
    (folder / "tasks").mkdir()
    for task in ("analytic_entailment", "social_iqa"):
        (folder / f"tasks/{task}.jsonl").write_text(made_up(task))
    return folder


def test_runs_of_the_same_cells_at_once_and_a_locked_database(place: Path) -> None:
    """All end with the same cells, two in one folder; the runs' database is held by another program all the while."""
    execute(place, out="alone")
    with contextlib.closing(sqlite3.connect(place / "runs.db")) as locked:
        locked.execute("BEGIN EXCLUSIVE")
        several = [
            warm.started("src.run", *words(place, f"store='{place / 'both'}'", out=out), cwd=ROOT, both=True)
            for out in ("one", "two", "two")
        ]
        said = [running.communicate(timeout=400)[0] for running in several]
    assert [running.returncode for running in several] == [0, 0, 0], said
    assert "Traceback" not in "".join(said)
    same(place, "alone", "one")
    same(place, "alone", "two")


@pytest.mark.filterwarnings("ignore:MLflow is out of reach")
def test_a_store_cut_anywhere_is_filled_up_again(place: Path, tmp_path: Path) -> None:
    asked = [f"store='{tmp_path / 'store'}'", "tracking.uri='http://127.0.0.1:9'"]
    execute(place, *asked, out="whole")
    (segment,) = (tmp_path / "store").glob("*.jsonl")
    os.truncate(segment, random.Random(3).randrange(segment.stat().st_size))
    execute(place, *asked, out="again")
    same(place, "whole", "again")


def same(place: Path, one: str, other: str) -> None:
    """Same cells, prompts and texts, to the byte; a log-likelihood to 1e-4: it depends on what shares its batch."""
    files = sorted(path.name for path in (place / one).iterdir())
    assert files == sorted(path.name for path in (place / other).iterdir())
    assert len(files) == 5
    for name in files:
        ours, theirs = ((place / folder / name).read_text() for folder in (one, other))
        number = r"-\d+\.\d+(?:e-?\d+)?"
        assert re.sub(number, "x", ours) == re.sub(number, "x", theirs), name
        found = [[float(x) for x in re.findall(number, text)] for text in (ours, theirs)]
        assert found[0] == pytest.approx(found[1], rel=1e-4), name


def test_the_lock_of_a_killed_dvc_does_not_stop_the_next(tmp_path: Path) -> None:
    scratch.run(tmp_path, "git", "init", "-q")
    scratch.run(tmp_path, "python", "-m", "dvc", "init", "-q")
    work = "test -e go || (touch begun; sleep 600); echo done > out"
    (tmp_path / "dvc.yaml").write_text(json.dumps({"stages": {"a": {"cmd": work, "outs": ["out"]}}}))
    repro = [sys.executable, "-m", "dvc", "repro"]
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    running = subprocess.Popen(repro, cwd=tmp_path, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
    while not (tmp_path / "begun").exists():
        assert running.poll() is None
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    (tmp_path / "go").touch()
    scratch.run(tmp_path, "python", "-m", "dvc", "repro")
    assert (tmp_path / "out").read_text() == "done\n"


class Parrot:
    """An Engine that answers every prompt with its first option, as fast as it is asked."""

    def completion_key(self, prompt: Prompt, seed: int) -> str:
        return digest(["completion", prompt.prefix, prompt.text, prompt.options, seed])

    def likelihood_key(self, prompt: Prompt) -> str:
        return digest(["likelihood", prompt.prefix, prompt.text, prompt.continuations])

    def run(self, requests: Sequence[Request], among: Sequence[Request] = ()) -> Iterator[list[Result]]:
        for request in requests:
            said = {seed: Completion(" (a)", 3, "eos") for seed in request.seeds}
            scored = tuple(-1.0 for _ in request.prompt.continuations)
            yield [
                Result(request.prompt.id, said, Likelihood(scored, (1,) * len(scored)) if request.likelihood else None)
            ]

    def describe(self) -> dict[str, str | int | float]:
        return {"engine": "parrot"}


def resident() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def test_three_hundred_cells_in_one_process_keep_memory_flat(place: Path, tmp_path: Path) -> None:
    """Over the last two hundred cells memory grows by less than 30 MB; every cell is one MLflow run."""
    from hydra import compose, initialize_config_dir
    from mlflow import MlflowClient

    from src import run
    from src.lab import runs

    (tmp_path / "tasks").mkdir()
    tasks = [task for task in conf.known("task") if not conf.load_task(task).exemplar_options]  # not of our data
    for task in tasks:
        (tmp_path / f"tasks/{task}.jsonl").write_text(made_up(task))
    conditions = [name for name in conf.known("condition") if name.startswith("closed_adv_") and "shifts" not in name]
    uri = f"sqlite:///{tmp_path / 'runs.db'}"
    asked = [*words(place)[:3], "limit=4", f"data='{tmp_path / 'tasks'}'", f"store='{tmp_path / 'store'}'",
             f"tasks=[{','.join(tasks)}]", f"conditions=[{','.join(conditions)}]",
             f"tracking.uri='{uri}'", "tracking.experiment=soak"]  # fmt: skip
    register()
    memory: list[int] = []
    with initialize_config_dir(str(conf.CONF), version_base="1.3"):
        first = compose_run(compose("config", overrides=[*asked, "seeds=[1]"]))
        again = compose_run(compose("config", overrides=[*asked, "seeds=[2]"]))
    todo = [(each, cell) for each in (first, again) for cell in each.cells][:300]
    assert len(todo) == 300
    with runs.model_run(first) as tracker:
        store = Store(first.store)
        for each, cell in todo:
            bench = run.Bench(each, Parrot(), store, lambda _: None, tracker, lambda: None)  # type: ignore[arg-type, return-value]
            found = run.finished(bench, cell, run.answer(bench, cell, lambda *_: None), lambda: None)
            assert found.entry.status == run.DONE, found.entry.reason
            memory.append(resident())
    assert memory[-1] - memory[100] < 30e6
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("soak").experiment_id
    runs = client.search_runs([experiment], "tags.kind = 'cell'", max_results=1000)
    assert len({found.data.tags["fingerprint"] for found in runs}) == len(runs) == 300
    assert len(Store(first.store)) == len(store)
