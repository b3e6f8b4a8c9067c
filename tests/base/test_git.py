"""What is read out of git is of this checkout, whatever the environment, the user and the place."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from src.base import git
from src.base.errors import UserError
from src.base.git import MARK


def did(folder: Path, *words: str) -> None:
    name = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "protocol.file.allow=always")
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    subprocess.run(["git", *name, *words], cwd=folder, env=env, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one commit, whose path has a space and an umlaut."""
    (folder := tmp_path / "ein Ordnér").mkdir()
    (folder / MARK).write_text("suite: pilot\n")
    did(folder, "init", "-q", "-b", "main")
    did(folder, "add", ".")
    did(folder, "commit", "-qm", "one")
    return folder


def test_the_commit_is_that_of_the_folder_where_a_hook_points_elsewhere(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = git.commit(checkout)
    (other := tmp_path / "other").mkdir()
    did(other, "init", "-q")
    did(other, "commit", "-q", "--allow-empty", "-m", "another")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert git.commit(checkout) == before


@pytest.mark.parametrize(
    "setting", ["log.showSignature", "core.quotePath", "color.ui=always", "status.short", "status.branch"]
)
def test_no_setting_of_the_user_changes_what_is_read(
    checkout: Path, setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkout / "Prüfung").write_text("x")
    before = git.commit(checkout), git.changes(root=checkout)
    key, _, value = setting.partition("=")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    subprocess.run(["git", "config", "--file", tmp_path / "config", key, value or "true"], check=True)
    assert (git.commit(checkout), git.changes(root=checkout)) == before
    assert "Prüfung" in before[1]


def test_a_worktree_a_submodule_and_a_shallow_clone_have_their_commit(checkout: Path, tmp_path: Path) -> None:
    revision = git.commit(checkout)
    did(checkout, "worktree", "add", "-q", "--detach", str(tmp_path / "worktree"))
    did(tmp_path, "clone", "-q", "--depth", "1", checkout.as_uri(), "shallow")
    (outer := tmp_path / "outer").mkdir()
    did(outer, "init", "-q")
    did(outer, "submodule", "add", "-q", str(checkout), "sub")
    did(outer, "commit", "-qm", "outer")
    for place in (tmp_path / "worktree", tmp_path / "shallow", outer / "sub"):
        assert git.commit(place) == revision
        assert git.changes(root=place) == ""


def test_a_tarball_inside_another_repository_has_no_commit(checkout: Path, tmp_path: Path) -> None:
    """The commit of the repository around it says nothing of this code."""
    did(tmp_path, "init", "-q")
    did(tmp_path, "commit", "-q", "--allow-empty", "-m", "another")
    shutil.rmtree(checkout / ".git")
    with pytest.raises(UserError, match=r"lies inside a git repository that does not hold it, .*git clone"):
        git.commit(checkout)


def test_a_tarball_is_called_one(checkout: Path) -> None:
    shutil.rmtree(checkout / ".git")
    with pytest.raises(UserError, match=r"is no git checkout .*git clone"):
        git.changes(root=checkout)


def test_git_that_is_not_installed_is_named(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(checkout))
    with pytest.raises(UserError, match=r"git is not installed"):
        git.commit(checkout)


def test_a_repository_without_a_commit_is_answered_in_words(tmp_path: Path) -> None:
    did(tmp_path, "init", "-q")
    (tmp_path / MARK).write_text("")
    did(tmp_path, "add", ".")
    with pytest.raises(UserError, match=r"git says: your current branch .* does not have any commits"):
        git.commit(tmp_path)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to another user")
def test_a_checkout_of_another_user_is_read(checkout: Path) -> None:
    """git calls it dubious. Who runs the code in a folder has trusted it already."""
    revision = git.commit(checkout)
    for path in (checkout, checkout / ".git"):
        os.chown(path, 12345, 12345)
    plain = subprocess.run(["git", "log", "-1"], cwd=checkout, capture_output=True, text=True, check=False)
    assert "dubious ownership" in plain.stderr
    assert git.commit(checkout) == revision


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to another user")
def test_the_remedy_that_is_named_for_dubious_ownership_is_one(checkout: Path, tmp_path: Path) -> None:
    """An older git does not take the trust from us. What the error says is then typed as it stands."""
    for path in (checkout, checkout / ".git"):
        os.chown(path, 12345, 12345)
    env = {**os.environ, "HOME": str(tmp_path), "GIT_CONFIG_GLOBAL": str(tmp_path / "config")}
    plain = ["git", "log", "-1"]
    said = subprocess.run(plain, cwd=checkout, env=env, capture_output=True, text=True, check=False).stderr
    remedy = git.refusal(said, checkout).partition("owner: ")[2]
    subprocess.run(remedy, cwd=tmp_path, env=env, shell=True, check=True)
    assert subprocess.run(plain, cwd=checkout, env=env, capture_output=True, check=False).returncode == 0
