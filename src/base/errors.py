"""Mistakes that the user can mend, each told in one line."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from src.base.secrets import shown

if TYPE_CHECKING:
    from collections.abc import Iterator


class UserError(Exception):
    """A mistake that the user can mend. The message, free of passwords, says what is wrong, where, and what to do."""

    def __init__(self, message: object = "") -> None:
        super().__init__(shown(message))


def first_line(error: object) -> str:
    """The first line of what an error or a program says; an error without words by its class."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next(filter(None, lines), type(error).__name__)


def suggest(kind: str, name: str, names: Sequence[str], where: str) -> UserError:
    """The error for an unknown name. It lists near misses first, then every known name."""
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return UserError(f"Unknown {kind} '{name}'.{hint} Known ({where}): {', '.join(names)}")


DISK = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENOTEMPTY,
    errno.EBUSY,
    errno.EXDEV,
    errno.ESTALE,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOLCK,
)
"""The system errors of a full disk, of a file or folder that may not be read or written, and of too many open files."""

TOO_MANY = (errno.EMFILE, errno.ENFILE)


@contextmanager
def disk_errors(name: str) -> Iterator[None]:
    """Turns the system errors in DISK, and those of tempfile, into a UserError that begins with `name`."""
    try:
        yield
    except OSError as error:
        if "temporary directory" in str(error):
            raise UserError(
                f"{name}: no temporary folder can be written. Make room, or set TMPDIR to a folder that has some"
            ) from None
        if error.errno not in DISK:
            raise
        remedy = "Allow more (ulimit -n 1024)" if error.errno in TOO_MANY else "Free space or mend it"
        raise UserError(
            f"{name}: {error.strerror} ({error.filename or 'while writing'}). {remedy}, then run again: "
            f"nothing half-written was left."
        ) from None
