"""Grading by hand: a blind sheet out, counts and kappa back."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import pytest

from src import annotate
from src.base import frames
from src.base.errors import UserError
from src.base.schema import Compat
from src.cell.file import Answers, Header, digests, write_cell
from src.engine.job import Completion
from src.question.prompts import Prompt
from src.statistics import table2

SAID = [' "yes"', ' "no"', ' "yes"', "=1+1"]


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """One cell of four outputs."""
    answers = [
        Answers(
            Prompt(f"t/{i}", f"g{i}", "", f"Question {i}?", ("yes", "no"), (" a", " b"), 0, "yes"),
            {7: Completion(said, 3, "eos"), 9: Completion("other", 3, "eos")},
            None,
        )
        for i, said in enumerate(SAID)
    ]
    asked, completed = digests(answers)
    head = Header(
        fingerprint="abc123abc123", suite="s", model="m", weights="w", task="t", condition="closed_zero",
        prompt="closed", lettered=False, shots=0, compat=Compat(name="fixed"), encoder="e",
        prompts_sha256=asked, completions_sha256=completed, data_sha256="",
    )  # fmt: skip
    write_cell(tmp_path / "m/t__closed_zero.jsonl", head, answers)
    return tmp_path


def test_a_sheet_is_blind_seeded_and_inert(outputs: Path, tmp_path: Path) -> None:
    rows = annotate.draw(outputs, "closed_zero", None, 50)
    assert rows == annotate.draw(outputs, "closed_zero", "m", 50)
    assert {row["key"] for row in rows} == {f"abc123abc123:t/{i}:7" for i in range(4)}
    assert {row["right"] for row in rows} == {""}
    frames.write_csv(pd.DataFrame(rows), tmp_path / "sheet.csv")
    assert "'=1+1" in (tmp_path / "sheet.csv").read_text().split(",")
    few = {row["key"] for row in annotate.draw(outputs, "closed_zero", None, 2)}
    assert len(few) == 2
    assert few < {row["key"] for row in annotate.draw(outputs, "closed_zero", None, 3)}
    assert not {"model", "exact_match"} & set(rows[0])


def test_an_unknown_condition_lists_those_there_are(outputs: Path) -> None:
    with pytest.raises(UserError, match=r"closed_few'\. It has: closed_zero"):
        annotate.draw(outputs, "closed_few", None, 5)


def sheet(path: Path, *right: str) -> Path:
    rows = [{"key": f"abc123abc123:t/{i}:7", "right": said} for i, said in enumerate(right)]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["key", "right"])
        writer.writeheader()
        writer.writerows(rows)
    return path


SCORES = pd.DataFrame(
    {
        "fingerprint": "abc123abc123", "example_id": [f"t/{i}" for i in range(4)], "seed": 7, "group": list("abcd"),
        "model": "m", "weights": "w", "condition": "closed_zero", "prompt": "closed", "task": "social_iqa",
        "n_options": 2, "bertscore_accuracy": [1, 0, 1, 1], "exact_match": [1, 0, 1, 0],
    }
)  # fmt: skip


def test_two_graders_give_kappa_and_what_was_left_blank_does_not_count(tmp_path: Path) -> None:
    one = annotate.grades(sheet(tmp_path / "a.csv", "1", "no", "Yes", "0"))
    two = annotate.grades(sheet(tmp_path / "b.csv", "1", "0", "0", ""))
    (row,) = annotate.summarise([one, two], SCORES)
    assert (row["n"], row["metric"], row["k_metric"], row["graders"]) == (3, "bertscore_accuracy", 2, 2)
    # graders say 1 0 1 and 1 0 0: agreement 2/3, expected (2/3)(1/3) + (1/3)(2/3) = 4/9
    assert row["kappa"] == pytest.approx((2 / 3 - 4 / 9) / (1 - 4 / 9))
    assert row["difference"] == pytest.approx(2 / 3 - 1 / 2)


def test_a_slip_in_a_sheet_is_named_by_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.csv, line 3, column 'right': 'perhaps' is neither 1 nor 0"):
        annotate.grades(sheet(tmp_path / "a.csv", "1", "perhaps"))


def test_a_sheet_of_another_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="of another run"):
        annotate.summarise([annotate.grades(sheet(tmp_path / "a.csv", "1"))], SCORES.assign(fingerprint="other"))


def test_table4_holds_the_papers_rows_and_the_graded_ones(tmp_path: Path) -> None:
    """social_iqa of the paper: 18 of 50 by metric, 19 by hand. Own grades are pairs: the second and third disagree."""
    one = annotate.grades(sheet(tmp_path / "a.csv", "1", "1", "1", "0"))
    frames.write_csv(pd.DataFrame(annotate.summarise([one], SCORES)), tmp_path / "graded.csv")
    paper = [{"task": "social_iqa", "metric": 36, "manual": 38, "baseline": 34}]
    table = table2.table4_manual(paper, pd.read_csv(tmp_path / "graded.csv"), {}).set_index("source")
    published, own = table.loc["published"], table.loc["own"]
    assert (published["n"], published["k_metric"], published["k_manual"]) == (50, 18, 19)
    assert published["manual_low"] == pytest.approx(0.2586, abs=1e-4)
    assert (published["disagreements_least"], published["disagreements_most"]) == (1, 37)
    assert own["disagreements_least"] == own["disagreements_most"] == own["p_least"] * 2
    assert (own["n"], own["manual_accuracy"], own["metric_accuracy"], own["graders"]) == (4, 0.75, 0.75, 1)
