"""The stage on the published file and on own scores from a seeded generator; items are made up, counts are real."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src import stats
from src.base.errors import UserError
from src.base.files import ROOT
from src.base.metrics import (
    BERT,
    EMERGENCE_COLUMNS,
    EXACT,
    GATE_CEILING,
    GATE_EXACT_ZERO,
    GATE_EXEMPLARS,
    GATE_MODEL,
    GATE_TASK,
    LINE_REJECTED,
    MEANS,
    NOT_ZERO_SHOT,
    PROBABILITIES,
    TOO_FEW_SIZES,
)
from src.question.examples import Example
from src.statistics.items import Items, items_of
from src.statistics.own import own_rows
from src.statistics.published import published_rows, read_published
from src.statistics.rows import complete
from src.statistics.setting import Setting
from src.statistics.table2 import chance_sensitivity, emergence, with_and_without_scatter

PUBLISHED = ROOT / stats.PUBLISHED_SCORES
# number of options of tasks where all items have the same
OPTIONS = {"analytic_entailment": 2, "causal_judgment": 2, "common_morpheme": 4, "fact_checker": 2, "implicatures": 2}
OPTIONS |= {"figure_of_speech_detection": 10, "logical_deduction": 3, "misconceptions": 2, "phrase_relatedness": 4}
OPTIONS |= {"strategyqa": 2, "tracking_shuffled_objects": 3, "strange_stories": 4, "hindu_knowledge": 4}
OPTIONS |= {"english_proverbs": 4, "nonsense_words_grammar": 4, "physical_intuition": 4, "social_iqa": 3}


def invented(task: str, n: int, m: int, stops: int = 0) -> Items:
    """n items of m options with gold at i mod m; the gold of the first `stops` ends in a full stop; five exemplars."""
    rows = [
        Example(
            id=f"{task}/{i:05}",
            group=f"g{i // 2}",
            input=f"{task} {i}",
            options=tuple(f"{task} {i} {j}" + ("." if i < stops else "") for j in range(m)),
            target=i % m,
            answer="",
            exemplar=i - n if i >= n else None,
        )
        for i in range(n + 5)
    ]
    return items_of(rows)


@pytest.fixture(scope="session")
def setting() -> Setting:
    found = stats.read_setting(ROOT)
    items = {task: invented(task, found.tasks[task].n_published, m) for task, m in OPTIONS.items()}
    items["strange_stories"] = invented("strange_stories", 117, 4, stops=32)
    return replace(found, items=items, alpha=0.05)


@pytest.fixture(scope="session")
def published(setting) -> pd.DataFrame:
    return read_published(PUBLISHED, setting.tasks)


@pytest.fixture(scope="session")
def cells(published, setting) -> pd.DataFrame:
    return complete(published_rows(published, setting, "0" * 64), setting)


@pytest.fixture(scope="session")
def table2(cells, setting) -> pd.DataFrame:
    rows = emergence(cells, setting)
    return rows[(rows["model"] == "davinci") & (rows["condition"] == "closed_zero")].set_index("task")


# ---- the published file: what is wrong is named ------------------------------------------------------------------


def spoiled(tmp_path: Path, line: int, column: str, value: str) -> Path:
    """The published file with one value changed; `line` as an editor counts."""
    table = pd.read_csv(PUBLISHED, dtype=str, keep_default_na=False)
    table.loc[line - 2, column] = value
    table.to_csv(tmp_path / "scores.csv", index=False)
    return tmp_path / "scores.csv"


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        ("exact_match", "none", "'none' is not a number"),
        ("exact_match", "-100", "-100 is outside 0 to 1"),
        ("exact_match", "", "a value is needed"),
        ("exact_match", "57.1", "57.1 is outside"),
        ("exact_match", "inf", "outside"),
        ("edit_distance_sd", "-100.0", "-100 is outside"),
        ("bertscore_accuracy", "", "primary metric"),
        ("n_examples", "66", "66 is not an n of analytic_entailment: [65, 70]"),
        ("n_examples", "70", "no multiple of 1 / (n_examples * n_runs)"),
        ("n_examples", "6.5", "not a count"),
        ("n_runs", "0", "not a count"),
        ("shots", "5", "a second row for analytic_entailment / davinci / closed / 5"),
        ("model", "", "a value is needed"),
    ],
)
def test_a_malformed_published_file_is_refused_by_line_and_column(tmp_path, setting, column, value, why):
    with pytest.raises(UserError) as error:
        read_published(spoiled(tmp_path, 3, column, value), setting.tasks)
    assert why in str(error.value)
    assert "line 3" in str(error.value) or "line 4" in str(error.value)
    assert f"column '{'task' if column == 'shots' else column}'" in str(error.value)


def test_a_missing_column_or_file_is_named(tmp_path, setting):
    pd.read_csv(PUBLISHED).drop(columns="n_runs").to_csv(tmp_path / "scores.csv", index=False)
    with pytest.raises(UserError, match="no column 'n_runs'"):
        read_published(tmp_path / "scores.csv", setting.tasks)
    with pytest.raises(UserError, match="is missing"):
        read_published(tmp_path / "none.csv", setting.tasks)


def test_the_published_file_itself_is_accepted_whole(published):
    assert len(published) == 1935


# ---- published rows ------------------------------------------------------------------------------------------------


def test_a_row_of_table_2_by_exact_fractions(table2):
    # released cell: strategyqa, davinci, closed, zero-shot: 1235 of 2285 right
    row = table2.loc["strategyqa"]
    assert (row["k"], row["n"], row["chance"]) == (1235, 2285, 0.5)
    exact = Fraction(sum(math.comb(2285, j) for j in range(1235, 2286)), 2**2285)
    assert row["p"] == pytest.approx(float(exact), rel=1e-9)


def test_assumed_chance_is_marked_and_has_no_content_free_policy(table2):
    row = table2.loc["gsm8k"]
    assert row["chance"] == pytest.approx(1 / 5)
    assert row["chance_assumed"]
    assert np.isnan(row["trivial"])
    # 125 of 1319 against 1/5, in exact fractions
    exact = sum(Fraction(math.comb(1319, j) * 4 ** (1319 - j), 5**1319) for j in range(125, 1320))
    assert row["p"] == pytest.approx(float(exact), rel=1e-9)


def test_a_task_that_shows_no_options_has_no_chance_and_no_verdict(table2, cells):
    assert np.isnan(table2.loc["codenames", "chance"])
    assert table2.loc["codenames", ["above", "above_raw", "emergent"]].isna().all()
    lettered = cells[(cells["task"] == "codenames") & (cells["prompt"] == "closed_adv")]
    assert lettered["chance"].dropna().unique() == pytest.approx([1 / 3])
    open_exact = cells[(cells["prompt"] == "open") & (cells["metric"] == EXACT)]
    assert open_exact["chance"].isna().all()


def test_options_that_keep_their_full_stop_lower_ceiling_and_scored_chance(table2, cells):
    # protocol.md, defect 7: 85 of 117 can be scored
    row = table2.loc["strange_stories"]
    assert row["ceiling"] == pytest.approx(85 / 117)
    assert row["chance_scored"] == pytest.approx(0.1816, abs=1e-4)
    assert row["diff"] == pytest.approx(row["accuracy"] - row["chance_scored"])
    assert GATE_CEILING in row["gates"]
    lettered = cells[(cells["task"] == "strange_stories") & (cells["prompt"] == "closed_adv")]
    assert (lettered["ceiling"].dropna() == 1).all()


def test_every_row_with_a_chance_level_is_tested_on_both_sides_of_both_bars(cells):
    known = cells["chance"].notna()
    both = cells.loc[known, ["p", "p_below", "p_short"]]
    assert both.notna().all(axis=None)
    assert cells.loc[~known, ["p", "p_below", "p_short"]].isna().all(axis=None)
    assert (both["p_short"] <= both["p_below"] + 1e-12).all()  # five points higher is harder to reach
    assert (both["p"] + both["p_below"] >= 1 - 1e-9).all()  # both tails hold k itself
    bar = cells["trivial"].notna()
    assert (cells["p_trivial_short"].notna() == bar).all()
    row = cells[bar & (cells["n"] > 50)].iloc[0]
    below = sum(
        math.comb(row["n"], j) * (row["trivial"] + 0.05) ** j * (0.95 - row["trivial"]) ** (row["n"] - j)
        for j in range(int(row["k"]) + 1)
    )
    assert row["p_trivial_short"] == pytest.approx(below)


def test_holm_over_the_tested_tasks_of_table_2_by_hand(table2):
    p = table2["p"].dropna().sort_values()
    by_hand, worst = {}, 0.0
    for i, (task, value) in enumerate(p.items()):
        worst = max(worst, min(1.0, value * (len(p) - i)))
        by_hand[task] = worst
    assert table2["p_holm"].dropna().to_dict() == pytest.approx(by_hand)
    assert (table2["above"].dropna() == (pd.Series(by_hand) < 0.05).reindex(table2["above"].dropna().index)).all()


def test_only_confirmatory_rows_get_holm_and_a_verdict(cells):
    inside = cells["p_holm"].notna()
    assert set(cells.loc[inside, "model"]) == {"davinci"}
    assert cells.loc[~inside, "above"].isna().all()
    assert cells.loc[cells["p"].notna(), "p_bh"].notna().all()


def test_the_raw_rule_is_the_papers_but_for_its_own_roundings(table2):
    # Table 2, column above baseline, on tasks with known chance: tracking is 1.4 points above and called not above
    raw, paper = table2["above_raw"], table2["paper_above"]
    known = raw.notna() & ~table2.index.isin(["nonsense_words_grammar", "english_proverbs", "physical_intuition"])
    assert table2.index[known & (raw != paper)].tolist() == ["tracking_shuffled_objects"]


def test_odd_rows_are_kept_and_say_what_is_odd(cells):
    def gates(**where):
        mine = np.logical_and.reduce([cells[name] == value for name, value in where.items()])
        return cells.loc[mine, "gates"]

    assert gates(model="alpaca_7b").str.contains(GATE_MODEL).all()
    assert gates(model="gpt_4").str.contains(GATE_MODEL).all()
    assert gates(task="international_phonetic_alphabet_transliterate").str.contains(GATE_TASK).all()
    assert gates(task="logical_deduction", n=300).str.contains(GATE_EXEMPLARS).all()
    assert not gates(task="logical_deduction", model="gpt2").str.contains(GATE_EXEMPLARS).any()
    assert gates(task="implicatures", model="davinci", condition="closed_zero", metric=BERT).tolist() == [
        GATE_EXACT_ZERO
    ]


def test_means_carry_no_count_and_no_test(cells):
    means = cells[cells["metric"].isin(MEANS)]
    assert len(means) > 0
    assert means[["k", "p", "chance", "ci_low", "p_holm"]].isna().all(axis=None)


def test_each_cell_has_its_own_fingerprint(cells):
    one = cells.drop_duplicates(["model", "prompt", "shots", "task"])
    assert one["fingerprint"].is_unique
    assert one["fingerprint"].str.fullmatch("[0-9a-f]{12}").all()


def test_table_2_has_every_base_model_and_its_columns_in_order(cells, setting):
    rows = emergence(cells, setting)[list(EMERGENCE_COLUMNS)]
    base = {m for m, fields in setting.models.items() if not fields.tuned} & set(cells["model"])
    assert set(rows["model"]) == base
    assert rows.loc[rows["model"] != "davinci", ["paper_above", "emergent", "forecast"]].isna().all(axis=None)
    assert rows.loc[rows["model"] == "llama_30b", "predictable"].isin([TOO_FEW_SIZES, NOT_ZERO_SHOT]).all()


def test_forecast_of_davinci_uses_the_three_smaller_models_only(table2, published):
    from src.statistics import forecast

    row = table2.loc["misconceptions"]
    mine = published[
        (published["task"] == "misconceptions") & (published["prompt"] == "closed") & (published["shots"] == 0)
    ]
    three = mine.set_index("model").loc[["gpt2", "gpt2_xl", "gptj_6b"], "bertscore_accuracy"]
    fit = forecast.binomial_line([124e6, 1.5e9, 6.05e9], (three * 214).tolist(), [214] * 3)
    wanted = float(fit.predict(forecast.design([175e9]))[0])
    assert row["forecast_binomial"] == pytest.approx(wanted, rel=1e-6)


def test_the_two_forecasts_stand_side_by_side_with_the_verdicts_of_table_2(cells, setting, table2):
    found = with_and_without_scatter(emergence(cells, setting), setting.alpha)
    assert found.groupby("prompt")["task"].nunique().to_dict() == {"closed": 22, "closed_adv": 22}
    closed = found[found["prompt"] == "closed"].set_index("task").loc[table2.index]
    for name in ("predictable", "emergent", "forecast"):
        pd.testing.assert_series_equal(closed[name], table2[name])
    for name in ("predictable", "predictable_binomial"):
        rejected = found[name] == LINE_REJECTED
        assert found.loc[rejected, name.replace("predictable", "emergent")].isna().all()
    narrower = (found["residual_high"] - found["residual_low"]) - (
        found["residual_binomial_high"] - found["residual_binomial_low"]
    )
    assert narrower[found["tau2"] > 0].median() > 0


def test_chance_sensitivity_shows_codenames_under_other_chances(table2):
    found = chance_sensitivity(table2.reset_index(), 0.05)
    mine = found[found["task"] == "codenames"]
    mine = mine.set_index(mine["chance"].round(3))
    # 26 of 80: below 1/3, above 1/5, and anything is above free generation
    assert mine["above_raw"].to_dict() == {0.333: False, 0.25: True, 0.2: True, 0.0: True}
    assert mine.loc[0.2, "p"] == pytest.approx(sum(math.comb(80, j) * 0.2**j * 0.8 ** (80 - j) for j in range(26, 81)))
    assert mine.loc[0.0, "p"] == 0


# ---- own rows --------------------------------------------------------------------------------------------------------


def own_scores(skill: float, seed: int = 1, n: int = 40, task: str = "phrase_relatedness") -> pd.DataFrame:
    """Scores of one cell of a four-option task by a generator: right with probability `skill`, else uniform."""
    rng = np.random.default_rng(seed)
    items = invented(task, 95, 4)
    target = np.repeat(items.target[:n], 2)
    pick = np.where(rng.random(2 * n) < skill, target, rng.integers(0, 4, 2 * n)).astype(float)
    pick[:3] = np.nan
    right = (pick == target).astype(float)
    rows = pd.DataFrame({"example_id": np.repeat(items.ids[:n], 2), "group": np.repeat(items.group[:n], 2)})
    rows = rows.assign(seed=np.tile([1, 2], n), n_options=4, target=target, picked=pick, unparsed=np.isnan(pick))
    fixed = {"source_kind": "own", "suite": "s", "model": "m", "task": task, "prompt": "closed_adv", "shots": 0}
    fixed |= {"condition": "closed_adv_zero", "fingerprint": "a" * 12, "weights": "w", "reason": None}
    fixed |= {"control": None, "variant": None}
    fixed |= {"data_sha256": "d", "completions_sha256": "c", "likelihood_picked": pick, "bertscore_picked": np.nan}
    metrics = {"exact_match": right, "likelihood": right, "edit_distance": 1.0}
    unscored = ["likelihood_plain", "likelihood_token", "bertscore_accuracy", "bertscore_f1", *PROBABILITIES]
    absent = dict.fromkeys(unscored, np.nan)
    return rows.assign(**fixed, **metrics, **absent)


def own_cells(scores: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    return complete(own_rows(scores, setting), setting).set_index("metric")


def test_own_counts_by_hand(setting):
    scores = own_scores(0.6)
    row = own_cells(scores, setting).loc["exact_match"]
    mean = scores.groupby("example_id")["exact_match"].mean()
    assert row["n"] == 40  # examples, never examples times seeds
    assert row["accuracy"] == pytest.approx(mean.mean())
    assert row["k"] == round(mean.sum())
    assert row["unparsed"] == pytest.approx(1.5)
    assert row["chance"] == 0.25
    assert row["family_tests"] == "own/s/m/closed_adv_zero"
    assert row["primary"]


def test_own_rows_tell_skill_from_guessing(setting):
    able, guesser = (own_cells(own_scores(skill), setting).loc["exact_match"] for skill in (0.6, 0.0))
    assert able["above"]
    assert able["p_content"] < 0.01
    assert not guesser["above"]
    assert guesser["p_content"] > 0.05


def test_metrics_that_a_cell_does_not_have_make_no_row(setting):
    found = own_cells(own_scores(0.5), setting)
    assert set(found.index) == {"exact_match", "likelihood", "edit_distance"}
    assert np.isnan(found.loc["edit_distance", "k"])
    assert not found.loc["likelihood", "primary"]


def test_a_mean_of_log_likelihoods_has_no_test_and_an_impossible_option_no_end(setting):
    scores = own_scores(0.5).assign(brier=0.5, gold_logprob=-1.0)
    scores.loc[scores["example_id"] == scores["example_id"].iloc[0], "gold_logprob"] = -np.inf
    found = own_cells(scores, setting)
    assert found.loc["brier", "accuracy"] == 0.5
    assert found.loc["gold_logprob", "accuracy"] == -np.inf
    assert found.loc[["brier", "gold_logprob"], ["k", "p", "chance", "ci_low", "p_holm"]].isna().all(axis=None)


def test_scores_of_an_older_collect_are_refused(setting):
    with pytest.raises(UserError, match=r"no column brier\. .*dvc repro -f collect"):
        own_rows(own_scores(0.5).drop(columns="brier"), setting)


def test_the_order_of_the_scores_changes_nothing(setting):
    scores = own_scores(0.5)
    shuffled = scores.sample(frac=1, random_state=3)
    pd.testing.assert_frame_equal(own_cells(scores, setting), own_cells(shuffled, setting))


def test_two_runs_of_one_cell_are_refused(setting):
    two = pd.concat([own_scores(0.5), own_scores(0.5).assign(fingerprint="b" * 12)])
    with pytest.raises(UserError, match="more than one run of s / m / closed_adv_zero"):
        own_rows(two, setting)


# ---- the stage -------------------------------------------------------------------------------------------------------


def test_nothing_half_written_stays(tmp_path):
    out = tmp_path / "stats"
    stats.write({"cells": pd.DataFrame({"a": [1]})}, out)
    with pytest.raises(Exception, match="unwritable"):
        stats.write({"cells": pd.DataFrame({"a": [2]}), "bad": Unwritable()}, out)
    assert pd.read_parquet(out / "cells.parquet")["a"].tolist() == [1]


class Unwritable(pd.DataFrame):
    """A table that cannot be written."""

    def to_parquet(self, *_args, **_keywords):
        raise OSError("unwritable")


@pytest.mark.slow
def test_all_tables_are_made_and_made_the_same_twice(published, setting, tmp_path):
    own = own_scores(0.5).assign(model="smollm2_135m_instruct")
    for folder in ("one", "two"):
        stats.write(stats.build(published, own, setting, "0" * 64), tmp_path / folder)
    made = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert {"cells.parquet", "emergence.parquet", "scale.parquet", "overlap.parquet", "agreement.parquet"} <= set(made)
    for name in made:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
        assert len(pd.read_parquet(tmp_path / "one" / name)) > 0


@pytest.mark.parametrize(("content", "said"), [(None, "is missing. Make it"), (b"no parquet", "is damaged")])
def test_scores_that_are_missing_or_damaged_are_one_line(tmp_path: Path, content: bytes | None, said: str) -> None:
    scores = tmp_path / "scores.parquet"
    if content is not None:
        scores.write_bytes(content)
    with pytest.raises(UserError, match=said):
        stats.reference(scores, tmp_path / "out.csv", ROOT)
    assert not (tmp_path / "out.csv").exists()


def test_controls_of_one_suite_leave_those_of_another(tmp_path: Path) -> None:
    """`make pair` writes into the files of `make controls`. A second run takes the place of the first."""
    kept = stats.read_reference(ROOT / "data/reference/controls.csv")
    one = kept[kept["suite"] == "controls"].head(6)
    for name, frame in (("controls", one), ("option_shifts", None)):
        source = stats.read_reference(ROOT / f"data/reference/{name}.csv") if frame is None else frame
        source.to_csv(tmp_path / f"{name}.csv", index=False)
    fresh = one.assign(suite="mine")
    shifts = stats.read_reference(ROOT / "data/reference/option_shifts.csv").iloc[:0]
    for table in (fresh, fresh.head(2)):
        made = dict(zip(stats.CONTROLS, (table, shifts), strict=True))
        stats.write_controls(made, tmp_path)
        found = stats.read_reference(tmp_path / "controls.csv")
        assert found["suite"].value_counts().to_dict() == {"controls": 6, "mine": len(table)}
    before = (ROOT / "data/reference/option_shifts.csv").read_text()
    assert (tmp_path / "option_shifts.csv").read_text().count("\n") == before.count("\n")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda lines: [*lines[:3], lines[3] + ",more", *lines[4:]], "line 4: not as many values"),
        (lambda lines: [*lines[:3], lines[3][:40]], "line 4: not as many values"),
        (lambda lines: [lines[0].replace("accuracy", "akkuracy"), *lines[1:]], "accuracy is declared and not made"),
        (
            lambda lines: [*lines[:2], lines[2].replace(",16,", ",sixteen,", 1), *lines[3:]],
            "line 3, column 'n': 'sixteen'",
        ),
        (lambda lines: lines[:1], "has no row"),
        (lambda lines: [], "is damaged"),
        (lambda lines: ["\udcff"], "is damaged"),
    ],
    ids=["long", "cut", "column", "number", "header", "empty", "bytes"],
)
@pytest.mark.parametrize("name", stats.CONTROLS)
def test_a_damaged_committed_result_is_one_line_that_says_how_to_restore_it(tmp_path: Path, spoil, said, name) -> None:
    lines = (ROOT / stats.REFERENCE / f"{name}.csv").read_text(encoding="utf-8").splitlines()
    path = tmp_path / f"{name}.csv"
    path.write_bytes("\n".join(spoil(lines)).encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=said) as caught:
        stats.with_reference(None, None, tmp_path)  # type: ignore[arg-type]
    assert f"{path}" in str(caught.value)
    assert f"git checkout {path}" in str(caught.value)


def test_a_committed_row_over_all_tasks_is_the_mean_over_the_examples_of_its_tasks():
    """None holds a task that lacks the metric: it is what its own task rows give, and says how many these are."""
    table = stats.read_reference(ROOT / stats.REFERENCE / "controls.csv")
    key = ["suite", "model", "condition", "control", "metric"]
    alone, whole = table[table["task"] != "all tasks"], table[table["task"] == "all tasks"].set_index(key)
    by = alone.assign(right=alone["n"] * alone["mean_diff"]).groupby(key)
    tasks, n, right = by["task"].nunique(), by["n"].sum(), by["right"].sum()
    assert len(whole) > 20
    assert whole["n_tasks"].to_dict() == tasks[whole.index].to_dict()
    assert whole["n"].to_dict() == n[whole.index].to_dict()
    assert whole["mean_diff"].to_dict() == pytest.approx((right / n)[whole.index].to_dict(), abs=2e-6)
