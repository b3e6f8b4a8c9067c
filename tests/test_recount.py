"""A second count of the audit, from the tables of reports/ and the published scores alone.

Nothing of src/ is imported. The rules are those of docs/statistics.md, "How a verdict is reached", written down here a
second time. A row that differs is named, with both numbers. The tables print six digits, so numbers are compared to
five.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

ROOT = Path(__file__).parent.parent
ALPHA, MARGIN, WIDE = 0.05, 0.05, 0.10
CLOSED, LETTERED, EXACT, BERTSCORE = "closed", "closed_adv", "exact_match", "bertscore_accuracy"
ACTING = {
    "forced_choice_zero", "equals_constant_policy", "exact_match_above_bertscore", "exemplars_in_test_set",
    "n_above_test_set",
}  # fmt: skip
NO_NUMBER = "no chance level"
CELL = ["model", "prompt", "shots", "task"]


@functools.cache
def table(name: str) -> pd.DataFrame:
    frame = pd.read_csv(ROOT / f"reports/tables/{name}.csv")
    return frame.assign(item=frame["item"].fillna("")) if "item" in frame else frame


@functools.cache
def cells() -> pd.DataFrame:
    """Every published cell with its gates as a set, and whether one of them acts."""
    frame = table("published_cells")
    gates = frame["gates"].fillna("").str.split(";").map(set)
    return frame.assign(gates=gates, acts=gates.map(lambda names: bool(names & ACTING)))


@functools.cache
def options_of() -> Mapping[str, int]:
    """The number of options of each task where all its examples have as many."""
    chance = cells().groupby("task")["chance"].first().dropna()
    equal = {task: round(1 / level) for task, level in chance.items() if abs(1 / level - round(1 / level)) < 1e-5}
    return equal


def largest() -> pd.DataFrame:
    """The rows of Table 2: the largest base model without exemplars, options in the text, by task."""
    model = table("power").query("source == 'published'")["model"].unique()
    assert len(model) == 1
    frame = cells()
    asked = (frame["model"] == model[0]) & (frame["prompt"] == CLOSED) & (frame["shots"] == 0) & frame["primary"]
    return frame[asked].set_index("task")


def holm(p: pd.Series) -> pd.Series:
    """Holm (1979) over the p that exist: the i-th smallest of m times m − i + 1, never falling, at most 1."""
    ordered = p.dropna().sort_values()
    steps = ordered * np.arange(len(ordered), 0, -1)
    return steps.cummax().clip(upper=1).reindex(p.index)


def on_floor(row: Any) -> bool:
    """Whether the cell lies below chance with P(k or fewer right by guessing) < alpha."""
    if np.isnan(row.chance_scored) or not row.accuracy < row.chance_scored:
        return False
    equal = row.task in options_of() and abs(row.chance - row.chance_scored) < 1e-6
    below = stats.binom.cdf(row.k, row.n, 1 / options_of()[row.task]) if equal else row.p_below
    return bool(below < ALPHA)


def claim(name: str) -> pd.DataFrame:
    return table("audit").query("claim == @name").set_index("item")


def family_size(correction: str) -> int:
    """N of "Holm over N ...": how many tests the row's correction counts."""
    return int(re.fullmatch(r"Holm over (\d+) .*", correction).group(1))  # type: ignore[union-attr]


def agree(differences: Iterable[str]) -> None:
    found = list(differences)
    assert not found, f"{len(found)} rows differ:\n" + "\n".join(found)


def numbers_differ(where: str, recounted: float, printed: float, relative: float = 2e-5) -> Iterable[str]:
    both_missing = np.isnan(recounted) and np.isnan(printed)
    if not both_missing and not np.isclose(recounted, printed, rtol=relative, atol=2e-6):
        yield f"{where}: recounted {recounted:.6g}, the table has {printed:.6g}"


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
    """A repetition has the value, interval, both p and n of an earlier analysis of the statement, to six digits.

    A p that prints as 1 can hide a difference. So an analysis with such a p may count.
    """
    numbers = ["value", "low", "high", "p_for", "p_against", "outcome", "n"]

    def differences() -> Iterable[str]:
        for where, _, analyses in statements():
            repeated = analyses[numbers].duplicated() & analyses["outcome"].notna()
            hidden = analyses["counted"] & (analyses[["p_for", "p_against"]] > 0.99999).any(axis=1)
            for row in analyses[(repeated == analyses["counted"]) & ~hidden].itertuples():
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
    """The word of more than half of the statements that have a number; else depends or undetermined."""
    numbered = words[words != "no number"]
    if numbered.empty:
        return "no number"
    counts = numbered.value_counts()
    if counts.iloc[0] * 2 > len(numbered):
        return str(counts.index[0])
    return "depends" if {"supported", "contradicted"} <= set(numbered) else "undetermined"


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


