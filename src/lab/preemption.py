"""A run that is told to stop, or whose time is up, ends between batches with an exit code of its own."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from src.base.streams import leave_terminal

# `sbatch --signal=USR1@120` sends SIGUSR1 before the limit. A closed terminal sends SIGHUP, which nohup ignores
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
AGAIN = 75  # exit code, EX_TEMPFAIL of sysexits.h: the same command continues the work
SHARE = 0.95  # of the time limit is used for work


class Stopped(BaseException):
    """The run must end now. The text says why.

    It derives from BaseException, so that `except Exception` around a cell does not swallow it.
    """


@contextmanager
def stoppable(hours: float | None, signals: Sequence[signal.Signals] = SIGNALS) -> Iterator[Callable[[], None]]:
    """Inside this context a signal raises Stopped at once.

    Yields a function to call between batches. It raises Stopped after a signal and when the time is up.
    Where a launcher has its own handler for a signal, that handler stays (hydra_plugins/slurm.py requeues the job).
    """
    end = None if hours is None else time.monotonic() + SHARE * hours * 3600
    received: list[str] = []  # names of signals

    def stop(number: int, _: object) -> None:
        if number == signal.SIGHUP:  # the kernel and the shell may each send one; nobody reads what is still said
            signal.signal(number, signal.SIG_IGN)
            leave_terminal()
        if not received:
            received.append(signal.Signals(number).name)
            raise Stopped(received[0])

    def check() -> None:
        if received:  # Python dropped the exception, as it does in a finaliser
            raise Stopped(received[0])
        if end is not None and time.monotonic() >= end:
            raise Stopped(f"{SHARE:.0%} of time_limit_h={hours:g}")

    main = threading.current_thread() is threading.main_thread()
    ours = [number for number in signals if main and signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, stop)
    try:
        yield check
    finally:
        for number in ours:
            if signal.getsignal(number) is stop:
                signal.signal(number, signal.SIG_DFL)
