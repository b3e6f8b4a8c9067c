"""Machines as people have them: two disks, a full one, another user's folder, odd environments, other processors."""

from __future__ import annotations

import ast
import os
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from src import release, report, stats
from src.base.cli import INTERRUPTED, stage
from src.base.errors import UserError, disk_errors
from src.base.files import ROOT, whole_folder
from src.base.grid import composed_run
from src.cell.compare import judged
from src.cell.finding import IDENTICAL, NEAR_TIES
from src.cell.hashes import hashes
from src.lab import preemption, progress
from tests import scratch, warm
from tests.lab.test_shards import wait_for_records
from tests.test_pipeline import TASKS, made_up, words
from tests.tiny import tiny

SOURCES = [*(ROOT / "src").rglob("*.py"), *(ROOT / "hydra_plugins").rglob("*.py")]
LINUX_ONLY = {
    "sched_getaffinity", "sched_setaffinity", "memfd_create", "pidfd_open", "copy_file_range", "splice", "eventfd",
    "posix_fadvise", "posix_fallocate", "fdatasync", "O_DIRECT", "O_TMPFILE", "O_PATH", "epoll", "prlimit", "prctl",
    "SIGRTMIN", "SIGPWR", "SIGSTKFLT", "CDLL", "malloc_trim", "unshare", "setns",
}  # fmt: skip
"""Names of os, signal, select, resource and ctypes that macOS lacks, or that lead to what it lacks."""


