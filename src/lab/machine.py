"""The machine check of `python -m src.plan`: one line for each thing that a run depends on."""

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

from src.base import git
from src.base.errors import UserError
from src.base.files import ROOT
from src.base.network import check_proxies

KEYS = ("HF_TOKEN", "OPENAI_API_KEY")
PACKAGES = ("torch", "transformers", "dvc", "mlflow")
PATIENCE = 3.0  # seconds that a check waits for something outside this process


@dataclass(frozen=True)
class Check:
    """One line of the machine check."""

    what: str
    state: str
    todo: str = ""  # the remedy, "" where nothing is wrong


def checks() -> list[Check]:
    """All checks. They run side by side, so that a slow one delays no other."""
    with ThreadPoolExecutor(len(ALL)) as pool:
        return list(pool.map(lambda check: check(), ALL))


def versions() -> Check:
    """Python and the packages that numbers depend on."""
    present = [f"Python {platform.python_version()}"]
    missing = []
    for name in PACKAGES:
        try:
            present.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    return Check("versions", ", ".join(present), f"install {', '.join(missing)}: make .venv/ready" if missing else "")


def processors() -> Check:
    """Cores, memory and GPUs."""
    import psutil

    cores, memory = os.cpu_count() or 1, psutil.virtual_memory()
    state = f"{cores} cores, {memory.total / 1e9:.0f} GB of memory ({memory.available / 1e9:.0f} free), {gpus()} GPUs"
    return Check("processors", state)


def gpus() -> int:
    """How many GPUs nvidia-smi lists. Without nvidia-smi: 0."""
    if not shutil.which("nvidia-smi"):
        return 0
    return sum(line.startswith("GPU") for line in output_of("nvidia-smi", "-L").splitlines())


def disk() -> Check:
    """Free space on the disks of the project and of the hub's cache."""
    from huggingface_hub import constants

    cache = next(p for p in (Path(constants.HF_HUB_CACHE), *Path(constants.HF_HUB_CACHE).parents) if p.exists())
    here_gb, cache_gb = (shutil.disk_usage(folder).free / 1e9 for folder in (ROOT, cache))
    todo = "make room or set HF_HOME to a larger disk" if min(here_gb, cache_gb) < 5 else ""
    return Check("disk", f"{here_gb:,.0f} GB free here, {cache_gb:,.0f} GB in the hub's cache", todo)


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
        check_proxies()
    except UserError as error:
        return Check("hub", "not asked", str(error))
    try:
        httpx.head(constants.ENDPOINT, timeout=PATIENCE)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Check("hub", f"{constants.ENDPOINT} does not answer ({error})", todo)
    return Check("hub", f"{constants.ENDPOINT} answers")


def keys() -> Check:
    """Which keys the environment has. Their values are never shown."""
    return Check("keys", ", ".join(f"{name} {'set' if os.environ.get(name) else 'not set'}" for name in KEYS))


def checkout() -> Check:
    """The commit, and whether the tree has changes beside it."""
    try:
        revision, dirty = git.commit()[0][:12], bool(git.changes())
    except UserError as error:
        return Check("git", "unknown", str(error))
    return Check("git", revision + (", with changes" if dirty else ""), "commit first" if dirty else "")


def dvc() -> Check:
    """How many stages are out of date, and which remote DVC pushes to."""
    changed = [line for line in output_of(sys.executable, "-m", "dvc", "status").splitlines() if line[:1].isalnum()]
    stages = [line.rstrip(":") for line in changed if line.endswith(":")]
    remotes = output_of(sys.executable, "-m", "dvc", "remote", "list").split()
    status = f"{len(stages)} stages out of date" if stages else (changed[:1] or ["not known in time"])[0]
    where = f"remote {remotes[0]}" if remotes else "no remote (docs/remotes.md)"
    return Check("dvc", f"{status}; {where}", "dvc repro" if stages else "")


def output_of(*command: str) -> str:
    """The output of a command. "" where it cannot start or takes too long."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=2 * PATIENCE)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode(errors="replace")


ALL: tuple[Callable[[], Check], ...] = (versions, processors, disk, stores, hub, keys, checkout, dvc)