# --- Cells: binomial tails, floors, gates


TAILS: Mapping[str, Callable[[Any, float], float]] = {
    "p": lambda row, chance: stats.binom.sf(row.k - 1, row.n, chance),
    "p_below": lambda row, chance: stats.binom.cdf(row.k, row.n, chance),
    "p_short": lambda row, chance: stats.binom.cdf(row.k, row.n, chance + MARGIN),
}


def test_every_published_cell_at_equal_chance_has_the_binomial_tails_and_the_wilson_interval() -> None:
    def differences() -> Iterable[str]:
        for row in cells().itertuples():
            where = f"{row.model} {row.prompt} {row.shots} {row.task} {row.metric}"
            if row.k != round(row.accuracy * row.n):
                yield f"{where}: {row.accuracy} of {row.n} are not {row.k} right"
            low, high = proportion_confint(row.k, row.n, method="wilson")
            yield from numbers_differ(f"{where}, low", low, row.ci_low)
            yield from numbers_differ(f"{where}, high", high, row.ci_high)
            if row.task in options_of() and abs(row.chance - row.chance_scored) < 1e-6:
                for column, tail in TAILS.items():
                    recounted = tail(row, 1 / options_of()[row.task])
                    yield from numbers_differ(f"{where}, {column}", recounted, getattr(row, column))

    agree(differences())


def test_at_unequal_chance_the_tails_lie_inside_the_binomial_ones() -> None:
    """Hoeffding (1956): with equal mean, a sum of unequal trials exceeds the mean by one or more no more often."""

    def differences() -> Iterable[str]:
        for row in cells()[~cells()["task"].isin(options_of()) & cells()["chance_scored"].notna()].itertuples():
            for column, chance in (("p", row.chance_scored), ("p_below", row.chance_scored)):
                mean, bound = row.n * chance, TAILS[column](row, chance)
                outer = row.k >= mean + 1 if column == "p" else row.k <= mean - 1
                if outer and getattr(row, column) > bound * (1 + 1e-4) + 2e-6:
                    yield f"{row.model} {row.task}, {column}: {getattr(row, column)} exceeds the bound {bound:.6g}"

    agree(differences())


def test_the_cells_are_the_published_scores() -> None:
    scores = pd.read_csv(ROOT / "data/published/scores.csv").set_index(["model", "prompt", "shots", "task"])
    frame = cells()
    assert scores.index.is_unique
    published = scores.stack().rename("published")
    printed = frame.set_index([*CELL, "metric"])["accuracy"]
    merged = printed.to_frame().join(published.rename_axis([*CELL, "metric"]))
    agree(
        f"{' '.join(map(str, index))}: published {row.published}, the table has {row.accuracy}"
        for index, row in merged.iterrows()
        if not abs(row.published - row.accuracy) < 2e-6
    )


def test_the_gates_that_scores_can_show_are_on_the_cells_they_speak_of() -> None:
    """A forced choice never right with n >= 100; exact match over five points above BERTScore accuracy."""
    exact = cells().query("metric == @EXACT").set_index(CELL)["accuracy"]

    def differences() -> Iterable[str]:
        for row in cells().query("metric == @BERTSCORE and primary").itertuples():
            key = (row.model, row.prompt, row.shots, row.task)
            expected = {
                "exact_match_above_bertscore": exact[key] > row.accuracy + MARGIN,
                "forced_choice_zero": row.accuracy == 0 and row.n >= 100,
            }
            for gate, fails in expected.items():
                if fails != (gate in row.gates):
                    yield f"{key}: {gate} recounted {fails} (exact match {exact[key]}, accuracy {row.accuracy})"

    agree(differences())
    gated = table("gates").query("source == 'published' and prompt in ['closed', 'closed_adv']")
    primary = cells()[cells()["primary"]].set_index([*CELL, "metric"])["gates"]
    listed = gated.set_index([*CELL, "metric"])["gates"].str.split(";").map(set)
    assert listed.to_dict() == primary[primary != {""}].to_dict()


