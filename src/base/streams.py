"""Standard input, output and error as a process finds them: closed, full, without a reader, in another encoding."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress


def open_streams() -> None:
    """Leads to nowhere what the process was started without.

    Else the next file that is opened would take the number of standard error, and a library's warning its last line.
    """
    for number in (0, 1, 2):
        with suppress(OSError):
            os.fstat(number)
            continue
        os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - as long as the process


TERMINALS = tuple(number for number in (1, 2) if os.isatty(number))
"""The outputs that were terminals when the process started. Of a terminal that was closed, nothing can be asked."""


def leave_terminal() -> None:
    """Sends nowhere what is still to be printed on a terminal. Call it where the terminal was closed."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in TERMINALS:
        os.dup2(nowhere, number)
    os.close(nowhere)


def any_character() -> None:
    """Lets the output hold what the terminal's encoding has no character for. It is shown as its escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush() -> None:
    """Writes what was printed. Python would do it after the last line of code, where no error is caught any more."""
    sys.stdout.flush()
    sys.stderr.flush()


def silence() -> None:
    """Sends what is still to be printed nowhere, so that Python does not fail at it when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a stream that is closed, or no file
            os.dup2(nowhere, stream.fileno())
