"""What would flip a word: judged anew on changed cells, the word is another there, and the same one step short."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pandas as pd
import pytest
from scipy.stats import fisher_exact

from src.base.files import ROOT
from src.judgement.claims import load_claims
from src.judgement.overlap import claimed
from src.judgement.rows import Words, analyses, flips, judged
from src.judgement.scores import Scores
from src.judgement.word import word_of

CLAIMS = {claim.name: claim for claim in load_claims(ROOT)}
SAMPLE = 4

Moved = Callable[[Scores, str, int], Scores]


def primary(scores: Scores, model: str, prompt: str, few: bool) -> pd.Series:
    cells = scores.cells
    here = cells["primary"].astype(bool) & (cells["model"] == model) & (cells["prompt"] == prompt)
    return here & ((cells["shots"] > 0) == few)


def more_right(scores: Scores, here: pd.Series, k: int) -> Scores:
    """The scores with k right in one primary cell."""
    assert here.sum() == 1
    return with_rows(scores, here, scores.cells[here].assign(k=float(k), accuracy=k / scores.cells.loc[here, "n"]))


def with_rows(scores: Scores, here: pd.Series, rows: pd.DataFrame) -> Scores:
    """Rows in the place of others."""
    return replace(scores, cells=pd.concat([scores.cells[~here], rows], ignore_index=True))


def of_largest(scores: Scores, item: str, steps: int) -> Scores:
    here = primary(scores, scores.largest, "closed", False) & (scores.cells["task"] == item)
    return more_right(scores, here, int(scores.cells.loc[here, "k"].iloc[0]) + steps)


def of_left(scores: Scores, item: str, steps: int) -> Scores:
    model, few = claimed(scores.tables["claims"]["figure2"]["left"])
    here = primary(scores, model, "closed", few) & (scores.cells["task"] == item)
    return more_right(scores, here, int(scores.cells.loc[here, "k"].iloc[0]) + steps)


def by_thousandths(scores: Scores, model: str, prompt: str, steps: int) -> Scores:
    """The primary few-shot cells of one model, each that many thousandths higher.

    Where exact match is the primary metric, its row stays as it is for the analyses that take exact match everywhere.
    """
    here = primary(scores, model, prompt, True)
    rows = scores.cells[here]
    higher = rows.assign(accuracy=rows["accuracy"] + steps / 1000)
    higher["metric"] = higher["metric"].replace("exact_match", "exact match as primary")
    exact = rows[rows["metric"] == "exact_match"].assign(primary=False)
    return with_rows(scores, here, pd.concat([higher, exact]))


def of_pair(scores: Scores, item: str, steps: int) -> Scores:
    pair, prompt = item.rsplit(", ", 1)
    return by_thousandths(scores, pair.split(" against ")[1], prompt, -steps)


def of_model(scores: Scores, item: str, steps: int) -> Scores:
    return by_thousandths(scores, CLAIMS["few_shot_no_change"].of["model"], "closed", steps)


def of_metric(scores: Scores, item: str, steps: int) -> Scores:
    """Table 4 with other per cents."""
    rows = [dict(row) for row in scores.tables["table4"]]
    for row in rows:
        if row["task"] == item:
            n = min(50, scores.setting.tasks[item].n_published)
            row["metric"] = 100 * (round(row["metric"] * n / 100) + steps) / n
    return replace(scores, setting=replace(scores.setting, tables={**scores.tables, "table4": rows}))


MOVES: dict[str, Moved] = {
    "table2_above": of_largest, "table2_predictable": of_largest, "table2_emergent": of_largest,
    "figure2_tasks": of_left, "rq4_gain": of_pair, "few_shot_no_change": of_model, "table4_manual": of_metric,
}  # fmt: skip


def word(claim: str, scores: Scores, item: str) -> str:
    found = analyses(CLAIMS[claim].families(scores), scores.alpha)
    return str(judged([row for row in found if row["item"] == item])["word"])


def spread(items: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """A few of them, from all over the list."""
    return list(items[:: max(1, len(items) // SAMPLE)])[:SAMPLE]


@pytest.mark.slow
@pytest.mark.parametrize("claim", MOVES)
def test_a_word_changes_at_its_flip_and_not_one_step_short_of_it(scores: Scores, claim: str):
    families = CLAIMS[claim].families(scores)
    items = next(family.items for family in families if family.rule)
    flipping = [(item, steps) for item in items for steps in flips(Words(families, item, scores.alpha))]
    assert flipping
    for item, steps in spread(flipping):
        short = steps - (1 if steps > 0 else -1)
        now = word(claim, scores, item)
        assert word(claim, MOVES[claim](scores, item, steps), item) != now, (item, steps)
        assert word(claim, MOVES[claim](scores, item, short), item) == now, (item, short)


@pytest.mark.slow
@pytest.mark.parametrize("claim", ["rq3_memorisable"])
def test_leaving_out_a_task_is_judging_without_its_cells(scores: Scores, claim: str):
    families = CLAIMS[claim].families(scores)
    words = Words(families, "", scores.alpha)
    for task in words.families[words.rule].tasks[:3]:
        gone = replace(scores, cells=scores.cells[scores.cells["task"] != task])
        assert word(claim, gone, "") == words.without(task)


@pytest.mark.slow
def test_an_overlap_moves_by_what_both_solve(scores: Scores):
    """The margins stay; the word at each number is Fisher's exact test's, the other analyses as they are."""
    families = CLAIMS["rq2_overlap"].families(scores)
    (rule,) = [family for family in families if family.rule]
    words, facts = Words(families, "", scores.alpha), rule.facts("")
    n, left, right = int(rule.rows.loc["", "n"]), facts["left"], facts["right"]
    found = [family.result(scores.alpha)["outcome"][""] for family in families if family is not rule]
    others = [None if pd.isna(each) else int(each) for each in found]
    assert 0 < left < n > right > 0
    shown = {}
    for both in range(max(0, left + right - n), min(left, right) + 1):
        square = [[n - left - right + both, right - both], [left - both, both]]
        shown[both] = [fisher_exact(square, alternative=side).pvalue < scores.alpha for side in ("greater", "less")]
    comparable = any(map(any, shown.values()))  # margins that can show neither side give no result
    for both in range(n + 1):
        here = words.at(both - facts["both"])
        if both not in shown:
            assert here is None
        else:
            result = int(shown[both][0]) - int(shown[both][1]) if comparable else None
            assert here == word_of(result, others)
