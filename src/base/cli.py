"""What all command lines share: their help, and how a mistake of the user ends them."""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

from src.base.errors import UserError, disk_errors
from src.base.files import ROOT
from src.base.streams import any_character, flush, silence

if TYPE_CHECKING:
    from collections.abc import Iterator


def command(name: str, doc: str | None, *examples: str) -> argparse.ArgumentParser:
    """The parser of `python -m src.<name>`, whose help shows what it does and examples of its arguments."""
    any_character()
    lines = "\n".join(f"python -m src.{name} {words}".rstrip() for words in examples)
    return argparse.ArgumentParser(
        prog=f"python -m src.{name}",
        description=doc,
        epilog=f"Examples:\n{indent(lines, '  ')}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


NO_READER = 141  # exit code of a process whose output nobody reads any more: 128 + SIGPIPE, as a shell shows it
GONE = (errno.EPIPE, errno.EIO)  # of a pipe without a reader, and of a terminal that was closed
INTERRUPTED = "interrupted: nothing half-written was left; the same command goes on from there"


@contextmanager
def stage(name: str, here: bool = False) -> Iterator[None]:
    """Around the work of a command: what a person or a machine does to it ends the process with one line.

    The exit code is 1 for a UserError, a full disk and an interruption. Where the reader of the output has gone, as in
    `| head`, it is NO_READER, and there is no line.

    here: whether the command reads and writes in the current folder, which is then the project's.
    """
    any_character()
    try:
        with disk_errors(name):
            if here and not Path("conf").is_dir():
                raise UserError(f"{name} works in the project's folder, and {Path.cwd()} holds no conf: cd {ROOT}")
            yield
            flush()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except MemoryError:
        sys.exit(f"error: {name}: this process may have no more memory. Free some, or raise its limit (ulimit -v)")
    except OSError as error:
        if error.errno not in GONE or error.filename:
            raise
        silence()
        sys.exit(NO_READER)


def explained(name: str, work: Callable[[], int]) -> int | str:
    """What `work` returns, or the exit code or line with which `stage` would end the process."""
    try:
        with stage(name):
            return work()
    except SystemExit as end:
        return end.code or 0


def suite_line(params: Mapping[str, Any]) -> str:
    """The first line that a command prints: the suite, how much of it is taken, and how to ask for the whole grid."""
    sample = f"at most {params['limit']:,} examples a task" if params["limit"] else "every example"
    whole = "" if params["suite"] == "paper" else "; whole grid: suite=paper"
    return f"suite {params['suite']}: {len(params['tasks'])} tasks, {sample}{whole}"