# --- Table 2


def in_family() -> pd.DataFrame:
    """Table 2's rows with a test: a chance level, no acting gate, and no exact match on the floor."""
    rows = largest().reset_index()
    floored = rows.apply(on_floor, axis=1) & (rows["metric"] == EXACT)
    return rows[rows["chance_scored"].notna() & ~rows["acts"] & ~floored].set_index("task")


def test_table_2_above_the_baseline_under_holm_in_both_directions() -> None:
    rows, tested = claim("table2_above"), in_family()
    above, short = holm(tested["p"]), holm(tested["p_short"])

    def differences() -> Iterable[str]:
        for task, row in rows.iterrows():
            if family_size(row["correction"]) != len(tested):
                yield f"{task}: Holm over {len(tested)} recounted, the table has {row['correction']}"
            if (task in tested.index) != (row["word"] not in ("not comparable", "no number")):
                yield f"{task}: {'tested' if task in tested.index else 'not tested'}, but {row['word']}"
                continue
            if task not in tested.index:
                continue
            both = (above[task], short[task])
            holds, opposite = both if row["said"] == "above the baseline" else reversed(both)
            yield from numbers_differ(f"{task}, p for", holds, row["p_for"])
            yield from numbers_differ(f"{task}, p against", opposite, row["p_against"])
            low, high = proportion_confint(tested["k"][task], row["n"], method="wilson")
            yield from numbers_differ(f"{task}, low", low, row["low"])
            yield from numbers_differ(f"{task}, high", high, row["high"])

    agree(differences())


def test_table_2_is_the_table_of_cells() -> None:
    printed = table("table2_emergence").merge(cells(), on=[*CELL, "metric"], suffixes=("", "_cell"))
    assert len(largest().index.intersection(printed["task"])) == len(largest()) == 22
    agree(
        difference
        for row in printed.query("source == 'published'").itertuples()
        for column in ("n", "k", "accuracy", "ci_low", "ci_high", "chance_scored", "p", "trivial")
        for difference in numbers_differ(
            f"{row.model} {row.task}, {column}", getattr(row, f"{column}_cell"), getattr(row, column)
        )
    )


def table2() -> pd.DataFrame:
    frame = table("table2_emergence").query("source == 'published'")
    return frame[frame["model"] == largest()["model"].iloc[0]].set_index("task")


def test_table_2_predictable_under_holm_over_the_tasks_with_a_forecast() -> None:
    rows, frame = claim("table2_predictable"), table2()
    tested = frame[frame.index.isin(in_family().index) & ~(frame["fit_p"] < ALPHA)]
    differs, within = holm(tested["p_differs"]), holm(tested["p_within_ten"])

    def differences() -> Iterable[str]:
        for task, row in rows.iterrows():
            if family_size(row["correction"]) != len(tested):
                yield f"{task}: Holm over {len(tested)} recounted, the table has {row['correction']}"
            if task not in tested.index:
                if row["word"] != "not comparable":
                    yield f"{task}: its line is rejected or it is not tested, but {row['word']}"
                continue
            residual = tested["residual"][task]
            predicted = within[task], differs[task]
            over = (differs[task] if residual > 0 else 1, min(within[task], differs[task] if residual < 0 else 1))
            holds, opposite = predicted if row["said"] == "predicted by smaller models" else over
            yield from numbers_differ(f"{task}, p for", holds, row["p_for"])
            yield from numbers_differ(f"{task}, p against", opposite, row["p_against"])
            yield from numbers_differ(f"{task}, value", residual, row["value"])
            yield from numbers_differ(f"{task}, low", tested["residual_low"][task], row["low"])
            yield from numbers_differ(f"{task}, high", tested["residual_high"][task], row["high"])

    agree(differences())


