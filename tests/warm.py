"""Commands of the project as processes that start in a moment.

`python -m src.run` spends six seconds on importing torch, transformers and MLflow. One process imports them once,
and nothing of the project, and forks a child for each command. The child is a process like any other: it has its own
number, folder, environment and output, is sent signals, and imports `src` from the folder that it runs in.

What a test promises of the start itself (what is imported, which variable is read at an import) needs a real start.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HEAVY = (
    "torch", "transformers", "transformers.generation", "transformers.models.llama.modeling_llama", "mlflow",
    "mlflow.tracking", "hydra", "pandas", "pyarrow.parquet", "scipy.stats", "statsmodels.api", "pingouin",
    "matplotlib.pyplot", "jinja2", "rich.progress", "safetensors.torch", "bert_score", "rapidfuzz.distance",
    "mlflow.store.tracking.sqlalchemy_store", "mlflow.system_metrics.system_metrics_monitor", "alembic.command",
)  # fmt: skip
QUIET = {"DVC_NO_ANALYTICS": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "HF_HUB_DISABLE_TELEMETRY": "1"}


class Running:
    """A started command, with the interface of subprocess.Popen. said: files of stdout and stderr, in `folder`."""

    def __init__(
        self, pid: int, words: tuple[str, ...], said: tuple[Path, Path], folder: tempfile.TemporaryDirectory[str]
    ) -> None:
        self.pid, self.words, self.said, self.folder = pid, words, said, folder
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, minus the number of the signal that ended it; None while it runs."""
        if self.returncode is None:
            self.returncode = _asked(wait=self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once there is one."""
        end = time.monotonic() + timeout if timeout is not None else float("inf")
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(self.words, timeout or 0)
            time.sleep(0.01)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """(stdout, stderr), once it has ended."""
        self.wait(timeout)
        out, err = (path.read_text() for path in self.said)
        return out, err

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def started(
    *words: str, cwd: Path, env: Mapping[str, str] | None = None, largest: int | None = None, both: bool = False
) -> Running:
    """`python -m <words>` in the folder `cwd`, or `python -c <words>`.

    largest: bytes that a file may grow to. both: stderr goes where stdout goes.
    """
    folder = tempfile.TemporaryDirectory(prefix="said", ignore_cleanup_errors=True)
    said = (Path(folder.name) / "out", Path(folder.name) / ("out" if both else "err"))
    given = {"words": words, "cwd": str(cwd), "env": {**os.environ, **(env or {})}, "largest": largest}
    pid = _asked(**given, said=[str(path) for path in said])
    assert pid
    return Running(pid, words, said, folder)


def ran(*words: str, cwd: Path, timeout: float = 300, **how: Any) -> subprocess.CompletedProcess[str]:
    """What `started` started, ended."""
    running = started(*words, cwd=cwd, **how)
    try:
        out, err = running.communicate(timeout)
    except subprocess.TimeoutExpired:
        running.kill()
        raise
    return subprocess.CompletedProcess(words, running.wait(), out, err)


# ---- The process that forks


@functools.cache
def _parent() -> subprocess.Popen[str]:
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    parent = subprocess.Popen(
        [sys.executable, "-P", __file__], text=True, start_new_session=True, env={**os.environ, **QUIET}, **pipes
    )
    atexit.register(parent.kill)
    return parent


def _asked(**what: Any) -> int | None:
    """The parent's answer: the number of a new child, or an exit code."""
    parent = _parent()
    assert parent.stdin
    assert parent.stdout
    parent.stdin.write(json.dumps(what) + "\n")
    parent.stdin.flush()
    answer: int | None = json.loads(parent.stdout.readline())
    return answer


def _ended(pid: int) -> int | None:
    done, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def _become(words: list[str], cwd: str, env: dict[str, str], said: list[str], largest: int | None) -> None:
    """Be the command: its folder, environment, output and limit, then its module."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in enumerate(said, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would not hear Ctrl-C
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    sys.path[:] = [cwd, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep)), *sys.path]
    if words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = list(words)
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)


def _serve() -> None:
    """Answer lines until they end; a child goes on with its command instead."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # commands start as at a terminal, where a suite under nohup would not
    for name in HEAVY:
        with contextlib.suppress(ImportError):
            __import__(name)
    gc.freeze()  # a child that counts what it never made would copy all of it
    for line in iter(sys.stdin.readline, ""):
        asked = json.loads(line)
        if "wait" in asked:
            answer = _ended(asked["wait"])
        elif (answer := os.fork()) == 0:
            return _become(**asked)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
