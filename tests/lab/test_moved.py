"""A project folder that was moved, copied, linked to or oddly named, and a database that was changed."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from src.base import conf
from src.base.errors import UserError
from src.base.schema import Model
from src.lab import moved, opening, runs
from src.lab.facts import Facts
from src.lab.refusals import refused

NAME = "a-test"
ODD = "50%25 off? #1 of 'é中' & co"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder with a model and a cell in its database, which takes MLflow seconds to create."""
    folder = tmp_path_factory.mktemp("made")
    log(folder, "one")
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    """A copy of it for one test."""
    return Path(shutil.copytree(made, tmp_path / "project"))


def log(folder: Path, fingerprint: str) -> None:
    """Log a cell as a run does."""
    client, experiment = opened(folder)
    parent = runs.parent_run(client, experiment, conf.load("model", "gpt2", Model), "pilot", {})
    runs.log_cell(client, experiment, parent, facts(fingerprint), "run")
    runs.close(client, experiment, parent)


def opened(folder: Path) -> tuple[Any, str]:
    return opening.opened(moved.uri_of(folder / "mlflow.db"), NAME)


def facts(fingerprint: str) -> Facts:
    shas = dict.fromkeys(("data_sha256", "prompts_sha256", "completions_sha256"), "0" * 64)
    params = {"task": "a", "condition": "b", "task.source": "c", "task.file": "d"}
    metrics = {"n": 1, "accuracy": 1.0, "chance": 0.5}
    return Facts(
        f"cell {fingerprint}", params, metrics, {"fingerprint": fingerprint, **shas}, [{"example": fingerprint}]
    )


