"""Words, counts and denominators of the audit, counted a second time from its tables."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from tests.recounted import (
    ALPHA,
    CLOSED,
    NO_NUMBER,
    ROOT,
    agree,
    cells,
    choices,
    claim,
    holm,
    largest,
    numbers_differ,
    table,
    table2,
)

# --- Words and counts, from the analyses


def word_of(analyses: pd.DataFrame) -> str:
    """The six words, from the results of one statement's analyses."""
    rule = analyses[analyses["primary"]].iloc[0]
    results = analyses.loc[analyses["counted"], "outcome"]
    holds, opposite = results.isin([1, 2]).any(), results.isin([-1, 2]).any()
    if np.isnan(rule["outcome"]):
        return "no number" if NO_NUMBER in str(rule["reason"]) else "not comparable"
    if rule["outcome"] == 2 or (holds and opposite):
        return "depends"
    return {1: "supported", -1: "contradicted", 0: "undetermined"}[int(rule["outcome"])]


def statements() -> Iterable[tuple[str, Any, pd.DataFrame]]:
    groups = dict(iter(table("analyses").groupby(["claim", "item"], sort=False)))
    for row in table("audit").itertuples():
        yield f"{row.claim} {row.item}".strip(), row, groups[row.claim, row.item]


def test_every_statement_has_the_word_that_its_analyses_give() -> None:
    agree(
        f"{where}: recounted {word_of(analyses)}, the table has {row.word}"
        for where, row, analyses in statements()
        if word_of(analyses) != row.word
    )


def test_every_statement_has_exactly_one_rule_and_the_rules_numbers() -> None:
    def differences() -> Iterable[str]:
        for where, row, analyses in statements():
            rule = analyses[analyses["primary"]]
            assert len(rule) == 1, f"{where}: {len(rule)} analyses are the rule"
            if not np.isnan(rule.iloc[0]["outcome"]):
                yield from numbers_differ(f"{where}, value", rule.iloc[0]["value"], row.value)
                if not np.isnan(row.p_for):
                    yield from numbers_differ(f"{where}, p for", rule.iloc[0]["p_for"], row.p_for)
                    yield from numbers_differ(f"{where}, p against", rule.iloc[0]["p_against"], row.p_against)

    agree(differences())


def test_the_analyses_of_every_statement_are_counted_as_the_row_says() -> None:
    def differences() -> Iterable[str]:
        for where, row, analyses in statements():
            results = analyses.loc[analyses["counted"], "outcome"]
            counted = {
                "holds_in": (results == 1).sum(),
                "opposite_in": (results == -1).sum(),
                "neither_in": results.isin([0, 2]).sum(),
                "analyses": results.notna().sum(),
                "no_result_in": results.isna().sum(),
            }
            for column, number in counted.items():
                if number != getattr(row, column):
                    yield f"{where}, {column}: recounted {number}, the table has {getattr(row, column)}"

    agree(differences())


def test_an_analysis_counts_once_and_only_a_repetition_does_not_count() -> None:
    """A repetition has value, interval, both p, n and correction of an earlier analysis, to six digits.

    A p that prints as 1 can hide a difference. So an analysis with such a p may count.
    """
    numbers = ["value", "low", "high", "p_for", "p_against", "outcome", "n"]

    def differences() -> Iterable[str]:
        for where, _, analyses in statements():
            corrected = analyses["analysis"].map(lambda text: choices(text).get("correction"))
            repeated = analyses[numbers].assign(by=corrected).duplicated() & analyses["outcome"].notna()
            hidden = analyses["counted"] & (analyses[["p_for", "p_against"]] > 0.99999).any(axis=1)
            for row in analyses[~repeated & ~analyses["counted"] & ~hidden].itertuples():
                yield (
                    f"{where}, {row.analysis}: recounted {'a repetition' if row.counted else 'no repetition'} "
                    f"(p {row.p_for:.3g} and {row.p_against:.3g}), the table counts it {int(row.counted)} times"
                )

    agree(differences())


def test_a_result_is_what_its_two_p_say() -> None:
    """A side holds where its p is below alpha. Without a p for both sides there is no result; recounts have 0 and 1."""

    def differences() -> Iterable[str]:
        for row in table("analyses").query("outcome.notna()", engine="python").itertuples():
            holds, opposite = row.p_for < ALPHA, row.p_against < ALPHA
            result = np.nan if np.isnan(row.p_for + row.p_against) else 2 if holds and opposite else holds - opposite
            if result != row.outcome:
                yield (
                    f"{row.claim} {row.item}, {row.analysis}: p {row.p_for:.4g} and {row.p_against:.4g} give "
                    f"{result}, the table has {row.outcome:.0f}"
                )

    agree(differences())


def inference_word(words: pd.Series) -> str:
    """The word that the decided statements share, depends where they differ; without one, what more statements are."""
    numbered = words[words != "no number"]
    decided = set(numbered) & {"supported", "contradicted", "depends"}
    if numbered.empty:
        return "no number"
    if decided:
        return decided.pop() if len(decided) == 1 else "depends"
    return "not comparable" if 2 * (numbered == "not comparable").sum() > len(numbered) else "undetermined"


