"""A team's MLflow: PostgreSQL, proxied artifacts, logins, a path prefix, https. No password is left anywhere."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from src.base.files import ROOT
from src.base.logins import USER_OF_SERVER
from tests import team as servers
from tests import warm
from tests.team import ADMIN, CANARY, PASSWORD, Team
from tests.test_pipeline import made_up
from tests.tiny import tiny

pytestmark = pytest.mark.slow

EXPERIMENT, CELLS = "of-the-team", 2
USERS = {name: f"{CANARY}-of-the-{name}" for name in ("writer", "reader")}


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    with servers.serving(tmp_path_factory.mktemp("team")) as team:
        for name, password in USERS.items():
            asked(team, "users/create", {"username": name, "password": password})
        asked(team, "experiments/create", {"name": "of another team"})  # so that ours is not the first
        yield team


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    tiny("gpt2", folder / "weights", 0)
    (folder / "tasks").mkdir()
    (folder / "tasks/social_iqa.jsonl").write_text(made_up("social_iqa"))
    return folder


def asked(team: Team, what: str, body: dict[str, Any]) -> Any:
    """What the server answers its admin."""
    data = json.dumps(body).encode()
    return json.loads(got(f"{team.uri}/api/2.0/mlflow/{what}", data))


def got(address: str, data: bytes | None = None) -> bytes:
    login = base64.b64encode(f"{ADMIN}:{PASSWORD}".encode()).decode()
    request = urllib.request.Request(
        address, data, {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return bytes(answer.read())


def words(place: Path, store: str, uri: str) -> list[str]:
    return [
        "+model=gpt2", f"model.path={place / 'weights'}", "model.tasks=null", "limit=6", "seeds=[2266]",
        f"data={place / 'tasks'}", f"store={place / store / 'store'}", "tasks=[social_iqa]",
        "conditions=[closed_few,closed_adv_zero]", f"tracking.uri={uri}", f"tracking.experiment={EXPERIMENT}",
    ]  # fmt: skip


def started(*given: str, **variables: str) -> warm.Running:
    return warm.started(*given, cwd=ROOT, env=variables)


def login(name: str) -> dict[str, str]:
    return dict(zip(USER_OF_SERVER, (name, PASSWORD if name == ADMIN else USERS[name]), strict=True))


def ran(place: Path, store: str, uri: str, *more: str, **variables: str) -> tuple[str, str]:
    """What a run of two cells says. It ends well whatever MLflow does."""
    running = started("src.run", *words(place, store, uri), *more, **variables)
    said, complained = running.communicate(timeout=500)
    assert running.returncode == 0, complained
    assert f"{CELLS} of {CELLS} cells done" in said
    assert CANARY not in said + complained
    return said, complained


def tracked(place: Path, store: str, uri: str, what: str, **variables: str) -> tuple[int, str, str]:
    given = (what, f"store={place / store / 'store'}", f"tracking.uri={uri}", f"tracking.experiment={EXPERIMENT}")
    running = started("src.tracking", *given, **variables)
    said, complained = running.communicate(timeout=500)
    assert CANARY not in said + complained
    return running.returncode, said, complained


@pytest.fixture(scope="module")
def logged(team: Team, place: Path) -> str:
    """Two processes that log the same cells at once. The id of the experiment."""
    running = [started("src.run", *words(place, store, team.uri), **login("writer")) for store in ("one", "two")]
    for each in running:
        _, complained = each.communicate(timeout=500)
        assert each.returncode == 0, complained
        assert "MLflow" not in complained
    return str(asked_experiment(team)["experiment_id"])


def asked_experiment(team: Team) -> Any:
    found = json.loads(got(f"{team.uri}/api/2.0/mlflow/experiments/get-by-name?experiment_name={EXPERIMENT}"))
    return found["experiment"]


def cells(team: Team, experiment: str) -> list[Any]:
    body = {"experiment_ids": [experiment], "filter": "tags.kind = 'cell'"}
    return list(asked(team, "runs/search", body)["runs"])


def test_runs_of_two_processes_are_whole_and_their_tables_come_through_the_server(team: Team, logged: str) -> None:
    found = cells(team, logged)
    assert len(found) == CELLS
    for run in found:
        info = run["info"]
        assert (info["status"], info["artifact_uri"].partition(":")[0]) == ("FINISHED", "mlflow-artifacts")
        table = json.loads(got(f"{team.uri}/get-artifact?path=examples.json&run_uuid={info['run_id']}"))
        assert len(table["data"]) == 6


def test_links_hold_the_experiments_own_id_and_the_prefix(team: Team, place: Path, logged: str) -> None:
    code, said, _ = tracked(place, "one", team.uri, "ui", **login("reader"))
    assert code == 0
    assert logged != "1"
    assert f"{team.uri}/#/experiments/{logged}/runs?viewStateShareKey=cells" in said
    assert f"0 cells logged, {CELLS} were there already" in said
    assert "mlflow.sharedViewState.cells" in str(asked_experiment(team)["tags"])


@pytest.mark.parametrize(
    ("prefix", "variables", "message"),
    [
        ("", {}, "MLflow refuses the login, the run goes on without it"),
        ("", {**login("writer"), "MLFLOW_TRACKING_PASSWORD": f"{CANARY}-wrong"}, "MLflow refuses the login"),
        ("", {"MLFLOW_TRACKING_TOKEN": f"{CANARY}-of-last-year"}, "MLflow refuses the login"),
        ("", login("reader"), f"let this user log, .*permission EDIT on experiment '{EXPERIMENT}'"),
        ("/wrong", login("writer"), "let this user log, .*path prefix"),  # 403: only a server without logins says 404
    ],
    ids=["nobody", "wrong password", "old token", "reader", "wrong prefix"],
)
def test_a_server_that_refuses_costs_one_line_that_says_why_and_no_cell(
    team: Team, place: Path, logged: str, prefix: str, variables: dict[str, str], message: str, request: Any
) -> None:
    store = f"refused-{request.node.callspec.id.replace(' ', '-')}"
    _, complained = ran(place, store, team.uri + prefix, **variables)
    (line,) = [line for line in complained.splitlines() if "MLflow" in line]
    assert re.search(message, line)
    assert "Later: python -m src.tracking sync" in line
    assert "out of reach" not in line
    code, said, complained = tracked(place, store, team.uri, "sync", **login("writer"))
    assert code == 0, complained
    assert f"0 cells logged, {CELLS} were there already" in said  # equal cells, which `logged` has logged
    if variables != login("reader"):
        code, _, complained = tracked(place, store, team.uri + prefix, "sync", **variables)
        assert (code, len(complained.splitlines())) == (1, 1)


def test_a_login_in_the_address_works_and_is_left_nowhere(team: Team, place: Path, logged: str) -> None:
    """Not even in what Hydra and its launchers write down of a sweep."""
    full = team.uri.replace("://", f"://writer:{USERS['writer']}@")
    ran(place, "one", full)
    sweep = f"hydra.sweep.dir={place / 'multirun'}"
    running = started("src.run", "-m", *words(place, "three", full), sweep)
    said, complained = running.communicate(timeout=500)
    assert running.returncode == 0, complained
    assert CANARY not in said + complained
    assert (place / "multirun").is_dir()
    dumped = subprocess.run(["pg_dump", team.postgres], capture_output=True, check=True).stdout
    assert b"examples.json" in dumped
    assert CANARY.encode() not in dumped
    holding = [
        path
        for folder in (place, team.folder / "artifacts", ROOT / "reports", ROOT / "multirun")
        for path in folder.rglob("*")
        if path.is_file() and CANARY.encode() in path.read_bytes()
    ]
    assert holding == []


def test_a_certificate_of_ones_own_is_refused_by_name_until_it_is_named(team: Team, place: Path, logged: str) -> None:
    with servers.https(team) as (uri, certificate):
        _, complained = ran(place, "untrusted", uri, **login("writer"))
        assert "MLflow's certificate is not trusted, the run goes on without it" in complained
        assert "MLFLOW_TRACKING_SERVER_CERT_PATH" in complained
        for trust in (
            {"MLFLOW_TRACKING_SERVER_CERT_PATH": str(certificate)},
            {"REQUESTS_CA_BUNDLE": str(certificate)},
            {"MLFLOW_TRACKING_INSECURE_TLS": "true"},
        ):
            code, said, complained = tracked(place, "untrusted", uri, "sync", **login("writer"), **trust)
            assert code == 0, complained
            assert f"{CELLS} were there already" in said


def test_an_experiment_deleted_on_the_server_is_restored_by_who_may(team: Team, place: Path, logged: str) -> None:
    asked(team, "experiments/delete", {"experiment_id": logged})
    code, _, complained = tracked(place, "one", team.uri, "sync", **login("reader"))
    assert code == 1
    assert "does not let this user do that" in complained
    code, said, complained = tracked(place, "one", team.uri, "sync", **login("writer"))
    assert code == 0, complained
    assert "was deleted. It is restored" in complained
    assert f"{CELLS} were there already" in said
    assert len(cells(team, logged)) == CELLS