def test_table_2_emergent_is_the_largest_of_three_p_under_holm() -> None:
    rows, frame = claim("table2_emergent"), table2()
    tested = frame[frame.index.isin(in_family().index) & ~(frame["fit_p"] < ALPHA)]
    emergent = holm(tested[["p", "p_trivial", "p_jump"]].max(axis=1))

    def differences() -> Iterable[str]:
        for task, row in rows.iterrows():
            if task not in tested.index:
                if row["word"] != "not comparable":
                    yield f"{task}: its line is rejected or it is not tested, but {row['word']}"
                continue
            printed = row["p_for"] if row["said"] == "emergent" else row["p_against"]
            yield from numbers_differ(f"{task}, p of emergent", emergent[task], printed)

    agree(differences())
    found = table("audit").query("claim == 'rq1_any'").iloc[0]
    assert (found["value"], found["n"]) == ((emergent < ALPHA).sum(), len(tested))
    agree(numbers_differ("rq1_any, p for", emergent.min(), found["p_for"]))


# --- Recounts


def baselines() -> Mapping[str, pd.Series]:
    """Each stated baseline by task; where Table 4 has none, chance as scored."""
    frame = cells().query("prompt == @CLOSED and primary").groupby("task")[["chance", "chance_scored"]].first()
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


# --- Contrasts over tasks: RQ4, and what exemplars do to one model


def wide(prompt: str, column: str) -> pd.DataFrame:
    """One column of the primary cells of a prompt: a row for each task, a column for each (model, few-shot)."""
    frame = cells().query("prompt == @prompt and primary")
    frame = frame.assign(few=frame["shots"] > 0, floor=frame.apply(on_floor, axis=1))
    return frame.pivot(index="task", columns=["model", "few"], values=column)


def contrast(prompt: str, weights: Mapping[tuple[str, bool], int]) -> dict[str, float]:
    """The mean of a weighted sum of cells over the tasks that stay, its tests, and how many tasks left."""
    accuracy = wide(prompt, "accuracy")[list(weights)].dropna()
    leaves = wide(prompt, "acts").loc[accuracy.index, list(weights)].astype(bool).any(axis=1)
    leaves |= wide(prompt, "floor").loc[accuracy.index, list(weights)].astype(bool).any(axis=1)
    differences = (accuracy[~leaves] * pd.Series(weights)).sum(axis=1)
    result: dict[str, float] = {"n": len(differences), "of": len(accuracy)}
    if 2 * leaves.sum() >= len(accuracy):
        return result
    interval = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    lower = stats.ttest_1samp(differences, -MARGIN, alternative="greater").pvalue
    upper = stats.ttest_1samp(differences, MARGIN, alternative="less").pvalue
    return result | {
        "value": differences.mean(),
        "low": interval.low,
        "high": interval.high,
        "effect": stats.ttest_1samp(differences, 0).pvalue,
        "small": max(lower, upper),
    }


def both_sides(frame: pd.DataFrame) -> pd.DataFrame:
    """Holm for each of the two tests over the rows of the family that stay; then what speaks for and against."""
    effect, small = holm(frame["effect"]), holm(frame["small"])
    more, less = effect.where(frame["value"] > 0, 1.0), effect.where(frame["value"] < 0, 1.0)
    against = pd.concat([small, less], axis=1).min(axis=1)
    return frame.assign(more=more, against_more=against, same=small, differs=effect)


def contrast_differs(where: str, row: Any, recounted: Any, sides: tuple[str, str], family: int) -> Iterable[str]:
    if family_size(row["correction"]) != family:
        yield f"{where}: Holm over {family} recounted, the table has {row['correction']}"
    if recounted["n"] != row["n"]:
        yield f"{where}: {recounted['n']:.0f} of {recounted['of']:.0f} tasks stay, the table has {row['n']}"
    if np.isnan(recounted["value"]) != (row["word"] == "not comparable"):
        yield f"{where}: {recounted['n']:.0f} of {recounted['of']:.0f} tasks stay, but {row['word']}"
    elif not np.isnan(recounted["value"]):
        columns = {"value": "value", "low": "low", "high": "high", "p_for": sides[0], "p_against": sides[1]}
        for column, mine in columns.items():
            yield from numbers_differ(f"{where}, {column}", recounted[mine], row[column], relative=1e-4)


