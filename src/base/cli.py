"""What all command lines share: their help, and how a mistake of the user ends them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from contextlib import contextmanager
from textwrap import indent
from typing import TYPE_CHECKING, Any

from src.base.errors import UserError, disk_errors

if TYPE_CHECKING:
    from collections.abc import Iterator


def command(name: str, doc: str | None, *examples: str) -> argparse.ArgumentParser:
    """The parser of `python -m src.<name>`, whose help shows what it does and examples of its arguments."""
    lines = "\n".join(f"python -m src.{name} {words}".rstrip() for words in examples)
    return argparse.ArgumentParser(
        prog=f"python -m src.{name}",
        description=doc,
        epilog=f"Examples:\n{indent(lines, '  ')}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Around the work of a command: a UserError or a full disk ends the process with one line and exit code 1."""
    try:
        with disk_errors(name):
            yield
    except UserError as error:
        sys.exit(f"error: {error}")


def suite_line(params: Mapping[str, Any]) -> str:
    """The first line that a command prints: the suite, how much of it is taken, and how to ask for the whole grid."""
    sample = f"at most {params['limit']:,} examples a task" if params["limit"] else "every example"
    whole = "" if params["suite"] == "paper" else "; whole grid: suite=paper"
    return f"suite {params['suite']}: {len(params['tasks'])} tasks, {sample}{whole}"
