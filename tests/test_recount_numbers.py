"""The tests behind the audit, done a second time: tails, Holm, contrasts, correlations, pairings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize, special, stats
from statsmodels.stats.proportion import proportion_confint

from tests.recounted import (
    ALPHA,
    BERTSCORE,
    CELL,
    CLOSED,
    EXACT,
    LETTERED,
    MARGIN,
    ROOT,
    agree,
    cells,
    choices,
    claim,
    corrected,
    family_size,
    holm,
    in_family,
    largest,
    numbers_differ,
    on_floor,
    options_of,
    table,
    table2,
)

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
    exact = cells().query(f"metric == '{EXACT}'").set_index(CELL)["accuracy"]

    def differences() -> Iterable[str]:
        for row in cells().query(f"metric == '{BERTSCORE}' and primary").itertuples():
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
                expected = "no number" if np.isnan(frame["chance_scored"][task]) else "not comparable"
                if row["word"] != expected:
                    yield f"{task}: without a test or on a rejected line it is {expected}, the table has {row['word']}"
                continue
            printed = row["p_for"] if row["said"] == "emergent" else row["p_against"]
            yield from numbers_differ(f"{task}, p of emergent", emergent[task], printed)

    agree(differences())
    found = table("audit").query("claim == 'rq1_any'").iloc[0]
    assert (found["value"], found["n"]) == ((emergent < ALPHA).sum(), len(tested))
    agree(numbers_differ("rq1_any, p for", emergent.min(), found["p_for"]))


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

    same = (2 * np.minimum(both(above, above), both(short, short))).clip(upper=1)
    opposed = (2 * np.minimum(both(above, short), both(short, above))).clip(upper=1)

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
            for side, p in (("p_for", holds), ("p_against", opposite)):
                if abs(p - row[side]) > 0.03:  # permutation p near alpha are drawn again, and Holm multiplies by six
                    yield f"{item}, {side}: recounted {p:.4f}, the table has {row[side]:.4f}"
            yield from numbers_differ(f"{item}, rho", pair["rho"], row["value"])

    agree(differences())


# --- Table 4


def score_p(n: int, more: int, less: int, bound: float) -> float:
    """One-sided p that the difference of the shares lies below a bound (Tango 1998), the nuisance share by search."""

    def unlikely(share: float) -> float:
        rest = 1 - 2 * share - bound
        return -float(
            special.xlogy(more, share + bound) + special.xlogy(less, share) + special.xlogy(n - more - less, rest)
        )

    ends = (max(0.0, -bound), (1 - bound) / 2)
    share = optimize.minimize_scalar(unlikely, bounds=ends, method="bounded", options={"xatol": 1e-12}).x
    return float(stats.norm.cdf((more - less - n * bound) / np.sqrt(n * (2 * share + bound - bound**2))))


def pairings(n: int, metric: int, manual: int) -> pd.DataFrame:
    """Every table of two markings with these counts: disagreements, McNemar's p, p of two one-sided score tests."""
    rows = []
    for right_twice in range(max(0, metric + manual - n), min(metric, manual) + 1):
        only_metric, only_manual = metric - right_twice, manual - right_twice
        disagree = only_metric + only_manual
        mcnemar = stats.binomtest(only_metric, disagree).pvalue if disagree else 1.0
        ways = ((only_metric, only_manual), (only_manual, only_metric))
        rows.append((disagree, mcnemar, max(score_p(n, *way, 0.1) for way in ways)))
    frame = pd.DataFrame(rows, columns=["disagree", "p", "within"]).sort_values("disagree")
    return frame.reset_index(drop=True)


def test_table_4_over_every_pairing_with_n_as_it_can_be() -> None:
    rows, printed = claim("table4_manual"), table("table4_manual").query("source == 'published'").set_index("task")
    sizes = cells().groupby("task")["n"].max().clip(upper=50)
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
                if abs(pairing["within"] - row[f"tost_p_{name}"]) > 1e-4:  # the share is searched for
                    yield f"{where}: within ten points p {pairing['within']:.5f}, the table has {row[f'tost_p_{name}']}"
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


# --- Every analysis of Table 2's first verdict, of RQ2 and of RQ3


PROMPTS = {"options in the text": CLOSED, "lettered options": LETTERED}


def chosen(taken: Mapping[str, str]) -> pd.DataFrame:
    """The cells of the largest base model, zero-shot, that an analysis starts from, by task."""
    frame = cells()
    asked = (frame["model"] == largest()["model"].iloc[0]) & (frame["shots"] == 0)
    metric = frame["metric"] == EXACT if taken.get("metric") == "exact match" else frame["primary"]
    return frame[asked & (frame["prompt"] == PROMPTS[taken["prompt"]]) & metric].set_index("task", drop=False)


def leaves(frame: pd.DataFrame, gates: str) -> pd.Series:
    """A cell without a chance level always leaves; one that fails a gate or sits on a floor where these act."""
    floored = frame.apply(on_floor, axis=1) & (frame["metric"] == EXACT)
    return frame["chance_scored"].isna() | ((frame["acts"] | floored) & (gates == "left out"))


def test_every_analysis_of_table_2_above_the_baseline_is_done_again() -> None:
    """The family is that of chance; where no best constant answer is known, chance is the bar.

    Analyses with another number of options are left to the table of chance levels.
    """
    said = claim("table2_above")["said"]

    def differences() -> Iterable[str]:
        analyses = table("analyses").query("claim == 'table2_above'")
        for analysis, rows in analyses.groupby("analysis"):
            taken = choices(analysis)
            if taken["options"] != "as the exemplars show":
                continue
            frame = chosen(taken)
            frame = frame[~leaves(frame, taken["gates"])]
            above, short = frame["p"].copy(), frame["p_short"].copy()
            if taken["bar"] != "chance":
                barred = frame[frame["trivial"].notna()]
                above.update(barred.apply(lambda row: stats.binom.sf(row.k - 1, row.n, row.trivial), axis=1))
                short.update(barred.apply(lambda row: stats.binom.cdf(row.k, row.n, row.trivial + MARGIN), axis=1))
            above, short = (corrected(p, taken["correction"]) for p in (above, short))
            for row in rows.itertuples():
                where = f"{row.item}, {analysis}"
                if (row.item in above) != (not np.isnan(row.outcome)):
                    yield f"{where}: {'a' if row.item in above else 'no'} result recounted, the table has {row.outcome}"
                elif row.item in above:
                    both = above[row.item], short[row.item]
                    holds, opposite = both if said[row.item] == "above the baseline" else both[::-1]
                    yield from numbers_differ(f"{where}, p for", holds, row.p_for, relative=2e-4)
                    yield from numbers_differ(f"{where}, p against", opposite, row.p_against, relative=2e-4)

    agree(differences())
