"""What git says of this checkout, whatever the environment and the user's own configuration of git say."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from src.base.errors import UserError
from src.base.files import ROOT

PATIENCE = 60.0  # seconds, for a checkout on a slow disk
ELSEWHERE = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE",
    "GIT_PREFIX", "GIT_EXTERNAL_DIFF",
)  # fmt: skip
"""Variables that point git to another repository than the one it runs in. A hook of git sets some of them."""
SETTINGS = {"core.quotePath": "false", "log.showSignature": "false", "color.ui": "false", "core.fsmonitor": "false"}
"""Settings of the user that would change what git prints."""
MARK = "params.yaml"  # a file of the project that its repository holds


def git(*words: str, root: Path = ROOT) -> bytes:
    """What git prints. Raises UserError where it fails, with git's own reason and what helps."""
    settings = {**SETTINGS, "safe.directory": str(root)}  # who runs the code in a folder trusts it
    options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
    try:
        done = subprocess.run(
            ["git", *options, *words], cwd=root, capture_output=True, check=False, timeout=PATIENCE, env=environment()
        )
    except FileNotFoundError as error:
        raise UserError("git is not installed. Install it, then the same command again") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(f"git does not run: {error}") from error
    if done.returncode:
        raise UserError(refusal(done.stderr.decode(errors="replace"), root))
    return done.stdout


def environment() -> dict[str, str]:
    """The environment in which git is asked: in English, and about the folder that it runs in."""
    kept = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    return {**kept, "LC_ALL": "C.UTF-8", "LANGUAGE": "C", "GIT_OPTIONAL_LOCKS": "0"}


def refusal(said: str, root: Path) -> str:
    """What git's error means, and what helps."""
    reason = next((line for line in said.strip().splitlines() if line.startswith("fatal:")), said.strip())
    if "dubious ownership" in said:
        return (
            f"{root} belongs to another user, and git reads it for nobody else. Trust it, where you trust its owner: "
            f"git config --global --add safe.directory {shlex.quote(str(root))}"
        )
    if "not a git repository" in said:
        return f"{root} is no git checkout (a tarball, or a copy without .git). Take a clone: git clone <address>"
    return f"git says: {reason.removeprefix('fatal: ') or 'nothing'}"


def tracked(root: Path = ROOT) -> None:
    """Raises UserError where the repository is another's, as where a tarball was unpacked inside one."""
    if not git("ls-files", "--", MARK, root=root):
        raise UserError(
            f"{root} lies inside a git repository that does not hold it, so no commit says which code this is. Take a "
            "clone: git clone <address>"
        )


def commit(root: Path = ROOT) -> tuple[str, str]:
    """(hash, day) of the checked-out commit. Raises UserError where there is none."""
    tracked(root)
    revision, day = git("log", "-1", "--format=%H %cs", root=root).decode().split()
    return revision, day


def committed_at(root: Path = ROOT) -> int:
    """When the checked-out commit was made, in seconds since 1970-01-01 UTC. Raises UserError where there is none."""
    return int(git("log", "-1", "--format=%ct", root=root))


def changes(paths: Sequence[str] = (), root: Path = ROOT) -> str:
    """The files that git does not have as they are here, a line each; "" where all is committed. Raises UserError."""
    said = git("status", "--porcelain", "--untracked-files=normal", "--", *(paths or ["."]), root=root)
    return said.decode(errors="replace").rstrip()
