"""hydra/launcher=slurm: jobs of a cluster by submitit. It stands here because Hydra takes launchers from here alone.

submitit writes the script and starts the jobs. What differs from its own launcher: jobs that do the same already are
waited for and not begun twice; a job that was killed is named and costs no other job its result; no accounting
is needed; a run that is told to stop ends as everywhere else, and then goes back into the queue.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher

from src.base.files import whole
from src.lab import preemption, slurm

RECORD = "jobs.json"  # in the folder of an array's first job: which job does what
LATE_S = 20  # a result may be seen so much later than the end of its job, on a file system of several machines
LONGEST_PAUSE_S = 30  # between two questions to Slurm
MADE_UP = ("submitit_folder", "max_num_timeout")  # keys of the launcher that are no words of sbatch


class Launcher(SlurmLauncher):  # type: ignore[misc]
    """submitit's launcher for Slurm, which loses no job and starts none twice."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit what no job does yet, wait for all, return what each gave. Raises UserError where Slurm refuses."""
        asked = [list(words) for words in job_overrides]
        jobs = self._under_way(asked)
        if jobs:
            print(f"{len(jobs)} of {len(asked)} jobs are in the queue already: {' '.join(map(_id, jobs.values()))}")
        new = [index for index in range(len(asked)) if index not in jobs]
        if new:
            jobs |= dict(zip(new, self._submitted({i: asked[i] for i in new}, initial_job_idx), strict=True))
        numbers = " ".join(sorted({_id(job).split("_")[0] for job in jobs.values()}))
        print(f"waiting for job {numbers}, which goes on if this command ends. The same command waits for it again")
        print(f"output: {self._folder()}/<job>/<job>_0_log.out    to end it: scancel {numbers}", flush=True)
        ended = waited(list(jobs.values()))
        return [_returned(asked[index], jobs[index], ended[_id(jobs[index])]) for index in range(len(asked))]

    def __call__(self, sweep_overrides: list[str], *rest: Any) -> JobReturn:
        """One job, on a node. Slurm's warning before the end of its time stops the run, which then begins again."""
        from submitit.core.job_environment import JobEnvironment

        warning = signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]
        signal.signal(
            warning, signal.SIG_DFL
        )  # submitit's handler raises an Exception: a cell would take it for its own
        done = JobReturn(list(sweep_overrides), status=JobStatus.COMPLETED, _return_value=preemption.AGAIN)
        try:
            with preemption.stoppable(None, (warning,)) as check:
                done = super().__call__(sweep_overrides, *rest)
                check()  # the run has caught the stop, said what is left and ended
        except preemption.Stopped:
            if done.return_value == preemption.AGAIN and slurm.requeued(self.params["max_num_timeout"]):
                sys.exit(preemption.AGAIN)  # without a result, which would end the waiting for this job
        return done

    def _folder(self) -> Path:
        from submitit.core.utils import JobPaths

        return JobPaths.get_first_id_independent_folder(self.params["submitit_folder"])

    def _submitted(self, asked: Mapping[int, list[str]], first: int) -> list[Any]:
        """The submitit jobs of these overrides, as one array."""
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        own = {key for key in BaseQueueConf.__dataclass_fields__ if key not in MADE_UP}
        given = {k if k in own else f"slurm_{k}": v for k, v in self.params.items() if k not in MADE_UP}
        calls = [
            (words, "hydra.sweep.dir", first + index, f"job_id_for_{first + index}", Singleton.get_state())
            for index, words in asked.items()
        ]
        try:
            executor = submitit.AutoExecutor(
                self.params["submitit_folder"], "slurm", slurm_max_num_timeout=self.params["max_num_timeout"]
            )
            executor.update_parameters(**given)
            jobs: list[Any] = executor.map_array(self, *zip(*calls, strict=True))
        except (FailedJobError, FailedSubmissionError, RuntimeError) as error:
            raise slurm.refused(str(error)) from error
        for job in jobs:  # of an earlier Slurm, which counted its jobs from the same number
            job.paths.result_pickle.unlink(missing_ok=True)
        record = {_id(job): _meaning(words) for job, words in zip(jobs, asked.values(), strict=True)}
        with whole(jobs[0].paths.folder / RECORD) as part:
            part.write_text(json.dumps(record), encoding="utf-8")
        return jobs

    def _under_way(self, asked: Sequence[list[str]]) -> dict[int, Any]:
        """Place in `asked` -> the job that is in the queue for it, begun by an earlier start of this command."""
        from submitit import SlurmJob

        records = [json.loads(path.read_text(encoding="utf-8")) for path in self._folder().glob(f"*/{RECORD}")]
        known = {job: meaning for record in records for job, meaning in record.items()}
        wanted = {_meaning(words): place for place, words in enumerate(asked)}
        same = [job for job, meaning in known.items() if meaning in wanted]
        found = slurm.settled(same) if same else {}
        return {
            wanted[known[job]]: SlurmJob(self.params["submitit_folder"], job)
            for job, state in found.items()
            if not state.over
        }


