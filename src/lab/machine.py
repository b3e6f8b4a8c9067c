""""""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from src.base.files import ROOT
from src.lab.runs import git_state

KEYS = ("HF_TOKEN", "OPENAI_API_KEY")
PACKAGES = ("torch", "transformers", "dvc", "mlflow")
PATIENCE = 3.0  # seconds that a check may wait for something outside this process


@dataclass(frozen=True)
class Check:
    """One line of the machine check."""

    what: str
    found: str
    todo: str = ""  # what would mend it; "" where nothing need be done


def checks() -> list[Check]:
    """Every check, at once: no line waits for another."""
    with ThreadPoolExecutor(len(ALL)) as pool:
        return list(pool.map(lambda check: check(), ALL))


def versions() -> Check:
    """Python and the packages that numbers depend on."""
    found = [f"Python {platform.python_version()}"]
    missing = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    return Check("versions", ", ".join(found), f"install {', '.join(missing)}: make .venv/ready" if missing else "")


def processors() -> Check:
    """Cores, memory and GPUs."""
    import psutil

    cores, memory = os.cpu_count() or 1, psutil.virtual_memory()
    there = f"{cores} cores, {memory.total / 1e9:.0f} GB of memory ({memory.available / 1e9:.0f} free), {gpus()} GPUs"
    return Check("processors", there)


def gpus() -> int:
    """How many GPUs nvidia-smi lists; 0 without it."""
    if not shutil.which("nvidia-smi"):
        return 0
    return sum(line.startswith("GPU") for line in said("nvidia-smi", "-L").splitlines())


def disk() -> Check:
    """Room where the project and the hub's cache lie."""
    from huggingface_hub import constants

    cache = next(p for p in (Path(constants.HF_HUB_CACHE), *Path(constants.HF_HUB_CACHE).parents) if p.exists())
    here, there = (shutil.disk_usage(folder).free / 1e9 for folder in (ROOT, cache))
    todo = "make room or set HF_HOME to a larger disk" if min(here, there) < 5 else ""
    return Check("disk", f"{here:,.0f} GB free here, {there:,.0f} GB in the hub's cache", todo)


def stores() -> Check:
    """The example store and MLflow's database of this folder."""
    segments = list((ROOT / "data/store").glob("*.jsonl"))
    size = sum(path.stat().st_size for path in segments) / 1e6
    runs = "mlflow.db" if (ROOT / "mlflow.db").exists() else "no mlflow.db yet"
    return Check("stores", f"data/store: {size:,.0f} MB in {len(segments)} files; {runs}")


def hub() -> Check:
    """Whether the model hub or its mirror answers."""
    import httpx2 as httpx
    from huggingface_hub import constants

    todo = "weights come from HF_HOME, a mirror (HF_ENDPOINT) or a folder (model.path=)"
    if constants.HF_HUB_OFFLINE:
        return Check("hub", "HF_HUB_OFFLINE is set: only what the cache holds", todo)
    try:
        httpx.head(constants.ENDPOINT, timeout=PATIENCE)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Check("hub", f"{constants.ENDPOINT} does not answer ({error})", todo)
    return Check("hub", f"{constants.ENDPOINT} answers")


def keys() -> Check:
    """Which keys the environment has; never their values."""
    return Check("keys", ", ".join(f"{name} {'set' if os.environ.get(name) else 'not set'}" for name in KEYS))


def git() -> Check:
    """Commit and whether it is all of the tree."""
    state = git_state()
    dirty = state["git_dirty"] == "true"
    return Check("git", state["git_commit"][:12] + (", with changes" if dirty else ""), "commit first" if dirty else "")


def dvc() -> Check:
    """What DVC would do, and where it pushes."""
    changed = [line for line in said(sys.executable, "-m", "dvc", "status").splitlines() if line[:1].isalnum()]
    stages = [line.rstrip(":") for line in changed if line.endswith(":")]
    remotes = said(sys.executable, "-m", "dvc", "remote", "list").split()
    found = f"{len(stages)} stages out of date" if stages else (changed[:1] or ["not known in time"])[0]
    where = f"remote {remotes[0]}" if remotes else "no remote (docs/remotes.md)"
    return Check("dvc", f"{found}; {where}", "dvc repro" if stages else "")


def said(*command: str) -> str:
    """What a command prints; "" where it fails or takes too long."""
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=2 * PATIENCE).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


ALL: tuple[Callable[[], Check], ...] = (versions, processors, disk, stores, hub, keys, git, dvc)