def calls(path: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_text_has_an_encoding_of_its_own(path: Path) -> None:
    """Else the locale decides how a file, or the output of a command, is read."""
    for call in calls(path):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        given = {keyword.arg for keyword in call.keywords}
        modes = [each.value for each in (*call.args[:2], *(k.value for k in call.keywords if k.arg == "mode"))
                 if isinstance(each, ast.Constant) and isinstance(each.value, str)]  # fmt: skip
        binary = any("b" in mode and len(mode) <= 3 for mode in modes) or ast.unparse(call.func) in (
            "os.open",
            "archive.open",
            "gzip.open",  # its default is binary
        )
        text = name in ("read_text", "write_text") or (name == "open" and not binary and "framework" not in given)
        runs = ast.unparse(call.func).startswith("subprocess.") and given & {"text", "universal_newlines"}
        if (text and not ast.unparse(call.func).startswith(("tarfile.", "zipfile."))) or runs:
            assert "encoding" in given, f"line {call.lineno}: {ast.unparse(call)}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_used_that_macos_lacks(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    text = path.read_text(encoding="utf-8")
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used -= {
        name for name in used if f'"{name}")' in text and "hasattr(" in text
    }  # where it is missing, another way is taken
    texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    assert used & LINUX_ONLY == set()
    folders = {each for each in texts if each.startswith(("/proc/", "/sys/", "/dev/shm"))}
    assert folders <= {"/proc/cpuinfo"}  # of src/lab/spent.py, which asks platform where there is none


def test_no_two_files_differ_by_case_alone() -> None:
    """A disk of macOS would keep one of them."""
    names = scratch.run(ROOT, "git", "ls-files", "-z").split("\0")
    assert len({name.casefold() for name in names}) == len(names)


def test_no_line_ending_is_changed_by_a_users_git(tmp_path: Path) -> None:
    """With autocrlf, the files of a checkout would have other hashes than those that dvc.lock names."""
    shutil.copy(ROOT / ".gitattributes", tmp_path)
    (tmp_path / "scores.csv").write_bytes(b"a,b\n1,2\n")
    scratch.run(tmp_path, "git", "init", "-q")
    scratch.run(tmp_path, "git", "config", "core.autocrlf", "true")
    scratch.run(tmp_path, "git", "add", "-A")
    (tmp_path / "scores.csv").unlink()
    scratch.run(tmp_path, "git", "checkout", "--", "scores.csv")
    assert (tmp_path / "scores.csv").read_bytes() == b"a,b\n1,2\n"


# ---- Disks


@pytest.fixture
def another_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on another disk than tmp_path's."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second disk here (/dev/shm)")
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


def test_a_report_is_written_where_data_lies_on_another_disk(tmp_path: Path, another_disk: Path) -> None:
    (tmp_path / "data").symlink_to(another_disk)
    (another_disk / "tables").mkdir()
    (another_disk / "tables/old.csv").write_text("old")
    with report.staged(tmp_path) as folder:
        for out in ("data/tables", "reports/tables"):
            (folder / out).mkdir(parents=True)
            (folder / out / "new.csv").write_text("new")
    assert [path.name for path in (another_disk / "tables").iterdir()] == ["new.csv"]
    assert [path.name for path in (tmp_path / "reports").iterdir()] == ["tables"]
    assert [path.name for path in another_disk.iterdir()] == ["tables"]


def test_a_linked_out_stays_a_link(tmp_path: Path, another_disk: Path) -> None:
    """What it leads to is replaced, on its own disk."""
    import pandas as pd

    (another_disk / "stats").mkdir()
    (another_disk / "stats/old.parquet").write_text("old")
    (tmp_path / "stats").symlink_to(another_disk / "stats")
    stats.write({"cells": pd.DataFrame({"n": [1]})}, tmp_path / "stats")
    assert (tmp_path / "stats").is_symlink()
    assert [path.name for path in another_disk.rglob("*")] == ["stats", "cells.parquet"]


def test_a_folder_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/old").write_text("old")

    def fill() -> None:
        with disk_errors("it"), whole_folder(tmp_path / "out") as part:
            (part / "new").write_text("half")
            os.truncate(part / "new", 2**62)  # more than any file system takes

    with pytest.raises(UserError, match="nothing half-written was left"):
        fill()
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["out", "out/old"]


def test_a_machine_without_a_temporary_folder_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/dev/null/none"])
    with pytest.raises(UserError, match=r"it: no temporary folder can be written\..*TMPDIR"), disk_errors("it"):
        tempfile.gettempdir()


def test_a_machine_without_memory_is_said() -> None:
    with pytest.raises(SystemExit, match="it: this process may have no more memory"), stage("it"):
        bytearray(2**62)


@pytest.mark.parametrize("text", [None, "", "[project]\n", "[project\n"])
def test_a_release_without_a_version_is_refused(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(UserError, match=r"pyproject\.toml does not say the version .*git checkout pyproject\.toml"):
        release.version_of(tmp_path / "pyproject.toml")


def test_a_release_of_a_tarball_says_that_it_is_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"A release says which commit made it\. .* is no git checkout"):
        release.released(tmp_path)


def test_two_reports_at_once_are_each_whole(tmp_path: Path) -> None:
    """The last one stands, with all of its files and none of the other."""
    begun = threading.Barrier(2)

    def made(name: str) -> None:
        begun.wait()
        with report.staged(tmp_path) as folder:
            for out in ("reports/tables", "reports/plots"):
                (folder / out).mkdir(parents=True)
                for number in range(50):
                    (folder / out / f"{number}.csv").write_text(name)

    threads = [threading.Thread(target=made, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    written = [path.read_text() for path in (tmp_path / "reports").rglob("*.csv")]
    assert len(written) == 100
    assert len(set(written)) == 1


# ---- Runs, on a tiny model


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("machines")
    tiny("llama", folder / "weights")
    (folder / "tasks").mkdir()
    for task in TASKS:
        (folder / f"tasks/{task}.jsonl").write_text(made_up(task))
    return folder


def asked(place: Path, here: Path, *more: str) -> list[str]:
    """The words of a run whose store and cells lie in `here`."""
    return words(place, f"store='{here / 'store'}'", f"out='{here / 'out'}'", "tracking.enabled=false", *more)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.jsonl"))}


@pytest.fixture(scope="module")
def undisturbed(place: Path) -> dict[str, bytes]:
    done = warm.ran("src.run", *asked(place, place / "undisturbed"), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return bytes_of(place / "undisturbed/out")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB."""
    (folder := tmp_path / "disk").mkdir()
    tried = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip("no disk can be mounted here (mount -t tmpfs)")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_a_run_and_with_room_the_same_command_goes_on(
    place: Path, small_disk: Path, undisturbed: dict[str, bytes]
) -> None:
    command = ("src.run", *asked(place, small_disk))
    (small_disk / "ballast").write_bytes(b"x" * 56 * 1024)
    done = warm.ran(*command, cwd=ROOT)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr + done.stdout
    assert list(small_disk.rglob("*.part")) == []
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    done = warm.ran(*command, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert bytes_of(small_disk / "out") == undisturbed


NOBODY = ("setpriv", "--reuid=12345", "--regid=12345", "--clear-groups")
READS = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")  # this interpreter may lie in root's home


def as_nobody(*command: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A command by a user whom the machine does not know, as in a container on a cluster. It may write nothing."""
    if os.getuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("only root can be another user (setpriv)")
    return subprocess.run(
        [*NOBODY, *READS, sys.executable, *command], cwd=ROOT, capture_output=True, encoding="utf-8", timeout=900,
        env={**os.environ, **env}, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_another_users_checkout_is_read_and_not_written() -> None:
    read = as_nobody("-m", "src.trace", "0.547", HOME="/nonexistent")
    assert read.returncode == 0, read.stderr
    planned = as_nobody("-m", "src.plan", HOME="/nonexistent")
    assert planned.returncode == 0, planned.stderr
    assert "dubious" not in planned.stdout
    before = (ROOT / "params.yaml").read_bytes()
    written = as_nobody("-m", "src.config", "suite=pilot", HOME="/nonexistent")
    assert written.returncode == 1
    assert written.stderr.startswith("error: params.yaml: Permission denied")
    assert (ROOT / "params.yaml").read_bytes() == before


@pytest.mark.slow
def test_a_user_without_a_name_and_a_home_runs(place: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """In a folder of its own. In the store of another user it says whose permissions are to be mended."""
    own = Path(tempfile.mkdtemp())
    os.chown(own, 12345, 12345)
    done = as_nobody("-m", "src.run", *asked(place, own), HOME="/nonexistent")
    assert done.returncode == 0, done.stderr
    assert bytes_of(own / "out") == undisturbed
    shutil.rmtree(own)
    refused = as_nobody("-m", "src.run", *asked(place, tmp_path / "root"), HOME="/nonexistent")
    assert refused.returncode == 1
    assert "Permission denied" in refused.stderr + refused.stdout
    assert "Traceback" not in refused.stderr + refused.stdout


ODD = {
    "no encoding but latin-1": {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONIOENCODING": "latin-1",
        "PYTHONCOERCECLOCALE": "0",
    },
    "threads that are no number": {"OMP_NUM_THREADS": "abc", "MKL_NUM_THREADS": "", "OPENBLAS_NUM_THREADS": "0"},
    "no temporary folder": {"TMPDIR": "/dev/null/none"},
    "no home": {"HOME": "/dev/null/none"},
    "an unknown time zone": {"TZ": "Nowhere/Atall", "SOURCE_DATE_EPOCH": "0"},
    "GPUs that are none": {"CUDA_VISIBLE_DEVICES": "abc"},
    "a dumb, narrow terminal": {"TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "20"},
    "a proxy that is not there": {"ALL_PROXY": "socks5://127.0.0.1:1", "HTTPS_PROXY": "socks4://127.0.0.1:1"},
    "another hash seed": {"PYTHONHASHSEED": "12345"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
def test_an_odd_environment_gives_the_same_bytes(
    name: str, place: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "src.run", *asked(place, tmp_path)], cwd=ROOT, capture_output=True, timeout=600,
        env={**os.environ, **ODD[name]}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert bytes_of(tmp_path / "out") == undisturbed


OTHERS = {
    "no vector units": {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    "oneDNN without AVX": {"ONEDNN_MAX_CPU_ISA": "SSE41", "DNNL_MAX_CPU_ISA": "SSE41"},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "two threads": {"OMP_NUM_THREADS": "2"},
    "without oneDNN": {"TORCH_MKLDNN": "off"},
}
WITHOUT_ONEDNN = (
    "import os, runpy, sys, torch; torch.backends.mkldnn.enabled = 'TORCH_MKLDNN' not in os.environ; "
    "runpy.run_module('src.run', run_name='__main__', alter_sys=True)"
)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_another_processor_gives_the_same_answers_or_names_the_near_tie(
    name: str, place: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    assert undisturbed
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_ONEDNN, *asked(place, tmp_path / "other")], cwd=ROOT, capture_output=True,
        encoding="utf-8", timeout=600, env={**os.environ, **OTHERS[name]}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for folder, cells in (("here", place / "undisturbed/out"), ("there", tmp_path / "other/out")):
        shutil.copytree(cells, tmp_path / folder / "llama_7b")
    rows = judged(*(hashes(tmp_path / side)["completions"] for side in ("here", "there")))
    assert len(rows)
    assert {*rows["status"]} <= {IDENTICAL, NEAR_TIES}


# ---- Terminals and signals


def test_the_bars_of_a_terminal_are_drawn_cell_after_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    run = composed_run(["+model=gpt2", "task=social_iqa", "condition=closed_few"])
    monkeypatch.setattr(progress, "quiet", lambda: False)
    with progress.progress(run, 2) as (begin, advance, end):
        for name in ("one", "two"):
            begin(name)
            advance(1, 2)
            advance(1, 2)
            end()


@pytest.fixture(scope="module")
def long(place: Path) -> list[str]:
    """The words of a run that takes a while."""
    (place / "long").mkdir()
    for task in TASKS:
        (place / f"long/{task}.jsonl").write_text(made_up(task, 300))
    return ["limit=300", "token_budget=256", f"data='{place / 'long'}'", "incomplete=report"]


@pytest.mark.slow
def test_a_terminal_that_is_closed_stops_a_run_as_a_signal_does(place: Path, long: list[str], tmp_path: Path) -> None:
    """Nobody can read what it says then. Its ledger says it too."""
    pid, terminal = pty.fork()
    if not pid:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a suite under nohup has it ignored
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-m", "src.run", *asked(place, tmp_path, *long)])
    running = ByNumber(pid)
    threading.Thread(target=drained, args=(terminal, running.said), daemon=True).start()
    wait_for_records(tmp_path / "store", 100, running)  # type: ignore[arg-type]
    os.kill(pid, signal.SIGHUP)
    os.close(terminal)
    assert running.ended(120) == preemption.AGAIN
    assert "stopped by SIGHUP" in (tmp_path / "out/ledger.json").read_text()


class ByNumber:
    """A child process, with as much of Popen as waiting needs."""

    def __init__(self, pid: int) -> None:
        self.pid, self.returncode = pid, None
        self.said: list[bytes] = []

    def communicate(self) -> str:
        return b"".join(self.said).decode(errors="replace")

    def poll(self) -> int | None:
        if self.returncode is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if done else None
        return self.returncode

    def ended(self, seconds: float) -> int | None:
        end = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        return self.returncode


def drained(terminal: int, said: list[bytes]) -> None:
    with suppress(OSError):
        while data := os.read(terminal, 1 << 16):
            said.append(data)


@pytest.mark.slow
def test_an_interruption_twice_ends_without_a_traceback(place: Path, long: list[str], tmp_path: Path) -> None:
    running = warm.started("src.run", *asked(place, tmp_path, *long), cwd=ROOT)
    wait_for_records(tmp_path / "store", 100, running)
    for _ in range(2):
        running.send_signal(signal.SIGINT)
    _, said = running.communicate(120)
    assert running.returncode == 1
    assert INTERRUPTED in said
    assert "Traceback" not in said
