"""Nothing that comes from outside runs, shows as markup or as a formula, or calls out."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from src import report
from src.base import frames
from src.base.errors import UserError
from src.base.files import ROOT
from tests.pages.test_page import CHROMIUM, Browser
from tests.test_pipeline import made_up, words
from tests.test_report import project
from tests.tiny import local_engine, tiny

SWITCHES = {"DVC_NO_ANALYTICS": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "HF_HUB_DISABLE_TELEMETRY": "1"}
EVIL = '<script>document.title = "owned"</script><img src=x onerror=\'document.title="owned"\'>'
SECRET = "hf_" + "s3cr3t" * 5

RECORDER = """
import sys, os
def hook(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        with open(os.environ["RECORD"], "a") as file:
            file.write(f"{event} {args[1] if event == 'socket.connect' else args[0]!r}\\n")
sys.addaudithook(hook)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("safety")
    tiny("llama", folder / "weights")
    (folder / "tasks").mkdir()
    for task in ("analytic_entailment", "social_iqa"):
        (folder / f"tasks/{task}.jsonl").write_text(made_up(task))
    return folder


@pytest.fixture(scope="module")
def ran(place: Path) -> tuple[subprocess.CompletedProcess[str], str]:
    """A tiny run, run without our own switches, that notes every address it looks up or connects to."""
    (place / "hook").mkdir()
    (place / "hook/sitecustomize.py").write_text(RECORDER)
    (place / "record").write_text("")
    env = {key: value for key, value in os.environ.items() if key not in SWITCHES}
    env |= {"PYTHONPATH": str(place / "hook"), "RECORD": str(place / "record"), "HF_TOKEN": SECRET}
    command = [
        sys.executable,
        "-m",
        "src.run",
        *words(place, "task=social_iqa", "condition=closed_adv_zero", out="out"),
    ]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)
    return done, (place / "record").read_text()


@pytest.mark.slow
def test_a_run_calls_nobody(ran: tuple[subprocess.CompletedProcess[str], str]) -> None:
    done, called = ran
    assert done.returncode == 0, done.stderr
    outside = [line for line in called.splitlines() if not re.search(r"127\.0\.0\.1|::1|localhost|'/|b'/", line)]
    assert outside == []


@pytest.mark.slow
def test_the_recorder_would_have_seen_a_call(ran: object, place: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(place / "hook"), "RECORD": str(place / "seen")}
    call = "import socket, contextlib\nwith contextlib.suppress(OSError): socket.getaddrinfo('nobody.invalid', 80)"
    subprocess.run([sys.executable, "-c", call], env=env, check=True)
    assert "nobody.invalid" in (place / "seen").read_text()


@pytest.mark.slow
def test_no_secret_is_said_or_kept(ran: tuple[subprocess.CompletedProcess[str], str], place: Path) -> None:
    done, _ = ran
    assert SECRET not in done.stdout + done.stderr
    kept = [path for path in place.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert kept == []


def test_telemetry_is_off_by_the_makefile_and_by_hand() -> None:
    done = subprocess.run(["make", "-s", "-pn", "clean"], cwd=ROOT, capture_output=True, text=True, check=False)
    for name, value in SWITCHES.items():
        assert re.search(rf"^(export )?{name} :?= {value}$", done.stdout, re.MULTILINE), name
    script = f"import os, src.run; print(*[os.environ.get(n) for n in {list(SWITCHES)}])"
    env = {key: value for key, value in os.environ.items() if key not in SWITCHES}
    said = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert said.stdout.split() == list(SWITCHES.values())


def test_code_of_a_checkpoint_runs_only_where_it_is_asked_for(place: Path, tmp_path: Path) -> None:
    """The checkpoint's own code leaves a file where it is run."""

    folder = shutil.copytree(place / "weights", tmp_path / "weights")
    ours = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(ours | {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}))
    mark = tmp_path / "it ran"
    (folder / "own.py").write_text(
        f"from transformers import LlamaConfig\nopen({str(mark)!r}, 'w').close()\n"
        "class Own(LlamaConfig):\n    model_type = 'own'\n"
    )
    with pytest.raises(UserError, match=r"model\.trust_remote_code=true"):
        _ = local_engine(folder).config
    assert not mark.exists()
    assert local_engine(folder, trust_remote_code=True).config.model_type == "own"
    assert mark.exists()


