"""The sweeper of `python -m src.run -m`. It stands here because Hydra takes a sweeper from this package only."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.utils import JobReturn

from src.base.errors import UserError
from src.lab import preemption


class Sweeper(BasicSweeper):
    """Hydra's basic sweeper, whose process ends as its jobs did."""

    def sweep(self, arguments: list[str]) -> None:
        """Run every job, name those that did not end well, exit as `concluded` says."""
        try:
            with preemption.stoppable(None):
                batches = super().sweep(arguments)
        except preemption.Stopped as stop:
            print(f"stopped by {stop}: the same command goes on with what is left", file=sys.stderr)
            sys.exit(preemption.AGAIN)
        except KeyboardInterrupt:
            sys.exit("interrupted: the same command goes on with what is left")
        except UserError as error:  # of a launcher
            sys.exit(f"error: {error}")
        sys.exit(concluded([job for batch in batches for job in batch]))


def concluded(jobs: Sequence[JobReturn]) -> int:
    """Name each job that did not end well. 0, preemption.AGAIN where these were all stopped, else 1."""
    bad = [job for job in jobs if job.return_value]
    print(f"{len(jobs) - len(bad)} of {len(jobs)} jobs done", flush=True)
    for job in bad:
        print(f"  {' '.join(job.overrides or [])}: {said(job.return_value)}", file=sys.stderr)
    again = all(job.return_value == preemption.AGAIN for job in bad)
    return (preemption.AGAIN if again else 1) if bad else 0


def said(value: int | str) -> str:
    """What a job returned, for a person."""
    if isinstance(value, str):
        return value
    return (
        "stopped: the same command goes on" if value == preemption.AGAIN else "some cells are not done, see its output"
    )
