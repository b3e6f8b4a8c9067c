"""The example store: every answer by the hash of what was asked, in files that are only appended to."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import uuid
import warnings
from collections.abc import Collection, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

from src.base.errors import UserError
from src.base.files import json_line, whole

Record = dict[str, Any]
PROOF = "proof:"  # how the keys of records begin that say how a cell was computed
CHECK = 16  # hex digits of the checksum at the beginning of a line


def checksum(body: bytes) -> bytes:
    """First 8 bytes of blake2b, as hex."""
    return blake2b(body, digest_size=CHECK // 2).hexdigest().encode()


def line(key: str, body: bytes) -> bytes:
    """A segment's line: checksum of what follows, key, JSON of the record, separated by tabs; newline."""
    rest = key.encode() + b"\t" + body
    return checksum(rest) + b"\t" + rest + b"\n"


def encoded(record: Mapping[str, Any]) -> bytes:
    """JSON of a record: no tab, no newline. A lone surrogate stands as its JSON escape."""
    return json_line(record, separators=(",", ":")).removesuffix(b"\n")


def parsed(raw: bytes) -> tuple[str, bytes] | None:
    """(key, JSON of the record) of a line without its newline; None where it is damaged."""
    rest = raw[CHECK + 1 :]
    if checksum(rest) != raw[:CHECK]:
        return None
    key, body = rest.split(b"\t", 1)
    return key.decode(), body


class Store:
    """The records of a folder. Raises UserError where the folder cannot be read or written."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self._records: dict[str, bytes] = {}  # key -> JSON, parsed when asked for: reading is ten times faster
        self._read: dict[Path, tuple[int, int]] = {}  # segment -> (bytes, lines) read so far
        self._segment: IO[bytes] | None = None
        self.refresh()

    def __len__(self) -> int:
        """The number of answers. Proofs are none."""
        return sum(not key.startswith(PROOF) for key in self._records)

    def get(self, key: str) -> Record | None:
        """The record of a key, None where there is none."""
        body = self._records.get(key)
        return None if body is None else json.loads(body)

    def put(self, records: Mapping[str, Record]) -> None:
        """Append and wait until the disk has them."""
        if not records:
            return
        bodies = {key: encoded(record) for key, record in records.items()}
        try:
            segment = self._open()
            segment.write(b"".join(line(key, body) for key, body in bodies.items()))
            segment.flush()
            os.fsync(segment.fileno())
        except OSError as error:
            raise self._unwritable(error) from error
        self._records.update(bodies)

    def close(self) -> None:
        """Close this writer's segment; a later put begins another."""
        if self._segment:
            self._segment.close()
            self._segment = None

    def refresh(self) -> None:
        """Read what other writers have appended since."""
        for path in sorted(self.folder.glob("*.jsonl")):
            self._records.update(self._new_lines(path))

    def merge(self) -> Path | None:
        """Compact all segments into one; the new segment, None where there is nothing. No other writer may be at work.

        Killed at any point it loses nothing: the old segments go only after the new one is on disk under its name.
        """
        self.close()
        self.refresh()
        old = sorted(self.folder.glob("*.jsonl"))
        if not self._records:
            return None
        try:
            merged = self._written(self.folder / f"{uuid.uuid4().hex}.jsonl")
            for path in old:
                path.unlink()
        except OSError as error:
            raise self._unwritable(error) from error
        self._read = {merged: (merged.stat().st_size, len(self._records))}
        return merged

    def drop(self, keys: Collection[str]) -> None:
        """Remove the records of these keys from every segment. All else that a segment holds stays, byte for byte.

        Killed at any point it has removed a part of them and lost nothing else. Raises UserError where another process
        writes to a segment that holds one of them: it would go on writing to the file that was replaced.
        """
        self.close()
        self.refresh()
        try:
            with contextlib.ExitStack() as locks:
                for path, kept in self._without(keys, locks).items():
                    if kept:
                        with whole(path) as part:
                            part.write_bytes(b"".join(kept))
                    else:
                        path.unlink()
                    self._read[path] = (sum(map(len, kept)), len(kept))
                    _sync_folder(self.folder)
        except OSError as error:
            raise self._unwritable(error) from error
        for key in keys:
            self._records.pop(key, None)

    def _without(self, keys: Collection[str], locks: contextlib.ExitStack) -> dict[Path, list[bytes]]:
        """Each segment that holds one of these keys -> its other lines. The segments are locked until `locks` ends."""
        left = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            with path.open("rb") as file:
                lines = list(file)
            kept = [raw for raw in lines if (parsed(raw.removesuffix(b"\n")) or ("",))[0] not in keys]
            if len(kept) == len(lines):
                continue
            locked = locks.enter_context(path.open("rb"))
            try:
                fcntl.flock(locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"A run is writing to {path}. Let it end or stop it, then the same command again"
                ) from None
            except OSError:  # some network file systems have no locks
                pass
            left[path] = kept
        return left

    def _written(self, path: Path) -> Path:
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            file.writelines(line(key, body) for key, body in self._records.items())
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _sync_folder(self.folder)
        return path

    def _open(self) -> IO[bytes]:
        if self._segment is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:12]}.jsonl"
            self._segment = (self.folder / name).open("xb")
            with contextlib.suppress(OSError):
                fcntl.flock(self._segment, fcntl.LOCK_SH)  # until it is closed, so that `drop` leaves it alone
            _sync_folder(self.folder)
        return self._segment

    def _new_lines(self, path: Path) -> Iterator[tuple[str, bytes]]:
        """Whole lines of a segment not read before; a torn last line waits for the next refresh."""
        offset, number = self._read.get(path, (0, 0))
        try:
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read()
        except FileNotFoundError:  # merged by another process in the meantime; its records are in another segment
            return
        except OSError as error:
            raise UserError(
                f"The example store {self.folder} cannot be read: {error}. Check its permissions."
            ) from error
        whole = data[: data.rfind(b"\n") + 1]
        for raw in whole.removesuffix(b"\n").split(b"\n") if whole else ():
            number += 1
            record = parsed(raw)
            if record is None:
                warnings.warn(f"{path}, line {number}: damaged record, it will be computed again.", stacklevel=3)
            else:
                yield record
        self._read[path] = (offset + len(whole), number)

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(
            f"The example store {self.folder} cannot be written: {error.strerror or error}. "
            "Make room or mend its permissions, then start again: what was stored before is safe."
        )


def _sync_folder(folder: Path) -> None:
    """Sync the folder: a new file survives a crash only if its folder is on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