@pytest.mark.parametrize("prompt", [CLOSED, LETTERED])
def test_rq4_exemplars_for_the_base_model_and_its_twin(prompt: str) -> None:
    rows = claim("rq4_gain")
    rows = rows[rows.index.str.endswith(f", {prompt}")]
    pairs = table("difference_in_differences").query("prompt == @prompt")
    assert len(pairs) == len(rows)
    found = {
        f"{pair.base} against {pair.tuned}, {prompt}": contrast(
            prompt, {(pair.base, True): 1, (pair.base, False): -1, (pair.tuned, True): -1, (pair.tuned, False): 1}
        )
        for pair in pairs.itertuples()
    }
    recounted = both_sides(pd.DataFrame(found).T)
    family = int(recounted["value"].notna().sum())
    agree(
        difference
        for item, row in rows.iterrows()
        for difference in contrast_differs(item, row, recounted.loc[item], ("more", "against_more"), family)
    )


@pytest.mark.parametrize(
    ("name", "sides"), [("few_shot_boost", ("more", "against_more")), ("few_shot_no_change", ("same", "differs"))]
)
def test_what_exemplars_do_to_one_model(name: str, sides: tuple[str, str]) -> None:
    row = claim(name).iloc[0]
    pairs = table("contrasts").query("kind == 'few_minus_zero' and prompt == @CLOSED")
    found = {
        pair.x_model: contrast(CLOSED, {(pair.x_model, True): 1, (pair.x_model, False): -1})
        for pair in pairs.itertuples()
    }
    recounted = both_sides(pd.DataFrame(found).T)
    models = [model for model, each in recounted.iterrows() if np.isclose(each["value"], row["value"], rtol=1e-4)]
    assert len(models) == 1, f"{name}: {row['value']} is the contrast of {models or 'no model'}"
    family = int(recounted["value"].notna().sum())
    agree(contrast_differs(name, row, recounted.loc[models[0]], sides, family))


def test_the_contrast_tables_hold_every_task_and_every_cell() -> None:
    """These tables leave no cell out; the audit does."""

    def differences() -> Iterable[str]:
        for row in table("difference_in_differences").itertuples():
            accuracy = wide(row.prompt, "accuracy")
            gain = {model: accuracy[model, True] - accuracy[model, False] for model in (row.base, row.tuned)}
            values = (gain[row.base] - gain[row.tuned]).dropna()
            where = f"{row.base} against {row.tuned}, {row.prompt}"
            if len(values) != row.n_tasks:
                yield f"{where}: {len(values)} tasks recounted, the table has {row.n_tasks}"
            yield from numbers_differ(f"{where}, mean", values.mean(), row.mean_diff, relative=1e-4)
            yield from numbers_differ(f"{where}, p", stats.ttest_1samp(values, 0).pvalue, row.t_p, relative=1e-4)

    agree(differences())


# --- RQ2 and RQ3


def sides() -> pd.DataFrame:
    """Figure 2's cells in a long form: one row for each side and task with a chance level, without gated tasks."""
    figure = table("overlap_figure2")
    long = pd.concat(
        figure[["task", *(f"{side}_{column}" for column in ("model", "shots"))]]
        .set_axis(["task", "model", "shots"], axis=1)
        .assign(prompt=CLOSED, side=side)
        for side in ("left", "right")
    )
    merged = long.merge(cells().query("primary"), on=CELL, validate="1:1")
    floored = merged.apply(on_floor, axis=1) & (merged["metric"] == EXACT)
    bad = merged.loc[merged["acts"] | floored | merged["chance_scored"].isna(), "task"]
    return merged[~merged["task"].isin(bad)].set_index(["side", "task"])


def test_rq2_common_tasks_given_how_many_each_model_solves() -> None:
    row, frame = claim("rq2_overlap").iloc[0], sides()
    above = holm(frame["p"]) < ALPHA
    left, right = above["left"], above["right"]
    both = int((left & right).sum())
    margins = stats.hypergeom(len(left), int(left.sum()), int(right.sum()))
    observed = (left == right).mean()
    expected = left.mean() * right.mean() + (1 - left.mean()) * (1 - right.mean())
    kappa = (observed - expected) / (1 - expected)
    more, fewer = margins.sf(both - 1), margins.cdf(both)
    judged, other = (more, row["p_against"]) if kappa > 0 else (fewer, row["p_for"])
    assert row["n"] == len(left), f"{len(left)} tasks recounted, the table has {row['n']}"
    assert other > ALPHA
    agree(
        [
            *numbers_differ("rq2_overlap, p", judged, row["p_for"] if kappa > 0 else row["p_against"]),
            *numbers_differ("rq2_overlap, kappa", kappa, row["value"]),
        ]
    )


