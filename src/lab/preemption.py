""""""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # SIGUSR1: what `sbatch --signal=USR1@120` sends before the limit
AGAIN = 75  # exit code: EX_TEMPFAIL of sysexits.h, the same command goes on
SHARE = 0.95  # of the time given is worked


class Stopped(BaseException):
    """The run is to end now, its text says why. No Exception: a stop is never taken for a failing cell."""


@contextmanager
def stoppable(hours: float | None) -> Iterator[Callable[[], None]]:
    """Within, a signal raises Stopped at once. Yields what raises it between batches, once the time is up, too.

    A launcher's own handler of a signal (submitit's requeues the job) stays in its place.
    """
    end = None if hours is None else time.monotonic() + SHARE * hours * 3600
    heard: list[str] = []

    def hear(number: int, _: object) -> None:
        if not heard:
            heard.append(signal.Signals(number).name)
            raise Stopped(heard[0])

    def check() -> None:
        if heard:  # raised where Python drops exceptions, as in a finaliser
            raise Stopped(heard[0])
        if end is not None and time.monotonic() >= end:
            raise Stopped(f"{SHARE:.0%} of time_limit_h={hours:g}")

    main = threading.current_thread() is threading.main_thread()
    ours = [number for number in SIGNALS if main and signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, hear)
    try:
        yield check
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
