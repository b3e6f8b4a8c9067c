"""Where the project lies, and files that are written whole or not at all."""

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
    """One process at a time, by a lock that leaves no file behind; a network file system may not have it."""
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to: at the end on disk and renamed to `path`, gone where writing failed.

    Two processes that write it at once do so one after the other.
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
