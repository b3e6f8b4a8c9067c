"""Fetching from a hub: huggingface_hub itself, over HTTP, from a small hub on loopback that serves tiny checkpoints."""

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

from src import fetch
from src.base import conf
from src.base.errors import UserError
from src.base.files import ROOT
from src.base.schema import Encoder, Model
from src.question.examples import Example
from src.source import weights
from src.source.hub import REVISIONS
from tests.hub import Hub, Repository, serving
from tests.tiny import tiny

MODEL = conf.load("model", "gpt2", Model)
ENCODER = conf.load("bertscore", "roberta_large", Encoder)
COMMIT = weights.recorded(ROOT)[str(MODEL.hub)]
SUITE = ["suite=pilot", "sources=[]", f"encoder={ENCODER.name}", f"+model={MODEL.name}"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 in several weight files, as large checkpoints come."""
    from transformers import AutoModelForCausalLM

    folder = tiny("gpt2", tmp_path_factory.mktemp("hub") / "gpt2")
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="40KB")
    (folder / "model.safetensors").unlink()
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


@pytest.fixture
def hub(checkpoint: Path) -> Iterator[Hub]:
    with serving() as hub:
        hub.repositories[str(MODEL.hub)] = Repository(checkpoint, COMMIT)
        hub.repositories[str(ENCODER.hub)] = Repository(checkpoint, str(ENCODER.revision))
        yield hub


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project/conf").mkdir(parents=True)
    return tmp_path / "project"


def environment(hub: Hub, project: Path, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and k != "DATA_DIR"}
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(project / "hf"), "PYTHONPATH": str(ROOT)}
    return {**kept, **own, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", **more}


def command(hub: Hub, project: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """`python -m src.fetch` in an empty project, with the hub on loopback."""
    return subprocess.run(
        [sys.executable, "-m", "src.fetch", *(words or SUITE)],
        cwd=project, env=environment(hub, project, **more), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def snapshot(project: Path) -> Path:
    return project / f"hf/hub/models--{str(MODEL.hub).replace('/', '--')}/snapshots/{COMMIT}"


def test_a_suite_is_fetched_with_its_scorer_and_then_needs_no_network(
    hub: Hub, project: Path, checkpoint: Path
) -> None:
    done = command(hub, project)
    assert done.returncode == 0, done.stderr
    assert f"{MODEL.name}: hub {MODEL.hub}, 0 MB to come" in done.stdout
    assert "suite pilot: 2 of 2 are here." in done.stdout
    got = {path.name: path.read_bytes() for path in snapshot(project).iterdir()}
    assert got == {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    hub.asked.clear()
    again = command(hub, project, HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stderr
    assert not hub.asked


def test_the_first_download_writes_its_commit_back_and_a_run_refuses_another(hub: Hub, project: Path) -> None:
    assert command(hub, project).returncode == 0
    assert weights.recorded(project) == {MODEL.hub: COMMIT}
    weights.record(str(MODEL.hub), COMMIT, project)  # two processes may both be the first
    assert weights.recorded(project) == {MODEL.hub: COMMIT}
    with pytest.raises(UserError, match=rf"{MODEL.name}: conf/revisions.yaml records .* at {COMMIT}, .*b{{40}}"):
        weights.located(Model(name=MODEL.name, hub=MODEL.hub, revision="b" * 40), project)


def test_weights_that_moved_on_at_the_hub_are_not_taken(hub: Hub, project: Path) -> None:
    (project / REVISIONS).write_text(f"{MODEL.hub}: '{'c' * 40}'\n")
    done = command(hub, project)
    assert done.returncode == 1
    assert (
        f"error: {MODEL.name}: the hub does not give {MODEL.hub} at cccccccc: the repository has no such" in done.stderr
    )
    assert "1 of 2 are here" in done.stdout
    assert not snapshot(project).exists()


def test_a_connection_that_breaks_off_goes_on_from_where_it_was(hub: Hub, project: Path, tmp_path: Path) -> None:
    """The client reads 10 MiB at a time, and goes on behind the last one."""
    folder, piece = tmp_path / "large", 10 * 2**20
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(os.urandom(1000) * (piece // 400))
    (folder / "config.json").write_text("{}")
    hub.repositories[str(MODEL.hub)] = Repository(folder, COMMIT)
    hub.cut = {"model.safetensors"}
    assert command(hub, project).returncode == 0
    assert ("model.safetensors", f"bytes={piece}-") in hub.asked
    assert (snapshot(project) / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_killed_fetch_keeps_its_finished_files_and_is_not_taken_for_whole(hub: Hub, project: Path) -> None:
    hub.stall = "tokenizer.json"
    fetching = subprocess.Popen(
        [sys.executable, "-m", "src.fetch", *SUITE], cwd=project, env=environment(hub, project),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert hub.stalled.wait(60)
    finished: set[str] = set()
    while not finished:  # the other files come beside the one that hangs
        finished = {path.name for path in snapshot(project).iterdir()} if snapshot(project).exists() else set()
    fetching.kill()
    fetching.wait()
    offline = command(hub, project, HF_HUB_OFFLINE="1")
    assert offline.returncode == 1
    assert f"error: {MODEL.name}: the hub does not give" in offline.stderr
    hub.stall = None
    hub.go.set()
    finished = {path.name for path in snapshot(project).iterdir()}
    hub.asked.clear()
    assert command(hub, project, *SUITE[:2], f"encoder={ENCODER.name}", SUITE[-1]).returncode == 0
    whole = {path.name for path in snapshot(project).iterdir()}
    assert "tokenizer.json" in whole - finished
    assert [name for name, _ in hub.asked].count(next(iter(finished))) <= 1  # the scorer's own, never the model's again


@pytest.mark.parametrize(
    ("token", "said"),
    [("", "gated: accept its terms on its page with your account"), ("hf_bad", "the token is not valid (HF_TOKEN")],
)
def test_a_gate_and_a_bad_token_are_said_in_words(hub: Hub, project: Path, token: str, said: str) -> None:
    hub.repositories[str(MODEL.hub)].gated = True
    done = command(hub, project, **({"HF_TOKEN": token} if token else {}))
    assert done.returncode == 1
    assert f"error: {MODEL.name}: the hub does not give {MODEL.hub}: {said}" in done.stderr
    assert "Traceback" not in done.stderr
    assert "hf_bad" not in done.stdout + done.stderr


def test_a_token_opens_the_gate(hub: Hub, project: Path) -> None:
    hub.repositories[str(MODEL.hub)].gated = True
    assert command(hub, project, HF_TOKEN=hub.token).returncode == 0


@pytest.mark.parametrize("name", ["gpt2_it", "llama_7b"])
def test_a_repository_that_is_gone_ends_in_a_line_with_what_conf_knows_of_it(
    hub: Hub, project: Path, name: str
) -> None:
    done = command(hub, project, *SUITE[:3], f"+model={name}")
    model = conf.load("model", name, Model)
    assert done.returncode == 1
    assert "no such repository, or one that this account may not see" in done.stderr
    assert model.gate
    assert f"About these weights: {model.gate}. What helps: " in done.stderr


def test_too_little_room_is_said_before_anything_comes(hub: Hub, project: Path) -> None:
    enough = fetch.Need("a", "hub a", 1, project, lambda: "")
    fetch.check_room([enough])
    free = shutil.disk_usage(project).free
    with pytest.raises(UserError, match=r"no space: .* GB are to come .*HF_HOME .*\+model=NAME"):
        fetch.check_room([enough, fetch.Need("b", "hub b", 2 * free, project / "not/yet/there", lambda: "")])


@pytest.mark.slow
def test_what_was_fetched_runs_offline(hub: Hub, project: Path) -> None:
    assert command(hub, project).returncode == 0
    options = ("a cork", "a stone")
    rows = [Example(f"social_iqa/{i}", str(i), f"What floats, case {i}?", options, 0, "a cork", None) for i in range(3)]
    (project / "tasks").mkdir()
    (project / "tasks/social_iqa.jsonl").write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    words = [f"+model={MODEL.name}", "model.dtype=float32", "task=social_iqa", "condition=closed_adv_zero", "limit=2"]
    places = [f"{key}='{project / value}'" for key, value in (("data", "tasks"), ("store", "store"), ("out", "out"))]
    done = subprocess.run(
        [sys.executable, "-m", "src.run", *words, *places, f"tracking.uri='sqlite:///{project / 'runs.db'}'"],
        cwd=ROOT, env=environment(hub, project, HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9"),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 cells done" in done.stdout
