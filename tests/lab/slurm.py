"""A Slurm of this machine alone, for tests: one node of two processors, two partitions, no GPU, no accounts.

Everything of it lies in a temporary folder, on free ports, with a key of its own. A cluster that this machine belongs
to is neither asked nor touched: all commands go by SLURM_CONF.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")
PLACES = f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin{os.pathsep}/usr/local/sbin"
LOW, HIGH = "low", "high"  # a job of `high` puts jobs of `low` back into the queue

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmctldPort={controller}
SlurmdPort={node}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobRequeue=1
KillWait=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SchedulerParameters=sched_interval=2,batch_sched_delay=0,bf_interval=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 CoresPerSocket=2 RealMemory=1000
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1
PartitionName=high Nodes=ALL MaxTime=INFINITE PriorityTier=9 PreemptMode=OFF
"""


@dataclass(frozen=True)
class Cluster:
    """A running Slurm: its folder, the name of its node, and what a command needs in its environment."""

    folder: Path
    node: str

    @functools.cached_property
    def env(self) -> dict[str, str]:
        """Variables for commands: SLURM_CONF, and this interpreter first, as an activated .venv has it."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{PLACES}"
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": path}

    def said(self, *words: str, cwd: Path | None = None) -> str:
        """The output of a command of Slurm. Its exit code is 0."""
        done = subprocess.run(
            words, cwd=cwd, env={**_clean(), **self.env}, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def states(self) -> dict[str, str]:
        """Each job, and each task of an array, with its state."""
        rows = self.said("squeue", "--noheader", "--array", "--states=all", "--format=%i %T").splitlines()
        return dict(row.split() for row in rows)

    def fields(self, job: str) -> dict[str, str]:
        """What Slurm knows of a job: JobState, ExitCode, Restarts and more."""
        words = self.said("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, what: Callable[[], bool], seconds: float = 600) -> None:
        """Wait until something is so."""
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, f"it is not so after {seconds:.0f} s: {self.states()}"
            time.sleep(0.2)

    def process(self, job: str) -> int | None:
        """The number of the process that a job's step runs. None before it has begun."""
        rows = [row.split() for row in self.said("scontrol", "listpids", self.fields(job)["JobId"]).splitlines()[1:]]
        return next((int(row[0]) for row in rows if row[2] == "0" and row[3] == "0"), None)


def _clean() -> dict[str, str]:
    """This environment without what a real cluster, on which the test itself may be a job, has put there."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "SBATCH", "SUBMITIT"))}


def _absent() -> list[str]:
    return [name for name in PROGRAMS if not shutil.which(name, path=PLACES)]


def installed() -> None:
    """Install Slurm where root may and apt knows it. Skips the test, with the reason, where it cannot be had."""
    if not _absent():
        return
    if sys.platform != "linux" or not shutil.which("apt-get"):
        pytest.skip(f"needs Slurm: {', '.join(_absent())} are not here, and no apt-get")
    if os.geteuid():
        pytest.skip(f"needs Slurm: {', '.join(_absent())} are not here (apt-get install slurm-wlm munge)")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "slurm-wlm", "munge"]
    for words in (["apt-get", "update", "-qq"], install):
        done = subprocess.run(words, env=quiet, capture_output=True, text=True, check=False, timeout=300)
    if _absent():
        pytest.skip(f"needs Slurm, which apt-get could not install: {done.stderr.strip()[-300:]}")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """A running Slurm. It ends with its jobs when the context does, and when this process dies."""
    installed()
    with tempfile.TemporaryDirectory(prefix="slurm", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder, host = (
            Path(name),
            socket.gethostname().split(".")[0],
        )  # a socket's path is short, so not pytest's folder
        folder.chmod(0o755)
        for part in ("state", "spool"):
            (folder / part).mkdir()
        (folder / "munge.key").write_bytes(secrets.token_bytes(128))
        (folder / "munge.key").chmod(0o400)
        ports = {"controller": _free_port(), "node": _free_port()}
        conf = CONF.format(host=host, user=getpass.getuser(), folder=folder, **ports)
        (folder / "slurm.conf").write_text(conf)
        cgroups = "CgroupPlugin=disabled\n" if _version() >= (24, 5) else ""  # an older slurmd knows no such word
        (folder / "cgroup.conf").write_text(cgroups)
        here = Cluster(folder, host)
        files = {word: f"--{word}-file={folder}/munge.{word}" for word in ("key", "pid", "log", "seed")}
        munged = ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *files.values()]
        with contextlib.ExitStack() as ends:
            _start(ends, here, munged)
            for _ in range(100):
                if (folder / "munge.socket").exists():
                    break
                time.sleep(0.1)
            _start(ends, here, ["slurmctld", "-D"])
            _start(ends, here, ["slurmd", "-D", "-N", host])
            ends.callback(_end_jobs, here)
            _wait_until_idle(here)
            yield here


def _start(ends: contextlib.ExitStack, here: Cluster, words: list[str]) -> None:
    """Start a daemon, which ends with `ends`."""
    program = str(shutil.which(words[0], path=PLACES))
    tied = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []  # should this process be killed
    output = (here.folder / f"{words[0]}.out").open("wb")
    daemon = subprocess.Popen(
        [*tied, program, *words[1:]], env={**_clean(), **here.env}, stdout=output, stderr=output, start_new_session=True
    )
    ends.callback(output.close)
    ends.callback(_stop, daemon)


def _stop(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(15)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _end_jobs(here: Cluster) -> None:
    """End every job, so that no step outlives its node."""
    words = ["scancel", f"--user={getpass.getuser()}"]
    subprocess.run(words, env={**_clean(), **here.env}, capture_output=True, check=False, timeout=60)
    with contextlib.suppress(AssertionError):
        here.wait(lambda: not {"RUNNING", "PENDING", "COMPLETING"} & {*here.states().values()}, 30)


def _wait_until_idle(here: Cluster) -> None:
    """Wait for the node. Skips the test where Slurm does not start, as without the cgroups that it wants."""
    words = ["sinfo", "--noheader", "--format=%T"]
    for _ in range(120):
        done = subprocess.run(words, env={**_clean(), **here.env}, capture_output=True, text=True, check=False)
        if "idle" in done.stdout:
            return
        time.sleep(0.5)
    logs = [path for path in sorted(here.folder.iterdir()) if path.suffix in (".out", ".log")]
    lines = [line for path in logs for line in path.read_text().splitlines() if "error" in line]
    pytest.skip(f"Slurm does not start here: {'; '.join(lines[-3:]) or done.stderr.strip()}")


def _version() -> tuple[int, int]:
    """Slurm's year and month, e.g. (22, 5)."""
    program = str(shutil.which("slurmctld", path=PLACES))  # the commands of users want a slurm.conf first
    said = subprocess.run([program, "-V"], capture_output=True, text=True, check=False).stdout
    year, month = re.findall(r"\d+", said)[:2]
    return int(year), int(month)