def test_figure_2_task_by_task() -> None:
    """Agree: both are shown to be above, or both not to be. Disagree: one is, the other is shown not to be.

    A side's verdict is shown by its p under Holm over the verdicts of both sides, in each direction.
    """
    rows, frame = claim("figure2_tasks"), sides()
    above, short = holm(frame["p"]), holm(frame["p_short"])

    def both(one: pd.Series, other: pd.Series) -> pd.Series:
        return pd.concat([one["left"], other["right"]], axis=1).max(axis=1)

    same = np.minimum(both(above, above), both(short, short))
    opposed = np.minimum(both(above, short), both(short, above))

    def differences() -> Iterable[str]:
        for task, row in rows.iterrows():
            if (task in same.index) != (row["word"] not in ("not comparable", "no number")):
                yield f"{task}: {'compared' if task in same.index else 'not compared'}, but {row['word']}"
            elif task in same.index:
                holds, opposite = (same, opposed) if row["said"] == "they agree" else (opposed, same)
                yield from numbers_differ(f"{task}, p for", holds[task], row["p_for"])
                yield from numbers_differ(f"{task}, p against", opposite[task], row["p_against"])

    agree(differences())


def test_figure_2_says_over_how_many_verdicts_holm_goes() -> None:
    verdicts = len(sides())
    agree(
        f"{task}: the p are those of Holm over {verdicts} verdicts, the table says {row['correction']}"
        for task, row in claim("figure2_tasks").iterrows()
        if family_size(row["correction"]) != verdicts
    )


def permutation_p(x: np.ndarray, y: np.ndarray, draws: int = 20_000) -> tuple[float, float]:
    """Spearman's rho of values rounded to nine decimals, and how often a permutation lies as far from 0."""
    rng = np.random.default_rng(1)
    first, second = (stats.rankdata(np.round(values, 9)) for values in (x, y))
    first, second = ((ranks - ranks.mean()) / np.linalg.norm(ranks - ranks.mean()) for ranks in (first, second))
    rho = float(first @ second)
    permuted = rng.permuted(np.tile(first, (draws, 1)), axis=1) @ second
    return rho, (1 + int((np.abs(permuted) >= abs(rho) - 1e-12).sum())) / (1 + draws)


def test_rq3_the_correlation_of_what_can_be_memorised_with_skill() -> None:
    row = claim("rq3_memorisable").iloc[0]
    tested = in_family().join(table2()["memorisable"])
    skill = (tested["accuracy"] - tested["chance_scored"]) / (1 - tested["chance_scored"])
    rho, p = permutation_p(skill.to_numpy(), tested["memorisable"].to_numpy())
    printed, opposite = (row["p_for"], row["p_against"]) if rho > 0 else (row["p_against"], row["p_for"])
    assert row["n"] == len(tested), f"{len(tested)} tasks recounted, the table has {row['n']}"
    assert (rho > 0) == (row["value"] > 0)
    assert np.isclose(rho, row["value"], atol=1e-5), f"rho recounted {rho:.6f}, the table has {row['value']}"
    error = 4 * np.sqrt(p * (1 - p) * (1 / 20_000 + 1 / 5_000))
    assert abs(p - printed) < error, f"p recounted {p:.4f} (within {error:.4f}), the table has {printed}"
    assert opposite == 1