def test_every_inference_has_the_word_and_the_counts_of_its_statements() -> None:
    printed = table("inferences").set_index("inference")
    words = table("audit").groupby("inference", sort=False)["word"]
    assert set(words.groups) == set(printed.index)

    def differences() -> Iterable[str]:
        for name, group in words:
            row = printed.loc[name]
            if inference_word(group) != row["word"]:
                yield f"{name}: recounted {inference_word(group)}, the table has {row['word']}"
            kinds = ("supported", "contradicted", "depends", "undetermined", "not comparable")
            counts = {kind.replace(" ", "_"): (group == kind).sum() for kind in kinds} | {"rows": len(group)}
            for column, number in counts.items():
                if number != row[column]:
                    yield f"{name}, {column}: recounted {number}, the table has {row[column]}"

    agree(differences())


# --- Recounts


def baselines() -> Mapping[str, pd.Series]:
    """Each stated baseline by task; where Table 4 has none, chance as scored."""
    frame = cells().query(f"prompt == '{CLOSED}' and primary").groupby("task")[["chance", "chance_scored"]].first()
    by_hand = table("table4_manual").query("source == 'published'").set_index("task")["baseline"]
    return {
        "chance as scored": frame["chance_scored"],
        "one over the options": frame["chance"],
        "the paper's Table 4": by_hand.reindex(frame.index).fillna(frame["chance_scored"]),
    }


def over(accuracy: pd.Series, baseline: pd.Series) -> pd.Series:
    """Whether the accuracy lies over the baseline, by task; tasks without a baseline are left out."""
    level = baseline.reindex(accuracy.index).dropna()
    return accuracy.reindex(level.index) > level


def recounts() -> Mapping[str, Callable[[pd.Series], tuple[int, int]]]:
    """The count and its denominator under a baseline, by claim."""
    figure2, figure5 = table("overlap_figure2").set_index("task"), table("overlap_figure5")

    def table_2(baseline: pd.Series) -> tuple[int, int]:
        above = over(largest()["accuracy"], baseline)
        return int(above.sum()), len(above)

    def figure_2(baseline: pd.Series) -> tuple[int, int]:
        same = over(figure2["left_accuracy"], baseline) == over(figure2["right_accuracy"], baseline)
        return int(same.sum()), len(same)

    def figure_5(baseline: pd.Series) -> tuple[int, int]:
        accuracies = figure5.pivot(index="task", columns="model", values="accuracy")
        above = pd.DataFrame({model: over(accuracies[model], baseline) for model in accuracies})
        return int((above.nunique(axis=1) == 1).sum()), len(above)

    return {"table2_count": table_2, "figure2_count": figure_2, "figure5_count": figure_5}


def test_the_counts_of_table_2_and_of_figures_2_and_5_are_recounted() -> None:
    def differences() -> Iterable[str]:
        for name, recount in recounts().items():
            said = claim(name)["said"].iloc[0]
            for row in table("analyses").query("claim == @name").itertuples():
                choice = row.analysis.removeprefix("baseline: ")
                count, of = recount(baselines()[choice])
                equal = 1 if count == int(said.split()[0]) else -1
                if (count, of, equal) != (row.value, row.n, row.outcome):
                    yield (
                        f"{name}, {choice}: recounted {count} of {of} ({equal}), the table has "
                        f"{row.value:.0f} of {row.n:.0f} ({row.outcome:.0f}); the paper says {said}"
                    )

    agree(differences())


# --- What is printed of the counts


def words() -> dict[str, dict[str, int]]:
    """How many statements and how many inferences have each word, by the recount. No number: in no inference."""
    found = {where: word_of(analyses) for where, _, analyses in statements()}
    inferences = pd.Series(list(found.values())).groupby(table("audit")["inference"]).agg(inference_word)
    counts = {
        "rows": pd.Series(found).value_counts(),
        "inferences": inferences[inferences != "no number"].value_counts(),
    }
    return {name: {str(word): int(number) for word, number in each.items()} for name, each in counts.items()}


def test_the_metrics_are_the_recount() -> None:
    printed = json.loads((ROOT / "reports/metrics.json").read_text())
    assert printed["audit"] == words()
    rows, above = table2(), largest()
    tested = rows["p"].dropna()
    table_2 = {
        "above": int((holm(tested) < ALPHA).sum()),
        "above_raw": int((above["accuracy"] > above["chance_scored"]).sum()),
        "paper_above": int((rows["paper_above"] == True).sum()),  # noqa: E712
        "paper_emergent": int((rows["paper_emergent"] == True).sum()),  # noqa: E712
        "tasks": len(rows),
        "tests": len(tested),
        "untested": len(rows) - len(tested),
    }
    assert {name: printed["published"]["table2"][name] for name in table_2} == table_2
    agreeing, tasks = recounts()["figure2_count"](baselines()["chance as scored"])
    assert printed["published"]["figure2"] == {"agree": agreeing, "tasks": tasks}


def test_the_readme_says_the_recount() -> None:
    """How many inferences, of how many statements, and how many have each word."""
    said = " ".join((ROOT / "README.md").read_text().split())
    counts = words()
    totals = {
        "statements": sum(number for word, number in counts["rows"].items() if word != "no number"),
        "inferences": sum(counts["inferences"].values()),
    }
    found = re.search(r"(\d+) independent inferences\W+ rest under (\d+) statements: ([^(]+)\(", said)
    assert found, "the README says how many statements and inferences there are"
    assert (int(found[1]), int(found[2])) == (totals["inferences"], totals["statements"])
    printed = {word: int(number) for word, number in re.findall(r"([a-z ]+?) (\d+)", found[3])}
    agree(
        f"README: {word} {number}, recounted {counts['inferences'].get(word.strip(), 0)}"
        for word, number in printed.items()
        if number != counts["inferences"].get(word.strip(), 0)
    )
