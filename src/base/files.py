"""The project's folder, files that are written whole or not at all, and JSON lines."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


ROOT = Path(__file__).resolve().parents[2]
LONE = "backslashreplace"
"""How JSON is encoded: a lone surrogate, which UTF-8 has not, becomes its escape. Any other text stays as it is."""
BREAKS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}
"""What other programs take for the end of a line, and JSON does not escape by itself."""


def json_line(value: Any, **how: Any) -> bytes:
    r"""A value as one line of JSON in UTF-8, with its "\n". `how` goes to json.dumps.

    Whatever splits it, by "\n" or by every kind of line break, finds one line.
    """
    return (json.dumps(value, ensure_ascii=False, **how).translate(BREAKS) + "\n").encode("utf-8", LONE)


def json_lines(values: Iterable[Any]) -> bytes:
    """Values as JSON lines."""
    return b"".join(map(json_line, values))


def from_json_lines(raw: bytes, loads: Callable[[str], Any] = json.loads, blank: bool = False) -> list[Any]:
    r"""The values of JSON lines in UTF-8. Only "\n" ends a line: str.splitlines would also split inside a string.

    blank: a line may be blank, as in files that people edit. Raises ValueError, which numbers the line, where one is
    no JSON.
    """
    values: list[Any] = []
    for number, line in enumerate(raw.decode().removesuffix("\n").split("\n") if raw else (), start=1):
        try:
            values += [] if blank and not line.strip(" \t\r") else [loads(line)]
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    return values


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


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` to write to. At the end it takes the place of `path`, or is removed where writing failed.

    A link stays: the folder that it leads to is replaced, on the disk where that lies.
    """
    final = path.resolve()
    with alone(final.parent):
        part = emptied(final.with_name(f".{final.name}.partial"))
        try:
            yield part
            put_in_place(part, final)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def emptied(folder: Path) -> Path:
    """The folder, with nothing in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def remove(path: Path) -> None:
    """Removes a file or a folder, where there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def put_in_place(made: Path, final: Path) -> None:
    """Renames a file or folder that was made on the same disk, in place of what was there."""
    if not final.is_dir():
        made.replace(final)
        return
    old = made.with_name(f"{made.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    final.replace(old)
    made.replace(final)
    shutil.rmtree(old, ignore_errors=True)
