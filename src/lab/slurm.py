"""What Slurm says of jobs, and what it refuses, in words that name the remedy."""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from src.base.errors import UserError

REFUSALS = (
    ("generic resource", "No node has such GPUs. Without GPUs: hydra/launcher=slurm_cpu. GPUs of a type: "
     "hydra.launcher.gpus_per_node=null hydra.launcher.gres=gpu:<type>:1"),
    ("job array", "The cluster takes no array of that length (scontrol show config | grep MaxArraySize). Submit fewer "
     "jobs at once, and the others after them: hydra.sweeper.max_batch_size=<fewer than that>"),
    ("violates accounting", "Your account or QOS allows fewer or smaller jobs (sacctmgr show qos, show associations). "
     "Fewer at once: hydra.sweeper.max_batch_size=<n>; shorter: hydra.launcher.timeout_min=<minutes>"),
    ("account", "Name an account of yours (sacctmgr show associations user=$USER): hydra.launcher.account=<yours>"),
    ("partition", "Name a partition of this cluster: hydra.launcher.partition=<one of {partitions}>"),
    ("qos", "Name a QOS of yours, or none: hydra.launcher.qos=null"),
    ("time limit", "The partition allows less (sinfo): hydra.launcher.timeout_min=<minutes>; a job that meets its "
     "limit goes back into the queue"),
    ("feature", "No node has that feature: hydra.launcher.constraint=null"),
    ("memory", "No node has that much memory: hydra.launcher.mem_gb=<GB>, or null for what the partition gives"),
    ("node configuration", "No node has all that is asked. Ask for less: hydra.launcher.cpus_per_task=<n> "
     "hydra.launcher.mem_gb=<GB> hydra.launcher.gpus_per_node=<n>, or null for what the partition gives"),
    ("contact slurm", "Slurm's controller does not answer (scontrol ping). Later, the same command again"),
    ("socket timed out", "Slurm's controller is slow. It may have taken the jobs all the same: look with squeue --me, "
     "end such jobs with scancel, then the same command again"),
    ("srun", "This machine has no Slurm. Work on a login node, or take hydra/launcher=joblib"),
)  # fmt: skip
"""A piece of what sbatch says, in small letters, and what to do. The first that fits counts."""

LASTS_FOR_EVER = {
    "PartitionConfig", "PartitionNodeLimit", "PartitionTimeLimit", "BadConstraints", "InvalidAccount", "InvalidQOS",
    "AccountNotAllowed", "QOSNotAllowed", "DependencyNeverSatisfied", "JobHoldMaxRequeue", "JobHeldAdmin",
    "JobHeldUser",
}  # fmt: skip
"""Reasons why a job waits that do not pass by themselves."""

BEFORE_THE_END = {
    "PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD",
    "RESIZING", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "RESV_DEL_HOLD",
}  # fmt: skip
"""States of a job that is still going to do something."""

STOPPED = {"CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "DEADLINE", "BOOT_FAIL"}
"""States of a job that something outside it ended: the same command goes on."""

SETTLES_S = 90  # a job that is told to end has KillWait, 30 s unless the site says more


@dataclass(frozen=True)
class State:
    """A job in Slurm's list: its state, and the reason where it waits."""

    name: str
    reason: str

    @property
    def over(self) -> bool:
        """Whether the job has ended."""
        return self.name not in BEFORE_THE_END


GONE = State("GONE", "None")
"""Slurm forgets a job some minutes after its end (MinJobAge)."""


def states(jobs: Collection[str]) -> dict[str, State] | None:
    """The state of each job (`5`, or `5_0` in an array). None where Slurm does not answer now.

    It asks squeue and not sacct, because a cluster without accounting has no sacct. A user's SQUEUE_PARTITION and its
    like would hide jobs, which then look as if they had ended.
    """
    numbers = sorted({job.split("_")[0] for job in jobs})
    command = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(numbers)}", "--format=%i|%T|%r"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=60,
            env={name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode and "Invalid job id" not in done.stderr:
        return None
    rows = [row.split("|", 2) for row in done.stdout.splitlines() if row.count("|") >= 2]
    listed = {job: State(state, reason) for job, state, reason in rows}
    return {job: listed.get(job, GONE) for job in jobs}


def settled(jobs: Collection[str]) -> dict[str, State]:
    """The states of jobs once none is between two: a job that completes may begin again, or not.

    Raises UserError where Slurm does not answer.
    """
    end = time.monotonic() + SETTLES_S
    while True:
        found = states(jobs)
        if found is None:
            raise refused("Unable to contact slurm controller")
        if time.monotonic() > end or all(state.name != "COMPLETING" for state in found.values()):
            return found
        time.sleep(1)


def summary(found: Mapping[str, State]) -> str:
    """One line: how many jobs run, and why others wait."""
    counts = Counter(
        f"{state.name.lower()} ({state.reason})" if state.name == "PENDING" else state.name.lower()
        for state in found.values()
    )
    line = ", ".join(f"{number} {words}" for words, number in sorted(counts.items()))
    if stuck := sorted({state.reason for state in found.values()} & LASTS_FOR_EVER):
        numbers = ",".join(sorted({job.split("_")[0] for job in found}))
        line += (
            f". {stuck[0]} does not pass by itself: scontrol show job {numbers} says what is asked; end the jobs "
            f"(scancel {numbers}) and change it by hydra.launcher.<key>="
        )
    return line


def refused(said: str) -> UserError:
    """What sbatch said, in one line, with the remedy."""
    lines = [line.removeprefix("sbatch: error: ").strip() for line in said.splitlines() if line.strip()]
    whole = ". ".join(dict.fromkeys(line.rstrip(".") for line in lines)) or "no reason given"
    advice = next((remedy for piece, remedy in REFUSALS if piece in whole.lower()), None)
    advice = advice or "Change what is asked by hydra.launcher.<key>= (conf/hydra/launcher/slurm.yaml)"
    if "{partitions}" in advice:
        advice = advice.format(partitions=", ".join(partitions()) or "those of sinfo")
    return UserError(f"Slurm does not take the jobs: {whole}. {advice}")


def partitions() -> Sequence[str]:
    """The partitions of this cluster. Empty where Slurm does not answer."""
    try:
        done = subprocess.run(
            ["sinfo", "--noheader", "--format=%R"],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return sorted({line.strip() for line in done.stdout.splitlines() if line.strip()})


def requeued(limit: int) -> bool:
    """Put this job back into the queue, and say so. False where it was there `limit` times, or Slurm refuses."""
    job, times = _own_id(), int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    if times >= limit:
        print(
            f"job {job} was put back into the queue {times} times (hydra.launcher.max_num_timeout): it ends", flush=True
        )
        return False
    print(f"job {job} goes back into the queue, and on from there by itself ({times + 1} of {limit} times)", flush=True)
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"Slurm did not take job {job} back: {error}. The same command goes on", flush=True)
        return False
    return True


def _own_id() -> str:
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
