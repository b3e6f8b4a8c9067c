"""docs/adding.md: every diff applies to a copy of the project, and what it adds works there."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from src import report
from src.base.files import ROOT
from src.base.verdict import NO_NUMBER, WORDS
from src.judgement.audit import rows
from src.judgement.claims import load_claims
from src.judgement.rows import analyses
from src.judgement.scores import Scores
from tests import scratch, warm
from tests.judgement.conftest import NO_POOLED, published_scores
from tests.test_report import project
from tests.tiny import tiny

TEXT = (ROOT / "docs/adding.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
DIFFS = {
    title: "".join(re.findall(r"^```diff\n(.*?)^```", text, re.M | re.S))
    for title, text in SECTIONS.items()
    if "```diff" in text
}
YAML_ALONE = ("A task", "A model", "A condition", "A table", "A figure", "A claim")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with all additions and a random checkpoint where the added model looks for its own."""
    folder = scratch.clone(tmp_path_factory.mktemp("added"))
    for title, diff in DIFFS.items():
        (folder / "addition.diff").write_text(diff)
        scratch.run(folder, "git", "apply", "--whitespace=error", "addition.diff")
        assert diff.count("\n+++ b/"), title
    (folder / "addition.diff").unlink()
    tiny("llama", folder / "weights/my_llama")
    return folder


@pytest.fixture(scope="module")
def prepared(copy: Path) -> Path:
    scratch.run(copy, "python", "-m", "src.fetch", "riddles", DATA_DIR="mine")
    scratch.run(copy, "python", "-m", "src.config", "suite=pilot", "sources=[riddles]", "tasks=[riddles]")
    scratch.run(copy, "python", "-m", "src.prepare")
    return copy


@pytest.mark.parametrize("title", YAML_ALONE)
def test_what_is_said_to_take_one_yaml_takes_one_new_yaml(title: str) -> None:
    assert re.findall(r"^--- (\S+)\n\+\+\+ b/(\S+?)/[a-z0-9_]+\.yaml$", DIFFS[title], re.MULTILINE) == [
        ("/dev/null", f"conf/{title.removeprefix('A ')}")
    ]


def test_a_metric_takes_a_scorer_a_name_and_a_column() -> None:
    assert set(re.findall(r"^\+\+\+ b/(\S+)", DIFFS["A metric"], re.MULTILINE)) == {
        "src/scoring/score.py",
        "conf/frame/scores.yaml",
        "src/base/metrics.py",
    }


def test_an_added_task_is_prepared_with_its_exemplars_set_apart(prepared: Path) -> None:
    lines = (prepared / "data/tasks/riddles.jsonl").read_text().splitlines()
    assert [json.loads(line)["exemplar"] for line in lines] == [0, 1, None, None, None, None]
    assert "riddles,4,4,4,0.333333," in (prepared / "data/tasks/summary.csv").read_text()


def test_an_added_model_and_condition_are_planned(copy: Path) -> None:
    asked = ["models=[my_llama]", "tasks=[riddles]", "conditions=[closed_few,closed_few_polite]", "limit=2"]
    said = scratch.run(copy, "python", "-m", "src.plan", *asked)
    assert "my_llama" in said
    assert "2 cells" in said


@pytest.mark.slow
def test_an_added_model_answers_an_added_task_under_an_added_condition_by_an_added_metric(prepared: Path) -> None:
    scratch.linked(ROOT / "data/raw/minilm", prepared / "data/raw/minilm")
    words = ["+model=my_llama", "task=riddles", "conditions=[closed_few,closed_few_polite]", "limit=2"]
    for command in (("src.run", *words, "out=mine/out/my_llama"), ("src.collect", "mine/out", "mine/scores.parquet")):
        done = warm.ran(*command, cwd=prepared)
        assert done.returncode == 0, done.stdout + done.stderr
    scores = pd.read_parquet(prepared / "mine/scores.parquet")
    assert list(scores.groupby("condition").size()) == [2 * 3, 2 * 3]  # examples x seeds
    assert scores.answer_anywhere.isin([0.0, 1.0]).all()


@pytest.mark.slow
def test_an_added_table_and_figure_are_in_the_report(copy: Path, tmp_path: Path) -> None:
    root = project(tmp_path / "project")
    shutil.copytree(copy / "conf/table", root / "conf/table", dirs_exist_ok=True)
    shutil.copytree(copy / "conf/figure", root / "conf/figure", dirs_exist_ok=True)
    report.build(root)
    assert (root / "reports/figures/figure1_published.svg").exists()
    rows = pd.read_csv(root / "reports/tables/own_above_chance.csv")
    assert len(rows) > 0
    assert (rows.accuracy > rows.chance).all()
    assert 'id="own_above_chance"' in (root / "reports/index.html").read_text()


def test_an_added_claim_gets_its_words(copy: Path) -> None:
    ours = {claim.name for claim in load_claims(ROOT)}
    (claim,) = [each for each in load_claims(copy) if each.name not in ours]
    scores: Scores = published_scores()
    families = claim.families(scores)
    found = rows(claim, families, analyses(families, scores.alpha), scores, NO_POOLED)
    assert found
    assert {row["word"] for row in found} <= set(WORDS) - {NO_NUMBER}
