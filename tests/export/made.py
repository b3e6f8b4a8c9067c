"""A finished run of a tiny random model in a checkout of its own, to be exported. Its numbers stay there."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from src import collect, verify
from src.base.files import ROOT
from src.base.grid import composed_run
from src.cell.file import Answers, Header, digests, read_cell, write_cell
from src.cell.ledger import DONE
from tests.test_pipeline import made_up
from tests.tiny import tiny

MODEL = "llama_7b"
TASKS = ("rhyming", "social_iqa")
CONDITIONS = ("closed_few", "closed_adv_zero", "closed_zero_shifts")
SEEDS = (2266, 105)
GRID = {"tasks": list(TASKS), "conditions": list(CONDITIONS), "seeds": list(SEEDS), "limit": 3}
Change = Callable[[Header, list[Answers]], tuple[Header, list[Answers]]]


def given(root: Path) -> list[str]:
    """The overrides with which the run was made: its weights lie in a folder."""
    return [f"model.path='{root / 'weights'}'", "model.tasks=null", "model.dtype=float32"]


def finished(root: Path) -> Path:
    """The run: weights, prepared tasks, cells, scores, and the commit of it."""
    tiny("llama", root / "weights")
    for folder in ("data/tasks", "reports"):
        (root / folder).mkdir(parents=True)
    for task in TASKS:
        (root / f"data/tasks/{task}.jsonl").write_text(made_up(task).replace("What ", f"By {task}, what "))
    for name in ("pyproject.toml", "CITATION.cff", "dvc.yaml"):
        (root / name).write_bytes((ROOT / name).read_bytes())
    rest = {"suite": "pilot", "models": [MODEL], "sources": ["bigbench"], "incomplete": "fail", "encoder": "minilm"}
    (root / "params.yaml").write_text(yaml.safe_dump({**GRID, **rest, "alpha": 0.05}))
    (root / "reports/metrics.json").write_text("{}\n")
    words = [f"{key}=[{','.join(map(str, each))}]" for key, each in GRID.items() if isinstance(each, list)]
    data = f"data='{root / 'data/tasks'}'"
    run = composed_run([f"+model={MODEL}", *given(root), *words, data, f"limit={GRID['limit']}"])
    assert {entry.status for entry in verify.anew(run, root / "data")} == {DONE}
    scored(root)
    for git in (
        ["init", "-q"],
        ["add", "params.yaml"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"],
    ):
        subprocess.run(["git", *git], cwd=root, check=True)
    return root


def scored(root: Path) -> None:
    """Score the cells anew."""
    collect.collect(root / "data/outputs").to_parquet(root / "data/scores.parquet", index=False)


def changed(root: Path, name: str, change: Change) -> None:
    """Put other answers into a cell, as if the model had given them. The fingerprint does not depend on them."""
    path = root / f"data/outputs/{MODEL}/{name}.jsonl"
    head, answers = change(*read_cell(path))
    asked, completed = digests(answers)
    write_cell(path, replace(head, prompts_sha256=asked, completions_sha256=completed), answers)


def saying(texts: Sequence[str]) -> Change:
    """A change: the model said these texts, in turn."""

    def change(head: Header, answers: list[Answers]) -> tuple[Header, list[Answers]]:
        said = [
            replace(a, completions={s: replace(c, text=texts[i % len(texts)]) for s, c in a.completions.items()})
            for i, a in enumerate(answers)
        ]
        return head, said

    return change
