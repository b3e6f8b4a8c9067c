from __future__ import annotations

import hashlib
import os
import resource
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from src.base.errors import UserError
from src.base.files import ROOT
from src.cell.store import Store


def address(text: object) -> str:
    return hashlib.sha256(str(text).encode()).hexdigest()


def batch(*numbers: int) -> dict[str, dict[str, object]]:
    return {address(i): {"text": f' "an answer,\n\ttabs and é" {i}', "n_tokens": i, "near_tie": None} for i in numbers}


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl"))


def test_what_was_put_is_read_by_another_process_as_it_was(tmp_path: Path) -> None:
    Store(tmp_path / "new" / "store").put(batch(1, 2))
    again = Store(tmp_path / "new" / "store")
    assert {key: again.get(key) for key in batch(1, 2)} == batch(1, 2)
    assert again.get(address(3)) is None


def test_reading_alone_makes_no_file(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.put({})
    assert not (tmp_path / "store").exists()


def test_two_writers_never_share_a_segment_and_see_each_other_after_refresh(tmp_path: Path) -> None:
    one, two = Store(tmp_path), Store(tmp_path)
    one.put(batch(1))
    two.put(batch(2))
    one.put(batch(3))
    assert len(segments(tmp_path)) == 2
    two.refresh()
    assert len(two) == 3
    one.put(batch(4))
    two.refresh()
    assert two.get(address(4)) == batch(4)[address(4)]


def test_a_torn_last_line_is_ignored_silently_and_read_once_it_is_whole(tmp_path: Path) -> None:
    Store(tmp_path).put(batch(1, 2))
    (path,) = segments(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store = Store(tmp_path)
    assert len(store) == 1
    path.write_bytes(whole)
    store.refresh()
    assert len(store) == 2


@pytest.mark.parametrize("damage", [b"\x00", b"x", b"\t", b"\xff"])
def test_a_damaged_record_is_named_by_file_and_line_and_counts_as_missing(tmp_path: Path, damage: bytes) -> None:
    Store(tmp_path).put(batch(1, 2, 3))
    (path,) = segments(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1][:90] + damage + lines[1][91:]
    path.write_bytes(b"".join(lines))
    with pytest.warns(UserWarning, match=rf"{path.name}, line 2: damaged"):
        store = Store(tmp_path)
    assert store.get(address(2)) is None
    assert store.get(address(3)) == batch(3)[address(3)]
    store.put(batch(2))
    with pytest.warns(UserWarning, match="line 2"):
        assert Store(tmp_path).get(address(2)) == batch(2)[address(2)]


def test_merge_keeps_every_record_in_one_segment(tmp_path: Path) -> None:
    for i in range(5):
        Store(tmp_path).put(batch(i, i + 1))
    store = Store(tmp_path)
    merged = store.merge()
    assert segments(tmp_path) == [merged]
    assert len(Store(tmp_path)) == 6
    store.put(batch(9))
    assert len(Store(tmp_path)) == 7


def test_drop_removes_a_record_from_every_segment_and_no_other_byte(tmp_path: Path) -> None:
    for numbers in ((1, 2, 3), (3,), (3, 4), (5, 6)):
        Store(tmp_path).put(batch(*numbers))
    lines = {path: path.read_bytes().splitlines(keepends=True) for path in segments(tmp_path)}
    for path, old in lines.items():  # one line is damaged, one is torn
        new = [raw[:90] + b"?" + raw[91:] if address(2).encode() in raw else raw for raw in old]
        new = [raw[:-5] if address(4).encode() in raw else raw for raw in new]
        path.write_bytes(b"".join(new))
    wanted = {path: b"".join(raw for raw in path.read_bytes().splitlines(True) if address(3).encode() not in raw)
              for path in lines}  # fmt: skip
    with pytest.warns(UserWarning, match="damaged"):
        store = Store(tmp_path)
    store.drop([address(3), address("of nobody")])
    assert {path: path.read_bytes() for path in segments(tmp_path)} == {p: raw for p, raw in wanted.items() if raw}
    assert [store.get(address(i)) is None for i in (1, 3, 5, 6)] == [False, True, False, False]
    store.put(batch(3))
    store.refresh()
    with pytest.warns(UserWarning, match="damaged"):
        assert Store(tmp_path).get(address(3)) == store.get(address(3)) == batch(3)[address(3)]


DROPPER = """
import sys, hashlib
from src.cell.store import Store
store = Store(sys.argv[1])
print("ready", flush=True)
for i in range(0, 2000, 2):
    store.drop([hashlib.sha256(str(i).encode()).hexdigest()])
"""


@pytest.mark.parametrize("seconds", [0.004, 0.02, 0.05])
def test_kill_9_while_dropping_loses_nothing_else(tmp_path: Path, seconds: float) -> None:
    for i in range(4):
        Store(tmp_path).put(batch(*range(i * 500, i * 500 + 500)))
    killed_after(DROPPER, tmp_path, seconds)
    left = Store(tmp_path)
    assert all(left.get(address(i)) == batch(i)[address(i)] for i in range(1, 2000, 2))


WRITER = """
import sys, hashlib
from src.cell.store import Store
store = Store(sys.argv[1])
for i in range(10**6):
    store.put({hashlib.sha256(f"{i}/{j}".encode()).hexdigest(): {"batch": i, "text": "x" * 300} for j in range(20)})
    print(i, flush=True)
"""

MERGER = """
import sys
from src.cell.store import Store
print("ready", flush=True)
while True:
    Store(sys.argv[1]).merge()
"""


def killed_after(code: str, folder: Path, seconds: float) -> list[str]:
    """Lines the process printed before kill -9, counted from its first line."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ}
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read()
    process.wait()
    return (first + rest).splitlines()


@pytest.mark.parametrize("seconds", [0.0, 0.013, 0.047])
def test_kill_9_while_writing_loses_at_most_the_batch_in_flight(tmp_path: Path, seconds: float) -> None:
    done = int(killed_after(WRITER, tmp_path, seconds)[-1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store = Store(tmp_path)
    assert all(store.get(address(f"{i}/{j}")) for i in range(done + 1) for j in range(20))
    assert len(store) <= (done + 2) * 20


@pytest.mark.parametrize("seconds", [0.004, 0.02, 0.05])
def test_kill_9_while_merging_loses_nothing(tmp_path: Path, seconds: float) -> None:
    for i in range(4):
        Store(tmp_path).put(batch(*range(i * 500, i * 500 + 500)))
    killed_after(MERGER, tmp_path, seconds)
    assert len(Store(tmp_path)) == 2000


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=str(tmp_path / "file" / "store")):
        Store(tmp_path / "file" / "store").put(batch(1))


def test_a_full_disk_says_which_folder(tmp_path: Path) -> None:
    """A limit on the size of a file stands for the disk."""
    store = Store(tmp_path)
    store.put(batch(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (900, before[1]))
    try:
        with pytest.raises(UserError, match=rf"{tmp_path} cannot be written: File too large"):
            store.put(batch(*range(2, 200)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert store.get(address(5)) is None


@pytest.mark.slow
def test_a_hundred_thousand_records_are_read_in_seconds(tmp_path: Path) -> None:
    Store(tmp_path).put(batch(*range(100_000)))
    assert len(Store(tmp_path)) == 100_000