def test_metrics_agree_under_holm_over_the_pairs_of_metrics() -> None:
    pairs = table("mirage")
    corrected = holm(pairs["p"])

    def differences() -> Iterable[str]:
        for place, pair in pairs.iterrows():
            item = f"{pair['metric_a']} and {pair['metric_b']}"
            row = claim("metrics_agree").loc[item]
            if family_size(row["correction"]) != len(pairs):
                yield f"{item}: Holm over {len(pairs)} recounted, the table has {row['correction']}"
            holds, opposite = (corrected[place], 1.0)[:: 1 if pair["rho"] > 0 else -1]
            yield from numbers_differ(f"{item}, p for", holds, row["p_for"])
            yield from numbers_differ(f"{item}, p against", opposite, row["p_against"])
            yield from numbers_differ(f"{item}, rho", pair["rho"], row["value"])

    agree(differences())


# --- Table 4


def pairings(n: int, metric: int, manual: int) -> pd.DataFrame:
    """Every table of two markings with these counts: disagreements, McNemar's p, two one-sided p, 90 % interval."""
    rows = []
    for right_twice in range(max(0, metric + manual - n), min(metric, manual) + 1):
        only_metric, only_manual = metric - right_twice, manual - right_twice
        disagree, difference = only_metric + only_manual, (metric - manual) / n
        error = np.sqrt(disagree - (only_metric - only_manual) ** 2 / n) / n
        mcnemar = stats.binomtest(only_metric, disagree).pvalue if disagree else 1.0
        rows.append((disagree, mcnemar, error, difference))
    frame = pd.DataFrame(rows, columns=["disagree", "p", "error", "difference"]).sort_values("disagree")
    return frame.reset_index(drop=True)


def test_table_4_over_every_pairing_with_n_as_it_can_be() -> None:
    rows, printed = claim("table4_manual"), table("table4_manual").query("source == 'published'").set_index("task")
    sizes = cells().groupby("task")["n"].max().clip(upper=50)
    z = stats.norm.ppf(0.95)
    differs, within = {}, {}

    def differences() -> Iterable[str]:
        for task, row in printed.iterrows():
            if row["n"] != sizes[task]:
                yield f"{task}: {sizes[task]} outputs can have been graded, the table has {row['n']}"
            every = pairings(row["n"], row["k_metric"], row["k_manual"])
            extremes = {"least": every.iloc[0], "most": every.iloc[-1]}
            for name, pairing in extremes.items():
                where = f"{task}, {name}"
                yield from numbers_differ(f"{where} disagreements", pairing["disagree"], row[f"disagreements_{name}"])
                yield from numbers_differ(f"{where}, McNemar", pairing["p"], row[f"p_{name}"])
                if pairing["error"] > 0:
                    half = z * pairing["error"]
                    yield from numbers_differ(f"{where}, low", pairing["difference"] - half, row[f"low_{name}"])
            differs[task] = every["p"].max()
            within[task] = max(row["tost_p_least"], row["tost_p_most"])
            if differs[task] > max(row["p_least"], row["p_most"]) * (1 + 1e-4):
                yield f"{task}: a pairing between the extremes has McNemar's p {differs[task]:.4g}"

    agree(differences())
    holds, opposite = holm(pd.Series(within)), holm(pd.Series(differs))

    def audited() -> Iterable[str]:
        for task, row in rows.iterrows():
            if family_size(row["correction"]) != len(printed):
                yield f"{task}: Holm over {len(printed)} recounted, the table has {row['correction']}"
            yield from numbers_differ(f"{task}, p for", holds[task], row["p_for"])
            yield from numbers_differ(f"{task}, p against", opposite[task], row["p_against"])

    agree(audited())


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
    """Every "Of N statements", "Of N inferences" and "N supported" of the README is a recounted number."""
    said = " ".join((ROOT / "README.md").read_text().split())
    counts = words()
    totals = {
        "statements": sum(number for word, number in counts["rows"].items() if word != "no number"),
        "inferences": sum(counts["inferences"].values()),
    }
    found = re.findall(r"[Oo]f (\d+) (?:independent )?(statements|inferences)", said)
    assert found, "the README says of how many statements or inferences the audit speaks"
    agree(
        f"README: of {number} {kind}, recounted {totals[kind]}" for number, kind in found if int(number) != totals[kind]
    )
    allowed = {word: {each.get(word, 0) for each in counts.values()} for word in counts["rows"]}
    agree(
        f"README: {number} {word}, recounted {sorted(allowed[word])}"
        for number, word in re.findall(rf"(\d+) ({'|'.join(allowed)})\b", said)
        if int(number) not in allowed[word]
    )
