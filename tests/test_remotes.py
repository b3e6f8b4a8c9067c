"""Results move between machines through a DVC remote: pushed here, pulled there, nothing computed again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from src import collect
from src.base import conf
from src.base.errors import UserError
from src.base.files import ROOT
from src.question.examples import Example
from tests.tiny import tiny

MODEL, TASK, CONDITION = "llama_7b", "social_iqa", "closed_adv_zero"
OUT = f"data/outputs/{MODEL}"
RUN = (
    f"python -m src.run +model={MODEL} model.path=weights model.dtype=float32 tasks=[{TASK}] conditions=[{CONDITION}] "
    f"seeds=[2266] limit=3 data=tasks out={OUT} tracking.uri=sqlite:///runs.db"
)
STAGES = {
    "infer": {"cmd": RUN, "deps": ["weights", "tasks", f"conf/model/{MODEL}.yaml"], "outs": [OUT]},
    "collect": {"cmd": "python -m src.collect", "deps": ["data/outputs"], "outs": ["data/scores.parquet"]},
}
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


def said(folder: Path, *command: str) -> str:
    who = {f"GIT_{role}_{what}": "t@localhost" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "AWS_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=folder, env={**kept, **who, **KEYS, "PATH": path, "DVC_NO_ANALYTICS": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dvc(folder: Path, *words: str) -> str:
    return said(folder, sys.executable, "-m", "dvc", *words)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with this code, a tiny model and two stages, computed once."""
    folder = tmp_path_factory.mktemp("lab")
    for part in ("src", "conf"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "data/published").mkdir(parents=True)
    shutil.copy(conf.EXEMPLARS, folder / "data/published")
    shutil.copy(ROOT / "params.yaml", folder)
    tiny("llama", folder / "weights")
    (folder / "tasks").mkdir()
    rows = [Example(f"{TASK}/{i}", str(i), f"What floats, case {i}?", ("a", "b"), 0, "a", None) for i in range(4)]
    (folder / f"tasks/{TASK}.jsonl").write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}, sort_keys=False))
    (folder / ".gitignore").write_text("__pycache__/\n/data/store/\n/runs.db\n/mlartifacts/\n/mlruns/\n")
    said(folder, "git", "init", "-q")
    dvc(folder, "init", "-q")
    dvc(folder, "add", "-q", "weights", "tasks")
    dvc(folder, "repro", "-q")
    return folder


@pytest.fixture(params=["folder", "s3"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str | None]]:
    """(url, endpoint) of an empty remote."""
    if request.param == "folder":
        yield str(tmp_path / "remote"), None
        return
    boto3, server = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    endpoint = "http://{}:{}".format(*running.get_host_and_port())
    names = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=endpoint, **names).create_bucket(Bucket="lab")
    try:
        yield "s3://lab/audit", endpoint
    finally:
        running.stop()


@pytest.mark.slow
def test_what_was_computed_here_is_whole_there_and_not_computed_again(
    lab: Path, remote: tuple[str, str | None], tmp_path: Path
) -> None:
    url, endpoint = remote
    dvc(lab, "remote", "add", "-f", "-d", "lab", url)
    if endpoint:
        dvc(lab, "remote", "modify", "lab", "endpointurl", endpoint)
    said(lab, "git", "add", "-A")
    said(lab, "git", "commit", "-qm", "computed")
    dvc(lab, "push")
    there = tmp_path / "there"
    said(tmp_path, "git", "clone", "-q", str(lab), str(there))
    assert not (there / OUT).exists()
    dvc(there, "pull")
    for path in (f"{OUT}/{TASK}__{CONDITION}.jsonl", f"{OUT}/ledger.json", "data/scores.parquet"):
        assert (there / path).read_bytes() == (lab / path).read_bytes()
    assert "Data and pipelines are up to date" in dvc(there, "status")
    assert "Data and pipelines are up to date" in dvc(there, "repro")
    assert not (there / "data/store").exists()
    assert "in sync" in dvc(there, "status", "--cloud")


@pytest.fixture
def brought(lab: Path, tmp_path: Path) -> Path:
    """Results as somebody might copy them in by hand."""
    shutil.copytree(lab / OUT, tmp_path / "outputs" / MODEL)
    assert len(collect.collect(tmp_path / "outputs")) == 3
    return tmp_path / f"outputs/{MODEL}/{TASK}__{CONDITION}.jsonl"


def rewritten(path: Path, number: int, **values: object) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[number] |= values
    path.chmod(0o644)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.slow
def test_a_cell_with_another_completion_is_refused_by_name(brought: Path) -> None:
    row = json.loads(brought.read_text().splitlines()[1])
    changed = {seed: {**completion, "text": "(b)!"} for seed, completion in row["completions"].items()}
    rewritten(brought, 1, completions=changed)
    with pytest.raises(UserError, match=rf"{brought.name} was edited: its completions differ"):
        collect.collect(brought.parents[1])


@pytest.mark.slow
def test_a_cell_of_another_run_is_refused_by_name(brought: Path) -> None:
    rewritten(brought, 0, fingerprint="0" * 12)
    with pytest.raises(UserError, match=rf"{brought.name} has the fingerprint 0{{12}}, ledger.json .* another run"):
        collect.collect(brought.parents[1])


@pytest.mark.slow
def test_a_cell_that_the_ledger_does_not_name_is_refused(brought: Path) -> None:
    extra = brought.with_name(f"{TASK}__closed_adv_few.jsonl")
    shutil.copy(brought, extra)
    with pytest.raises(UserError, match=rf"{extra.name} has the fingerprint .* names None"):
        collect.collect(brought.parents[1])


@pytest.mark.slow
def test_a_cell_cut_short_is_refused_by_name(brought: Path) -> None:
    brought.chmod(0o644)
    brought.write_bytes(brought.read_bytes()[:-40])
    with pytest.raises(UserError, match=rf"{brought.name} is not a whole cell"):
        collect.collect(brought.parents[1])
