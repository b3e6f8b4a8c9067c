"""The project's folder, and files that are written whole or not at all."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lets one process at a time into a folder. The lock leaves no file. Some network file systems have no locks."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to. At the end it is synced to disk and renamed, or removed where writing failed.

    Two processes that write the same file at once do so one after the other.
    """
    part = path.with_suffix(".part")
    with alone(path.parent):
        try:
            yield part
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
