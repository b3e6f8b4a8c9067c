"""What a user can mend, said as one line: what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class UserError(Exception):
    """A mistake the user can mend. The message says what is wrong, where, and what to do."""


def suggest(kind: str, name: str, names: Sequence[str], where: str) -> UserError:
    """The error for an unknown name: near misses first, then all that are known."""
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return UserError(f"Unknown {kind} '{name}'.{hint} Known ({where}): {', '.join(names)}")


DISK = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR,
    errno.EEXIST,
)  # fmt: skip


@contextmanager
def told(name: str) -> Iterator[None]:
    """Turns a full disk, or a file or folder that may not be read or written, into a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK:
            raise
        raise UserError(
            f"{name}: {error.strerror} ({error.filename or 'while writing'}). Free space or mend it, then run again: "
            f"nothing half-written was left."
        ) from None
