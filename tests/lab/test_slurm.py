"""Shards as jobs of a real Slurm (tests/lab/slurm.py), stopped, killed and begun again: the bytes of one process.

The commands are those of docs/cluster.md, with a tiny random checkpoint in the place of the weights.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shlex
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from src.base.files import ROOT
from src.lab import preemption
from tests import scratch, warm
from tests import test_pipeline as line
from tests.lab.slurm import HIGH, LOW, Cluster, cluster
from tests.lab.test_shards import keys
from tests.tiny import tiny

pytestmark = pytest.mark.slow
N = 120
SOME = 12  # records of a shard that is well under way, of some hundred


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


@dataclass(frozen=True)
class Lab:
    """A project in a folder with a space, and a Slurm that runs its jobs."""

    folder: Path
    slurm: Cluster

    @property
    def project(self) -> Path:
        return self.folder / "project"

    def words(self, name: str) -> list[str]:
        """What is asked: four cells without BERTScore, in small batches, into folders of this name."""
        asked = (
            "conditions=[closed_adv_few,closed_adv_zero]",
            f"limit={N}",
            "token_budget=64",
            "tracking.enabled=false",
        )
        store, sweep = (f"'{self.folder / name / part}'" for part in ("store", "sweep"))
        return line.words(self.folder, *asked, f"store={store}", f"hydra.sweep.dir={sweep}", out=f"{name}/out")

    def start(self, *words: str) -> warm.Running:
        own = {"OMP_NUM_THREADS": "1", "SQUEUE_PARTITION": "another"}  # some have such a thing in their shell
        return warm.started("src.run", *words, cwd=self.project, env={**self.slurm.env, **own})

    def sweep(self, name: str, launcher: str = "slurm_cpu", *more: str) -> warm.Running:
        """docs/cluster.md, "A Slurm cluster": the command that waits."""
        return self.start("-m", *self.words(name), "shards=2", "shard=0,1", f"hydra/launcher={launcher}", *more)

    def submit(self, name: str, *options: str) -> str:
        """docs/cluster.md, "Without submitit": the page's own line, without a GPU; its number."""
        page = (ROOT / "docs/cluster.md").read_text()
        found = re.search(r"^sbatch --array=0-7 --gpus=1 (.*?)^```", page, re.MULTILINE | re.DOTALL)
        assert found
        asked = shlex.join(self.words(name)).replace("'", "'\\''")
        text = found[1].replace("+model=llama_7b suite=paper", asked).replace("shards=8", "shards=2")
        assert asked in text
        given = ("--parsable", f"--output={self.folder / name}/%A_%a.out", *options)
        command = f"mkdir -p {shlex.quote(str(self.folder / name))}; sbatch {shlex.join(given)} {text}"
        return scratch.run(self.project, "bash", "-euc", command, **self.slurm.env, OMP_NUM_THREADS="1").strip()

    def under_way(self, name: str, running: warm.Running | None = None, of: int = 2) -> None:
        """Wait until so many processes have stored some records each."""

        def is_so() -> bool:
            assert running is None or running.poll() is None, running.communicate()
            files = [*(self.folder / name / "store").glob("*.jsonl")]
            return sum(path.read_bytes().count(b"\n") >= SOME for path in files) >= of

        self.slurm.wait(is_so)

    def held(self, name: str) -> dict[str, int]:
        """Two running jobs and their processes. Each is stopped once it has stored some records, so that none ends
        before the test acts."""
        stopped: dict[str, int] = {}

        def both() -> bool:
            running = [job for job, state in self.slurm.states().items() if state == "RUNNING" and job not in stopped]
            for job in running:
                process = self.slurm.process(job)
                files = [*(self.folder / name / "store").glob(f"*-{process}-*.jsonl")]  # a store names its writer
                if process and sum(path.read_bytes().count(b"\n") for path in files) >= SOME:
                    os.kill(process, signal.SIGSTOP)
                    stopped[job] = process
            return len(stopped) == 2

        self.slurm.wait(both)
        return stopped

    def written(self, name: str) -> list[bytes]:
        return keys(self.folder / name / "store")

    def outputs(self, name: str) -> str:
        """What the jobs printed."""
        files = [*(self.folder / name).rglob("*_log.out"), *(self.folder / name).glob("*.out")]
        return "\n".join(path.read_text() for path in files)

    def compare(self, name: str) -> None:
        """The whole run computes nothing, no answer was computed twice, cells and ledger are those of one process."""
        before = self.written(name)
        assert len(before) == len(set(before))
        done = self.start(*self.words(name))
        assert done.wait(900) == 0, done.communicate()
        assert self.written(name) == before
        assert line.cached_bytes(self.folder / name / "out") == self.alone

    @functools.cached_property
    def alone(self) -> dict[str, bytes]:
        """The cells and the ledger of one process that nobody stopped."""
        done = self.start(*self.words("alone"))
        assert done.wait(900) == 0, done.communicate()
        return line.cached_bytes(self.folder / "alone/out")


