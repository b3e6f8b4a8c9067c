"""docs/lab.md, walked: its commands are read out of the page and run in a copy of the project, in their order."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from src.base.conf import CONF
from src.base.files import ROOT
from src.lab import preemption
from tests import scratch
from tests.lab.slurm import LOW, Cluster, cluster
from tests.lab.test_shards import keys, wait_for_records
from tests.tiny import tiny

STAND_INS = {"llama_7b": "llama", "falcon_7b": "falcon_7b"}  # model of the page: architecture of its random checkpoint
SOURCES = ("bigbench", "rhyming", "minilm")
HERE = {  # what the page says: what is run here in its place
    "suite=paper": f"suite=paper 'sources=[{','.join(SOURCES)}]' 'tasks=[gsm8k,logical_deduction,social_iqa]' "
    "'conditions=[closed_adv_zero,closed_adv_few]' 'seeds=[2266]' limit=40",
    "tracking.enabled=false": "tracking.enabled=false token_budget=512",  # several batches a cell, so that one is last
    "src.tracking sync": """src.tracking sync 'tracking.experiment="emergence-audit (random)"'""",
    "/shared/audit": "$PWD/../remote",
    "--m 20": "--m 5 token_budget=512",
}
MODELS, RUNNABLE = len(STAND_INS), 2 * 2  # cells of a model: tasks without gsm8k, conditions
LAUNCHER = "hydra/launcher=slurm hydra.launcher.partition=gpu"
ON_SLURM = {
    LAUNCHER: f"hydra/launcher=slurm_cpu hydra.launcher.partition={LOW}",
    "sbatch --array=0-1 --gpus=1": "sbatch --wait --array=0-1",
}
WITHOUT_SLURM = {LAUNCHER: "hydra/launcher=submitit_local hydra.launcher.timeout_min=9"}


def blocks(page: str) -> list[str]:
    """The command blocks of a page."""
    found: list[str] = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return found


@dataclass
class Day:
    """The page, block by block, in a copy of the project."""

    folder: Path
    left: Iterator[str]
    slurm: Cluster | None
    exported: dict[str, str] = field(default_factory=dict)

    def block(self, holds: str) -> str:
        """The next block, as it is run here; it is the one that holds this command."""
        text = next(self.left)
        assert holds in text
        for said, done in {**HERE, **(ON_SLURM if self.slurm else WITHOUT_SLURM)}.items():
            text = text.replace(said, done)
        return text

    def run(self, holds: str, code: int = 0) -> str:
        """What the next block prints, stderr included. Checks the exit code."""
        text = self.block(holds)
        self.exported |= dict(re.findall(r"^export (\w+)=(.*)$", text, re.MULTILINE))
        return scratch.run(self.folder, "bash", "-euc", f"exec 2>&1\n{text}", code=code, **self.exported)

    def stop(self, holds: str, records: int, number: signal.Signals) -> tuple[int, str]:
        """(exit code, what it prints) of the next block, ended by a signal when so many records are stored."""
        path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        running = subprocess.Popen(
            ["bash", "-euc", f"exec {self.block(holds)}"], cwd=self.folder, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env={**os.environ, **path, **self.exported, "PYTHONPATH": str(self.folder)},
        )  # fmt: skip
        wait_for_records(self.folder / "data/store", records, running)
        running.send_signal(number)
        said, _ = running.communicate(timeout=120)
        return running.returncode, said


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster | None]:
    with contextlib.ExitStack() as ends:
        running = None
        with contextlib.suppress(pytest.skip.Exception):
            running = ends.enter_context(cluster())
        yield running


@pytest.fixture
def day(tmp_path: Path, slurm: Cluster | None) -> Day:
    (folder := tmp_path / "login").mkdir()
    for name, architecture in STAND_INS.items():
        weights = tiny(architecture, tmp_path / "weights" / name)
        conf = CONF / f"model/{name}.yaml"
        (folder / f"conf/model/{name}.yaml").parent.mkdir(parents=True, exist_ok=True)
        stand_in = f"path: {weights}\nweights: random\ndtype: float32\n"
        (tmp_path / f"{name}.yaml").write_text(conf.read_text() + stand_in)
    scratch.clone(folder)
    for name in STAND_INS:
        (tmp_path / f"{name}.yaml").rename(folder / f"conf/model/{name}.yaml")
    scratch.commit(folder)
    for source in SOURCES:  # and no other: what lies in data/raw is part of what `infer` and `collect` depend on
        scratch.linked(ROOT / "data/raw" / source, folder / "data/raw" / source)
    (folder / ".venv").mkdir()
    (folder / ".venv/ready").touch()  # `make` takes this interpreter and installs nothing
    environment = dict(slurm.env) if slurm else {}
    return Day(folder, iter(blocks((ROOT / "docs/lab.md").read_text())), slurm, environment)


def cell_runs(folder: Path) -> int:
    """Cells in the copy's MLflow, each by its own fingerprint."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    real = client.get_experiment_by_name("emergence-audit")
    assert real is None or not client.search_runs([real.experiment_id])
    found = client.get_experiment_by_name("emergence-audit (random)")
    runs = client.search_runs([found.experiment_id], "tags.kind = 'cell'")
    assert len({run.data.tags["fingerprint"] for run in runs}) == len(runs)
    return len(runs)


