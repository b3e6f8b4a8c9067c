"""A number on the page leads to its table, row, cell and hashes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from src import trace
from src.base.errors import UserError
from src.base.files import ROOT

TABLE = """source,model,task,accuracy,left_accuracy,left_fingerprint,fingerprint
own,m,social_iqa,0.546875,,,abcdef012345
published,davinci,hindu_knowledge,0.54,0.5469,99aa00bb11cc,
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "reports/tables").mkdir(parents=True)
    (tmp_path / "reports/tables/own_runs.csv").write_text(TABLE)
    return tmp_path


def test_a_number_is_found_as_it_is_rounded_on_the_page(root: Path) -> None:
    found = list(trace.search("0.547", root / trace.TABLES))
    assert [(each.line, each.column, each.fingerprint) for each in found] == [
        (2, "accuracy", "abcdef012345"),
        (3, "left_accuracy", "99aa00bb11cc"),
    ]


@pytest.mark.parametrize("asked", ["abcdef012345", "abcdef"])
def test_a_fingerprint_is_found_by_how_it_begins(root: Path, asked: str) -> None:
    assert [each.line for each in trace.search(asked, root / trace.TABLES)] == [2]


def test_what_no_table_shows_says_how_to_ask(root: Path) -> None:
    with pytest.raises(UserError, match=r"No table shows 0\.999\. Ask as it is printed"):
        trace.report("0.999", 5, root)


def test_a_published_number_leads_to_the_file_of_published_scores(capsys: pytest.CaptureFixture[str]) -> None:
    """A real number of the committed report: davinci on hindu_knowledge."""
    done = subprocess.run(
        [sys.executable, "-m", "src.trace", "0.547059"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "hindu knowledge: the largest base model is above the baseline" in done.stdout
    assert "tags.fingerprint = '" in done.stdout