def test_code_in_a_pickle_is_not_run(place: Path, tmp_path: Path) -> None:
    """The older kind of weights (*.bin) is read by PyTorch's weights_only unpickler: tensors, and nothing else."""
    import torch
    from safetensors.torch import load_file

    from src.engine.loading import load

    folder = shutil.copytree(place / "weights", tmp_path / "weights")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    read = load(str(folder), "float32", False).state_dict()
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    mark = tmp_path / "it ran"
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR.")
    with pytest.raises(UserError, match="cannot be loaded"):
        local_engine(folder).choice.load()
    assert not mark.exists()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report whose data hold markup wherever a text can come from a task file or a model."""
    root = project(tmp_path_factory.mktemp("evil"))
    frame = pd.read_parquet(root / "data/audit/audit.parquet")
    frame.assign(statement=EVIL, why=EVIL).to_parquet(root / "data/audit/audit.parquet")
    columns = ["task", "id", "group", "input", "options", "target", "answer", "exemplar"]
    row = dict.fromkeys(columns, EVIL) | {"target": 0, "exemplar": None}
    (root / "data/tasks").mkdir(parents=True)
    pd.DataFrame([row]).to_parquet(root / "data/tasks/shown.parquet")
    report.build(root)
    return root


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    started = Browser(tmp_path_factory.mktemp("profile"))
    yield started
    started.process.terminate()
    started.process.wait(timeout=20)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
def test_markup_in_data_is_text_in_the_browser(built: Path, browser: Browser) -> None:
    """On the page and in each table's own file, those that quote task files included."""
    pages = [*built.glob("data/tables/*.html"), *built.glob("reports/tables/*.html"), built / "reports/index.html"]
    seen = 0
    for page in pages:
        browser.open(page, 1400)
        assert browser.run("document.title") != "owned", page
        assert browser.run('document.querySelectorAll("img[src=x]").length') == 0, page
        seen += browser.run("document.body.textContent.includes('<script>document.title')")
    assert len(pages) > 10
    assert seen >= 3


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r"])
def test_a_csv_cell_is_no_formula_and_numbers_stay_numbers(first: str) -> None:
    assert frames.inert(f"{first}cmd|' /C calc'!A0").startswith("'")
    assert frames.inert(-1.5) == -1.5


@pytest.mark.parametrize(
    ("audit", "code", "said"),
    [
        ("exit 1", 3, "not audited here"),  # nobody answered
        ("exit 0", 3, "not audited here"),  # skipped everything and called it good
        ('echo "$found" > "$out"; exit 1', 1, "PYSEC-1"),
        ('echo "$found" > "$out"; exit 0', 0, ""),
    ],
)
def test_the_audit_of_dependencies_is_never_green_where_it_could_not_ask(
    tmp_path: Path, audit: str, code: int, said: str
) -> None:
    """.ci/audit on what pip-audit can end with; it is told which program to run."""
    program = tmp_path / "pip-audit"
    found = '{"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1"}]}], "fixes": []}'
    last = 'for word in "$@"; do [ "$before" = --output ] && out=$word; before=$word; done'
    program.write_text(f"#!/bin/sh\nfound='{found}'\n{last}\n{audit}\n")
    program.chmod(0o755)
    command = [str(ROOT / ".ci/audit"), "requirements.lock"]
    env = {**os.environ, "PIP_AUDIT": str(program), "PYTHON": sys.executable}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert said in done.stdout + done.stderr