def tables(folder: Path) -> dict[str, Any]:
    """fingerprint -> its table of examples, read from the files under `folder` as `mlflow ui` would read them."""
    client, experiment = opened(folder)
    found = {}
    for run in client.search_runs([experiment], "tags.kind = 'cell'"):
        place = run.info.artifact_uri.removeprefix("mlflow-artifacts:/")
        found[run.data.tags["fingerprint"]] = json.loads((folder / "mlartifacts" / place / runs.EXAMPLES).read_text())
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def heard(work: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        work()
    return [str(w.message) for w in found if "MLflow" in str(w.message)]


@contextlib.contextmanager
def sql(folder: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        yield database


def schema(database: Path, version: str) -> None:
    with sql(database.parent) as opened_database:
        opened_database.execute("update alembic_version set version_num = ?", [version])


def as_before(folder: Path, named: Path) -> None:
    """Make the database one of an earlier version, which held the path of the folder that it was made in."""
    with sql(folder) as database:
        old = (named / "mlartifacts").as_uri()
        database.execute("update experiments set artifact_location = ? where name = ?", [old, NAME])
        database.execute("update runs set artifact_uri = ? || '/' || run_uuid || '/artifacts'", [old])


# ---- the folder ----------------------------------------------------------------------


def test_no_path_of_the_folder_stands_with_a_run(project: Path, made: Path) -> None:
    with sql(project) as database:
        kept = [*database.execute("select artifact_uri from runs")]
        kept += database.execute("select artifact_location from experiments where name = ?", [NAME])
    assert len(kept) == 3
    assert not [uri for (uri,) in kept if str(made) in uri or "file:" in uri]


def test_a_moved_folder_has_its_artifacts_and_logs_no_file_to_the_old_place(project: Path, tmp_path: Path) -> None:
    project.rename(tmp_path / "elsewhere")
    log(tmp_path / "elsewhere", "two")
    assert set(tables(tmp_path / "elsewhere")) == {"one", "two"}
    assert not project.exists()


def test_a_copy_leaves_the_original_as_it_is(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project, tmp_path / "copy")
    before = contents(project / "mlartifacts")
    log(tmp_path / "copy", "two")
    assert set(tables(tmp_path / "copy")) == {"one", "two"}
    assert contents(project / "mlartifacts") == before
    assert set(tables(project)) == {"one"}


def test_an_odd_name_and_a_link_are_names_like_others(project: Path, tmp_path: Path) -> None:
    odd = project.rename(tmp_path / ODD)
    log(odd, "two")
    (tmp_path / "link").symlink_to(odd, target_is_directory=True)
    log(tmp_path / "link", "three")
    assert set(tables(odd)) == set(tables(tmp_path / "link")) == {"one", "two", "three"}


# ---- a database of an earlier version ----------------------------------------------------------------------


def test_a_database_that_names_its_old_folder_is_mended_once_with_a_word(project: Path, tmp_path: Path) -> None:
    as_before(project, tmp_path / "gone")
    (said,) = heard(lambda: log(project, "two"))
    assert "2 runs now find their artifacts in mlartifacts/ beside it" in said
    assert heard(lambda: log(project, "two")) == []
    assert tables(project)["one"] == {"columns": ["example"], "data": [["one"]]}
    assert not (tmp_path / "gone").exists()


def test_what_was_logged_to_the_old_place_after_a_move_is_brought_here(project: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(project / "mlartifacts", old / "mlartifacts")
    shutil.rmtree(next(path.parent for path in (project / "mlartifacts").rglob("*") if path.name == runs.EXAMPLES))
    as_before(project, old)
    before = contents(old)
    (said,) = heard(lambda: opened(project))
    assert "The artifacts of 1 runs were copied here" in said
    assert set(tables(project)) == {"one"}
    assert contents(old) == before
    assert contents(project / "mlartifacts") == {k.removeprefix("mlartifacts/"): v for k, v in before.items()}


def test_an_experiment_that_someone_placed_elsewhere_stays_there(project: Path, tmp_path: Path) -> None:
    with sql(project) as database:
        elsewhere = (tmp_path / "files").as_uri()
        database.execute("update experiments set artifact_location = ? where name = ?", [elsewhere, NAME])
    assert heard(lambda: log(project, "two")) == []
    assert [path.name for path in (tmp_path / "files").rglob("*.json")] == [runs.EXAMPLES]


# ---- what is deleted or damaged ----------------------------------------------------------------------


def test_a_deleted_experiment_is_restored_with_a_word_and_without_its_doubles(project: Path) -> None:
    client, experiment = opened(project)
    (cell,) = client.search_runs([experiment], "tags.kind = 'cell'")
    doubled = client.create_run(experiment, run_name=cell.info.run_name, tags=dict(cell.data.tags))
    client.delete_run(doubled.info.run_id)
    client.delete_experiment(experiment)
    (said,) = heard(lambda: log(project, "two"))
    assert f"the experiment '{NAME}' was deleted. It is restored, with its runs (2 cells and models)" in said
    client, again = opened(project)
    assert again == experiment
    assert len(client.search_runs([experiment], "tags.kind = 'cell'")) == 2
    assert heard(lambda: opened(project)) == []


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            lambda path: path.write_bytes(path.read_bytes()[:20_000]),
            r"mlflow.db cannot be opened: .*malformed.* Move it away: .* python -m src.tracking sync",
        ),
        (lambda path: path.write_text("another program's file\n" * 99), r"mlflow.db cannot be opened: .* Move it away"),
        (
            lambda path: schema(path, "f00"),
            r"mlflow.db was written by a newer MLflow: .*Use that MLflow, or another database: tracking.uri=",
        ),
        (
            lambda path: schema(path, "451aebb31d03"),  # of MLflow 1.0
            r"mlflow.db was written by an older MLflow: .*python -m mlflow db upgrade sqlite:///mlflow.db",
        ),
        (lambda path: path.chmod(0o444), r"mlflow.db may not be written: .*Give yourself the right"),
    ],
    ids=["truncated", "foreign", "newer", "older", "read-only"],
)
def test_a_database_that_cannot_be_used_is_named_with_what_mends_it(
    project: Path, harm: Callable[[Path], Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = project / "mlflow.db"
    harm(path)
    if not path.stat().st_mode & 0o200:  # root may write all the same
        monkeypatch.setattr("os.access", lambda asked, _: asked != path)
    before = path.read_bytes()
    with pytest.raises(UserError, match=message) as error:
        opened(project)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == before


def test_an_environment_under_a_name_that_mlflow_cannot_read_is_named(
    tmp_path: Path,
) -> None:
    """alembic reads a % in the path of MLflow's own files as the beginning of a variable."""
    from alembic.config import Config

    with pytest.raises(ValueError, match="interpolation") as of_alembic:
        Config().set_main_option("script_location", "/data/me/50% of it/.venv/mlflow")
    said = str(refused(of_alembic.value, tmp_path / "mlflow.db", "any"))
    assert "make .venv anew there" in said
    assert "Move it away" not in said
