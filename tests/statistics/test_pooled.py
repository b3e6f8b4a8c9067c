"""The hierarchical model on grids whose effects are known: what was planted is found, and what is missing is said."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from src.statistics import pooled

PAIRS = [{"base": f"base{i}", "tuned": [f"tuned{i}"]} for i in range(4)]
SEED = 7
WORDS = {"jump": "how far it lies above the line in size", "skill": "skill of the largest base model, zero-shot"}


def grid(
    seed: int, tasks: int = 8, interaction: float = 0.0, slope: float = 0.0, gain: float = 0.4, level: float = 0.8
) -> pd.DataFrame:
    """Simulated cells of 4 base models and their tuned twins, two formats, zero- and few-shot, and the true logits.

    interaction: what exemplars add to base models less what they add to tuned ones. slope: logits per ten memorisable
    examples. gain: logits that both tuning and exemplars add, on average. level: logits above chance, on average.
    """
    rng = np.random.default_rng(seed)
    chance = rng.choice([0.5, 0.25, 0.2], tasks)
    memorisable = rng.choice([0, 10, 30, 50], tasks)
    n = rng.choice([60, 200, 900], tasks)
    own, by_tuned, by_few, by_size = (rng.normal(0, sd, tasks) for sd in (0.4, 0.2, 0.15, 0.15))
    of_model, of_few = rng.normal(0, 0.2, 8), rng.normal(0, 0.1, 8)
    of_both = rng.normal(0, 0.2, (tasks, 8))
    rows = []
    for t in range(tasks):
        for m in range(8):
            is_tuned, log10 = m >= 4, 8 + m % 4
            tuned, size = (0.5 if is_tuned else -0.5), log10 - 9.5
            for prompt, fmt in pooled.PROMPTS.items():
                for shots, few in ((0, -0.5), (5, 0.5)):
                    line = level + own[t] + slope * memorisable[t] / 10 + (0.2 + by_size[t]) * size
                    line += (gain + by_tuned[t]) * tuned + (gain + by_few[t]) * few - interaction * tuned * few
                    off = of_model[m] + of_few[m] * few + of_both[t, m] + rng.normal(0, 0.2) - 0.1 * fmt
                    k = rng.binomial(n[t], expit(logit(chance[t]) + line + off))
                    rows.append(
                        {
                            "task": f"task{t}", "model": f"{'tuned' if is_tuned else 'base'}{m % 4}", "prompt": prompt,
                            "shots": shots, "source": "published", "primary": True, "metric": "bertscore_accuracy",
                            "n": n[t], "accuracy": k / n[t], "chance_scored": chance[t], "parameters": 10.0**log10,
                            "tuned": is_tuned, "memorisable": memorisable[t], "gates": "", "truth": line + off,
                            "line": line,
                        }
                    )  # fmt: skip
    return pd.DataFrame(rows).astype({"memorisable": "Int64"})


def found(cells: pd.DataFrame, question: str, estimate_of: str = "") -> pd.DataFrame:
    rows = pooled.pooled(cells, PAIRS, SEED)
    rows = rows[(rows["question"] == question) & rows["gates_act"]]
    return rows[(rows["estimate_of"] == estimate_of) | (estimate_of == "")].set_index("item")


def covered(rows: pd.DataFrame, truth: float | pd.Series) -> pd.Series:
    return (rows["low"] <= truth) & (truth <= rows["high"])


@pytest.mark.parametrize("planted", [-1.5, 0.0, 1.5])
def test_a_planted_interaction_is_found_with_its_sign(planted):
    row = found(grid(2, interaction=planted), "RQ4").loc[""]
    assert row["low"] < planted < row["high"]
    assert row["high"] - row["low"] < 2
    assert planted == 0 or (row["low"] > 0) == (planted > 0) == (row["prob_positive"] > 0.99)


def test_a_planted_slope_of_memorisable_is_found():
    row = found(grid(2, tasks=16, slope=0.5), "RQ3").iloc[0]
    assert row["low"] < 0.5 < row["high"]
    assert row["low"] > 0


@pytest.mark.parametrize("seed", range(3))
def test_the_correlation_over_tasks_is_that_of_the_true_skills(seed):
    cells = grid(seed, tasks=14, level=1.6)
    plain = cells[cells["prompt"] == "closed"].groupby(["tuned", "shots", "task"])["line"].mean()
    rows = found(cells, "RQ2")
    for row, (shots, name) in zip(rows.itertuples(), ((5, "few-shot"), (0, "zero-shot")), strict=False):
        truth = np.corrcoef(plain[True, 0], plain[False, shots])[0, 1]
        assert row.estimate_of.endswith(name)
        assert row.low < truth < row.high


def coverage(seeds: range) -> pd.Series:
    """Share of the 95 % intervals that hold the truth, by what is estimated."""
    hits: dict[str, list[bool]] = {name: [] for name in ("skill", "jump", "interaction", "slope")}
    for seed in seeds:
        truth = np.random.default_rng(1000 + seed).normal(0, [0.4, 0.2])
        cells = grid(seed, interaction=truth[0], slope=truth[1])
        rows = pooled.pooled(cells, PAIRS, SEED)
        rows = rows[rows["gates_act"] & rows["estimate"].notna()]
        one = cells[(cells["model"] == "base3") & (cells["prompt"] == "closed") & (cells["shots"] == 0)]
        one = one.set_index("task")
        for name, value in (("skill", one["truth"]), ("jump", one["truth"] - one["line"])):
            these = rows[rows["estimate_of"] == WORDS[name]].set_index("item")
            hits[name] += list(covered(these, value[these.index]))
        overall = rows[(rows["question"] == "RQ4") & (rows["item"] == "")]
        hits["interaction"] += list(covered(overall, truth[0]))
        hits["slope"] += list(covered(rows[rows["question"] == "RQ3"], truth[1]))
    return pd.Series({name: np.mean(values) for name, values in hits.items()})


def test_most_intervals_of_skill_and_of_the_distance_from_the_line_hold_the_truth():
    held = coverage(range(6))
    assert held["skill"] > 0.85
    assert held["jump"] > 0.8


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say():
    held = coverage(range(100, 160))
    assert held["skill"] == pytest.approx(0.95, abs=0.04)
    assert held["jump"] == pytest.approx(0.95, abs=0.06)
    assert held["interaction"] > 0.85
    assert held["slope"] > 0.85


def test_the_order_of_the_rows_does_not_count():
    cells = grid(3)
    pd.testing.assert_frame_equal(
        pooled.pooled(cells, PAIRS, SEED), pooled.pooled(cells.sample(frac=1, random_state=4), PAIRS, SEED)
    )


def test_swapping_base_and_tuned_flips_the_interaction():
    cells = grid(5, interaction=0.6)
    swapped = cells.assign(tuned=~cells["tuned"])
    mirrored = [{"base": pair["tuned"][0], "tuned": pair["base"]} for pair in PAIRS]
    one = pooled.pooled(cells, PAIRS, SEED).query("question == 'RQ4'")
    other = pooled.pooled(swapped, mirrored, SEED).query("question == 'RQ4'")
    for name, opposite in (("estimate", "estimate"), ("low", "high"), ("points", "points")):
        np.testing.assert_allclose(other[name], -one[opposite], rtol=2e-3, atol=1e-6)
    np.testing.assert_allclose(other["prob_positive"], 1 - one["prob_positive"], atol=1e-3)


def test_an_estimate_is_pulled_to_the_others_and_more_so_where_n_is_small():
    cells = grid(6)
    zero = (cells["model"] == "base3") & (cells["prompt"] == "closed") & (cells["shots"] == 0)
    odd = cells.copy()
    odd.loc[zero & (cells["task"] == "task0"), "accuracy"] = 0.95
    pulled = []
    for n in (30, 3000):
        odd["n"] = odd["n"].mask(odd["task"] == "task0", n)
        row = found(odd, "RQ1", WORDS["skill"]).loc["task0"]
        raw = logit(0.95) - logit(odd.loc[zero & (odd["task"] == "task0"), "chance_scored"].iloc[0])
        pulled.append(raw - row["estimate"])
    assert pulled[0] > pulled[1] > -0.05


def test_the_points_of_a_skill_are_accuracy_less_chance():
    cells = grid(8)
    rows = found(cells.assign(n=100_000), "RQ1", WORDS["skill"])
    one = cells[(cells["model"] == "base3") & (cells["prompt"] == "closed") & (cells["shots"] == 0)].set_index("task")
    skill = (one["accuracy"] - one["chance_scored"])[rows.index]
    np.testing.assert_allclose(rows["points"], skill, atol=2e-3)


@pytest.mark.parametrize(
    ("left_out", "silent", "speaking"),
    [
        ("tuned", ["RQ2", "RQ4"], ["RQ1", "RQ3"]),
        ("shots > 0", ["RQ2", "RQ4"], ["RQ1", "RQ3"]),
        ("~tuned", ["RQ1", "RQ2", "RQ3", "RQ4"], []),
        ("memorisable >= 0", ["RQ3"], ["RQ1", "RQ2", "RQ4"]),
        ("prompt == 'closed'", ["RQ1", "RQ2", "RQ3"], ["RQ4"]),
    ],
)
def test_a_missing_level_is_said_and_no_number_stands_in_for_it(left_out, silent, speaking):
    cells = grid(9, tasks=6, level=1.6)
    if "memorisable" in left_out:
        cells["memorisable"] = pd.array([pd.NA] * len(cells), dtype="Int64")
    else:
        cells = cells.query(f"not ({left_out})")
    rows = pooled.pooled(cells, PAIRS, SEED)
    for question in silent:
        these = rows[rows["question"] == question]
        assert len(these)
        assert these["estimate"].isna().all()
        assert these["note"].notna().all()
    for question in speaking:
        assert rows.loc[rows["question"] == question, "estimate"].notna().any()
    assert (rows["estimate"].isna() == rows["note"].notna()).all()


def test_one_format_alone_gives_the_interaction_in_that_format_only():
    rows = found(grid(9, tasks=6, level=1.6).query("prompt == 'closed'"), "RQ4")
    assert rows.loc["", "estimate"] == rows.loc["closed", "estimate"]
    assert "closed_adv" not in rows.index
    assert rows.loc["base0 against tuned0, closed_adv", "note"]


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_a_handful_of_cells_gives_rows_without_a_number(rows):
    out = pooled.pooled(grid(9, tasks=3).head(rows), PAIRS, SEED)
    assert set(out["question"]) == {"RQ1", "RQ2", "RQ3", "RQ4"}
    assert out["estimate"].isna().all()


def test_missing_cells_widen_the_interval_and_stop_nothing():
    cells = grid(10, interaction=0.5)
    whole = found(cells, "RQ4").loc[""]
    part = found(cells.sample(frac=0.5, random_state=1), "RQ4").loc[""]
    assert part["high"] - part["low"] > whole["high"] - whole["low"]
    assert part["low"] < 0.5 < part["high"]


def test_a_cell_on_the_floor_or_behind_a_gate_moves_nothing():
    cells = grid(11)
    one = (cells["model"] == "base3") & (cells["prompt"] == "closed") & (cells["shots"] == 0)
    floor = cells.assign(accuracy=cells["accuracy"].mask(one & (cells["task"] == "task1"), 0.0))
    gated = cells.assign(gates=cells["gates"].mask(one & (cells["task"] == "task1"), "duplicates;forced_choice_zero"))
    left, behind = (found(each, "RQ1", WORDS["skill"]) for each in (floor, gated))
    pd.testing.assert_frame_equal(left, behind, check_dtype=False)
    assert left.loc["task1", "note"]
    assert np.isnan(left.loc["task1", "estimate"])
    every = pooled.pooled(gated, PAIRS, SEED).query("~gates_act and question == 'RQ1'").set_index("item")
    assert every.loc["task1", "estimate"].notna().all()


def test_a_model_that_mostly_answers_in_another_format_leaves_the_condition():
    cells = grid(12)
    one = (cells["model"] == "tuned1") & (cells["prompt"] == "closed_adv") & (cells["shots"] == 0)
    most = one & (cells["task"] <= "task5")
    rows = pooled.coded(cells.assign(accuracy=cells["accuracy"].mask(most, 0.0)))
    stays = pooled.comparable(rows, True)
    same = (rows["model"] == "tuned1") & (rows["prompt"] == "closed_adv") & (rows["few"] < 0)
    assert not stays[same].any()
    assert stays[~same].mean() > 0.9
