"""Cell scores of a second run beside the committed ones: `python -m src.verify --reference`."""

from __future__ import annotations

import pandas as pd
import pytest

from src.cell.compare import reference_findings
from src.cell.finding import DIFFERS, IDENTICAL
from src.cell.last_digits import LAST_DIGITS


def cells(accuracy: str = "0.512345", completions: str = "c1", task: str = "t") -> pd.DataFrame:
    """Two metrics of one cell, every value as the text of a csv."""
    row = {
        "model": "m",
        "task": task,
        "condition": "closed_zero",
        "accuracy": "0.25",
        "completions_sha256": completions,
    }
    return pd.DataFrame([{**row, "metric": "exact_match"}, {**row, "metric": "likelihood", "accuracy": accuracy}])


def test_a_second_run_with_the_same_values_in_another_order_is_identical() -> None:
    (found,) = reference_findings(cells(), cells().iloc[::-1])
    assert (found.name, found.status, found.notes) == ("m/t/closed_zero", IDENTICAL, ())


def test_last_digits_are_no_difference_and_are_said() -> None:
    (found,) = reference_findings(cells("0.512345"), cells("0.512346"))
    assert (found.status, found.notes) == (IDENTICAL, (LAST_DIGITS,))


@pytest.mark.parametrize(
    ("fresh", "note"), [(cells("0.52"), "0.52"), (cells(completions="c2"), "other completions")], ids=["score", "text"]
)
def test_another_score_or_text_differs_and_says_which(fresh: pd.DataFrame, note: str) -> None:
    (found,) = reference_findings(cells(), fresh)
    assert found.status == DIFFERS
    assert note in found.notes[0]


def test_a_cell_that_one_side_lacks_differs() -> None:
    found = reference_findings(cells(), cells(task="u"))
    assert [(each.name, each.status, each.notes) for each in found] == [
        ("m/t/closed_zero", DIFFERS, ("not run here",)),
        ("m/u/closed_zero", DIFFERS, ("not published",)),
    ]
