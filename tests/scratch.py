"""A copy of the project as it lies here, uncommitted changes included, as a git repository of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from src.base.files import ROOT


def run(folder: Path, *words: str, code: int = 0, **variables: str) -> str:
    """The standard output of a command in `folder`; one word `python` is this interpreter. Checks the exit code."""
    words = (sys.executable, *words[1:]) if words[0] == "python" else words
    quiet = {"DVC_NO_ANALYTICS": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONPATH": str(folder)}
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, **path, **quiet, **variables},
    )  # fmt: skip
    assert done.returncode == code, f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def clone(folder: Path) -> Path:
    """The project's files in `folder`, committed there; nothing that DVC or a run has made."""
    listed = run(ROOT, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    run(folder, "git", "init", "-q", "-b", "main")
    run(folder, "git", "config", "user.name", "A Tester")
    run(folder, "git", "config", "user.email", "tester@localhost")
    return commit(folder)


def commit(folder: Path) -> Path:
    """Everything in `folder`, committed."""
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-q", "-m", "as it lies here")
    return folder


def with_outs(folder: Path) -> Path:
    """A clone's pipeline as far as it has run here: DVC's cache and the example store by hard links, checked out."""
    cache = Path(run(ROOT, "python", "-m", "dvc", "cache", "dir").strip())
    linked(cache, folder / ".dvc/cache")
    linked(ROOT / "data/store", folder / "data/store")
    run(folder, "python", "-m", "dvc", "config", "--local", "cache.type", "hardlink,symlink,copy")
    run(folder, "python", "-m", "dvc", "checkout", "--quiet", "--allow-missing")
    return folder


def linked(source: Path, target: Path) -> None:
    """A file or folder by hard links, by copies where the file system takes no links; nothing where it is missing."""

    def link(one: str, two: str) -> None:
        try:
            os.link(one, two)
        except OSError:
            shutil.copy2(one, two)

    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=link, dirs_exist_ok=True)
    elif source.exists():
        link(str(source), str(target))