@pytest.mark.slow
def test_the_day_goes_as_its_page_says(day: Day) -> None:
    store = day.folder / "data/store"

    assert "llama_7b" in day.run("src.plan suite=paper")
    day.run("src.config suite=paper")
    fetched = day.run("src.fetch suite=paper")
    assert fetched.count("already there") >= 6  # by the second fetch and by DVC: nothing is downloaded twice
    assert "tasks prepared" in fetched

    day.run("export HF_HUB_OFFLINE=1")
    code, said = day.stop("shards=2 shard=0", 10, signal.SIGUSR1)
    assert code == preemption.AGAIN, said
    assert "the same command goes on" in said
    before = keys(store)

    said = day.run("hydra/launcher=slurm", code=1)
    assert "1 of 2 jobs done" in said
    assert "shard=" in said
    outputs = [path.read_text() for path in (day.folder / "multirun/.submitit").rglob("*_log.out")]
    assert any("gsm8k/closed_adv_zero" in text and "dvc repro prepare" in text for text in outputs)
    first = keys(store)
    if day.slurm:
        day.run("sbatch --array", code=1)
        assert "gsm8k/closed_adv_zero" in "".join(path.read_text() for path in day.folder.glob("slurm-*.out"))
        assert keys(store) == first
    else:
        day.block("sbatch --array")
    assert "gsm8k/closed_adv_zero" in day.run("hydra/launcher=joblib", code=1)
    computed = keys(store)
    assert len(computed) == len(set(computed)) > len(before) >= 10
    assert not (day.folder / "mlflow.db").exists()

    assert f"{MODELS * RUNNABLE} cells logged, 0 were there already" in day.run("src.tracking sync")
    assert cell_runs(day.folder) == MODELS * RUNNABLE
    day.run("dvc repro")
    assert keys(store) == computed
    assert cell_runs(day.folder) == MODELS * RUNNABLE
    for name in STAND_INS:
        ledger = json.loads((day.folder / f"data/outputs/{name}/ledger.json").read_text())
        statuses = [entry["status"] for entry in ledger]
        assert (statuses.count("done"), statuses.count("not_runnable")) == (RUNNABLE, 2)
    assert re.search(rf"all +{MODELS * (RUNNABLE + 2)} +{MODELS * RUNNABLE} +0 +{MODELS * 2} ", day.run("src.plan"))
    assert "verdict: identical" in day.run("make verify")

    day.run("dvc push")
    there = day.run("dvc pull")
    assert there.count("Data and pipelines are up to date.") == 2
    assert not (day.folder.parent / "elsewhere/data/store").exists()

    assert day.run("make release").count("verdict: identical") == 3
    assert not list(day.left)