def _id(job: Any) -> str:
    return str(job.job_id)


def _meaning(words: Sequence[str]) -> str:
    """A hash of what a job is asked: its words, and what params.yaml says for the rest."""
    from src.base import grid
    from src.base.values import digest

    return digest({"words": list(words), "params": grid.params()})


def waited(jobs: Sequence[Any]) -> dict[str, slurm.State]:
    """Wait until each job has left a result or has ended without one. Gives the last known state of each."""
    ended: dict[str, slurm.State] = {}
    left, shown, pause, ask = {_id(job): job for job in jobs}, "", 2.0, 0.0
    over_since: dict[str, float] = {}
    while left:
        for name in [name for name, job in left.items() if _result(job).exists()]:
            ended[name] = slurm.State("COMPLETED", "None")
            del left[name]
        if left and time.monotonic() >= ask:
            found = slurm.states(left)
            line = slurm.summary(found) if found is not None else "Slurm does not answer, waiting on"
            if line != shown and not (found and all(state.over for state in found.values())):
                print(f"  {line}", flush=True)
                shown = line
            for name, state in (found or {}).items():
                if not state.over:
                    over_since.pop(name, None)
                elif time.monotonic() - over_since.setdefault(name, time.monotonic()) > LATE_S:
                    ended[name] = state
                    del left[name]
            ask, pause = time.monotonic() + pause, min(LONGEST_PAUSE_S, pause * 1.2)
        if left:
            time.sleep(1)
    return ended


def _result(job: Any) -> Path:
    """The file of a job's result. Touching its folder's mode makes NFS look again."""
    path = Path(job.paths.result_pickle)
    with contextlib.suppress(OSError):  # not ours, or not there yet
        path.parent.chmod(path.parent.stat().st_mode)
    return path


def _returned(words: list[str], job: Any, state: slurm.State) -> JobReturn:
    """What a job gave. Where it was killed or stopped, that in words for the sweeper."""
    path = Path(job.paths.result_pickle)
    log = job.paths.stdout
    if not path.exists():
        if state.name in slurm.STOPPED:
            return _of(words, preemption.AGAIN)
        told = f"job {_id(job)} ended without a result ({state.name.lower()}), see {log}"
        return _of(words, f"{told}: what it had stored is safe, the same command goes on")
    outcome, result = pickle.loads(path.read_bytes())
    if outcome != "success":
        last = str(result).strip().splitlines()[-1]
        return _of(words, f"job {_id(job)}: {last}, see {log}")
    return result if result.status == JobStatus.COMPLETED else _of(words, f"job {_id(job)}: {result._return_value}")


def _of(words: list[str], value: int | str) -> JobReturn:
    return JobReturn(words, status=JobStatus.COMPLETED, _return_value=value)
