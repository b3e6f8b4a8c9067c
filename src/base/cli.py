"""What every command line shares: its help, and how a mistake ends it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from contextlib import contextmanager
from textwrap import indent
from typing import TYPE_CHECKING, Any

from src.base.errors import UserError, told

if TYPE_CHECKING:
    from collections.abc import Iterator


def command(name: str, doc: str | None, *examples: str) -> argparse.ArgumentParser:
    """The command line of `python -m src.<name>`: what it does, and examples of its arguments."""
    lines = "\n".join(f"python -m src.{name} {words}".rstrip() for words in examples)
    return argparse.ArgumentParser(
        prog=f"python -m src.{name}", description=doc, epilog=f"Examples:\n{indent(lines, '  ')}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip


@contextmanager
def stage(name: str) -> Iterator[None]:
    """The work of a command: what the user can mend ends the process with one line and exit code 1."""
    try:
        with told(name):
            yield
    except UserError as error:
        sys.exit(f"error: {error}")


def suite_line(found: Mapping[str, Any]) -> str:
    """The first line a command prints: which suite, how much of it, and how to ask for the whole."""
    sample = f"at most {found['limit']:,} examples a task" if found["limit"] else "every example"
    whole = "" if found["suite"] == "paper" else "; whole grid: suite=paper"
    return f"suite {found['suite']}: {len(found['tasks'])} tasks, {sample}{whole}"
