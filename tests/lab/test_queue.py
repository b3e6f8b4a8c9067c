"""What Slurm says, in our words. The texts of sbatch are those of Slurm 22.05 (tests/lab/test_slurm.py hears them)."""

from __future__ import annotations

import pytest

from src.lab import slurm
from src.lab.slurm import State


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("sbatch: error: Invalid generic resource (gres) specification", "hydra/launcher=slurm_cpu"),
        ("sbatch: error: invalid partition specified: gpu\n"
         "sbatch: error: Batch job submission failed: Invalid partition name specified", "hydra.launcher.partition="),
        ("sbatch: error: Memory specification can not be satisfied\n"
         "sbatch: error: Batch job submission failed: Requested node configuration is not available", "mem_gb="),
        ("sbatch: error: Batch job submission failed: Requested node configuration is not available", "cpus_per_task="),
        ("sbatch: error: Batch job submission failed: Invalid feature specification", "constraint=null"),
        ("sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
         "hydra.launcher.account="),
        ("sbatch: error: Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)",
         "hydra.launcher.timeout_min="),
        ("sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
         "scontrol ping"),
        ("sbatch: error: Batch job submission failed: Invalid job array specification",
         "hydra.sweeper.max_batch_size="),
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates "
         "accounting/QOS policy (job submit limit, user's size and/or time limits)", "hydra.sweeper.max_batch_size="),
        ("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", "squeue --me"),
        ('Could not detect "srun", are you indeed on a slurm cluster?', "hydra/launcher=joblib"),
        ("sbatch: error: something new", "conf/hydra/launcher/slurm.yaml"),
    ],
)  # fmt: skip
def test_a_refusal_is_one_line_that_names_what_to_change(said, remedy):
    error = str(slurm.refused(said))
    assert remedy in error
    assert "\n" not in error
    assert "sbatch: error" not in error


def test_the_reason_why_jobs_wait_is_shown_and_one_that_never_passes_is_named():
    line = slurm.summary({"5_0": State("RUNNING", "None"), "5_1": State("PENDING", "Resources")})
    assert line == "1 pending (Resources), 1 running"
    stuck = slurm.summary({"5_0": State("PENDING", "PartitionConfig"), "6": State("PENDING", "PartitionConfig")})
    assert stuck.startswith("2 pending (PartitionConfig). PartitionConfig does not pass by itself")
    assert "scancel 5,6" in stuck


def test_without_slurm_nothing_is_known_of_a_job(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert slurm.states(["5_0"]) is None
    assert not slurm.partitions()


def test_a_users_own_view_of_the_queue_hides_no_job(monkeypatch, tmp_path):
    squeue = tmp_path / "squeue"  # it obeys this variable as Slurm's does
    squeue.write_text("#!/bin/sh\n[ -z \"$SQUEUE_PARTITION\" ] && echo '5_0|RUNNING|None'\nexit 0\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("SQUEUE_PARTITION", "another")
    assert slurm.states(["5_0"]) == {"5_0": State("RUNNING", "None")}