@pytest.fixture(scope="module")
def lab(slurm: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder = tmp_path_factory.mktemp("a lab with a space")
    (folder / "project").mkdir()
    scratch.clone(folder / "project")
    tiny("llama", folder / "weights")
    (folder / "tasks").mkdir()
    for task in line.TASKS:
        of_its_own = line.made_up(task, N).replace("What ", f"In {task}, what ")  # equal prompts would be asked twice
        (folder / "tasks" / f"{task}.jsonl").write_text(of_its_own)
    return Lab(folder, slurm)


def ended(running: warm.Running, code: int) -> str:
    """What a command printed on both streams. Checks its exit code."""
    said = "".join(running.communicate(timeout=900))
    assert running.returncode == code, said
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize(
    ("launcher", "more", "remedy"),
    [
        ("slurm", [], "hydra/launcher=slurm_cpu"),
        ("slurm_cpu", ["hydra.launcher.partition=gpu"], "hydra.launcher.partition=<one of high, low>"),
        ("slurm_cpu", ["hydra.launcher.mem_gb=999"], "hydra.launcher.mem_gb=<GB>"),
        ("slurm_cpu", ["hydra.launcher.constraint=a100"], "hydra.launcher.constraint=null"),
    ],
)
def test_what_slurm_refuses_is_said_with_the_key_to_change(lab, launcher, more, remedy):
    said = ended(lab.sweep("refused", launcher, *more), 1)
    assert "error: Slurm does not take the jobs: " in said
    assert remedy in said
    assert not lab.written("refused")


def test_a_job_that_can_never_run_is_said_to_wait_for_ever(lab):
    waiting = lab.sweep("greedy", "slurm_cpu", "hydra.launcher.cpus_per_task=8")
    lab.slurm.wait(lambda: "PENDING" in lab.slurm.states().values() or waiting.poll() is not None)
    time.sleep(4)
    waiting.terminate()
    said = ended(waiting, preemption.AGAIN)
    assert "PartitionConfig does not pass by itself" in said
    [number] = re.findall(r"to end it: scancel (\d+)", said)
    lab.slurm.said("scancel", number)


def test_two_tasks_at_once_one_warned_of_its_end_and_the_waiting_command_begun_again(lab):
    waiting = lab.sweep("array")
    lab.under_way("array", waiting)  # both have a file in the store: they run at once
    waiting.terminate()
    assert "which goes on if this command ends" in ended(waiting, preemption.AGAIN)
    again = lab.sweep("array")
    before = lab.slurm.states()
    [first, second] = [job for job, state in before.items() if state == "RUNNING"]
    lab.slurm.said("scancel", "--signal=USR2", first)  # as Slurm does signal_delay_s before the limit
    said = ended(again, 0)
    assert f"2 of 2 jobs are in the queue already: {first} {second}" in said
    assert "2 of 2 jobs done" in said
    assert lab.slurm.states().keys() == before.keys()  # no second array
    assert (lab.slurm.fields(first)["Restarts"], lab.slurm.fields(second)["Restarts"]) == ("1", "0")
    assert "stopped by SIGUSR2: every finished batch is in the example store" in lab.outputs("array")
    assert "goes back into the queue, and on from there by itself (1 of 20 times)" in lab.outputs("array")
    lab.compare("array")


def test_a_job_goes_back_only_as_often_as_allowed(lab):
    waiting = lab.sweep("once", "slurm_cpu", "hydra.launcher.max_num_timeout=0")
    lab.under_way("once", waiting)
    tasks = [job for job, state in lab.slurm.states().items() if state == "RUNNING"]
    for job in tasks:
        lab.slurm.said("scancel", "--signal=USR2", job)
    assert "stopped: the same command goes on" in ended(waiting, preemption.AGAIN)
    lab.slurm.wait(lambda: [lab.slurm.states()[job] for job in tasks] == ["COMPLETED"] * 2)
    before = len(lab.written("once"))
    ended(lab.sweep("once"), 0)
    assert len(lab.written("once")) > before
    lab.compare("once")


def test_a_killed_task_and_a_cancelled_one_are_named_and_the_same_command_goes_on(lab):
    waiting = lab.sweep("killed")
    (first, process), (second, _) = sorted(lab.held("killed").items())
    os.kill(process, signal.SIGKILL)  # as the kernel does where memory is out
    lab.slurm.said("scancel", second)
    said = ended(waiting, 1)
    assert "0 of 2 jobs done" in said
    assert re.search(
        rf"shard=0: job {first} ended without a result \(failed\), see .*: what it had stored is safe", said
    )
    assert re.search(r"shard=1: stopped: the same command goes on", said)
    ended(lab.sweep("killed"), 0)
    lab.compare("killed")


def test_a_higher_partition_and_a_node_that_goes_down_put_jobs_back_and_they_go_on(lab):
    waiting = lab.sweep("preempted", "slurm_cpu", f"hydra.launcher.partition={LOW}")
    lab.under_way("preempted", waiting)
    tasks = [job for job, state in lab.slurm.states().items() if state == "RUNNING"]
    other = lab.slurm.said("sbatch", "--parsable", f"--partition={HIGH}", "--cpus-per-task=2", "--output=/dev/null",
                           "--wrap=sleep 1")  # fmt: skip
    lab.slurm.wait(lambda: lab.slurm.states()[other] == "COMPLETED")
    lab.slurm.wait(lambda: [lab.slurm.states()[job] for job in tasks] == ["RUNNING"] * 2)
    node = f"NodeName={lab.slurm.node}"
    lab.slurm.said("scontrol", "update", node, "State=DOWN", "Reason=test")
    lab.slurm.wait(lambda: [lab.slurm.states()[job] for job in tasks] == ["PENDING"] * 2)
    with contextlib.suppress(AssertionError):  # a node whose slurmd lives may have come back by itself
        lab.slurm.said("scontrol", "update", node, "State=RESUME")
    assert "2 of 2 jobs done" in ended(waiting, 0)
    assert [lab.slurm.fields(job)["Restarts"] for job in tasks] == ["2", "2"]
    lab.compare("preempted")


def test_the_line_without_submitit_goes_on_after_a_warning_and_ends_where_it_is_cancelled(lab):
    number = lab.submit("plain", "--array=0-2")  # two shards: task 2 is beyond them
    lab.under_way("plain")
    lab.slurm.said("scancel", "--signal=USR1", f"{number}_0")  # as Slurm does 180 s before the limit
    lab.slurm.wait(lambda: lab.slurm.fields(f"{number}_0")["Restarts"] == "1")
    lab.slurm.said("scancel", f"{number}_1")
    lab.slurm.wait(lambda: not {"RUNNING", "PENDING", "COMPLETING"} & {*lab.slurm.states().values()})
    state = {task: lab.slurm.fields(f"{number}_{task}") for task in range(3)}
    assert [state[task]["JobState"] for task in range(3)] == ["COMPLETED", "CANCELLED", "FAILED"]
    assert state[2]["ExitCode"] == "1:0"
    said = lab.outputs("plain")
    assert "with shards=2, shard is a whole number from 0 to 1" in said
    assert "stopped by SIGUSR1: every finished batch is in the example store; the same command goes on" in said
    again = lab.submit("plain", "--array=1")
    lab.slurm.wait(lambda: lab.slurm.fields(f"{again}_1")["JobState"] == "COMPLETED")
    lab.compare("plain")
