"""Contrasts over tasks, counted a second time: RQ4, and what exemplars do to one model.

Every analysis is done again: metric, test, correction, and cells left out by gate or floor, or kept.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.recounted import (
    ALPHA,
    CLOSED,
    EXACT,
    LETTERED,
    MARGIN,
    agree,
    cells,
    choices,
    claim,
    corrected,
    family_size,
    numbers_differ,
    on_floor,
    table,
)

Weights = Mapping[tuple[str, bool], int]


@functools.cache
def wide(prompt: str, metric: str) -> dict[str, pd.DataFrame]:
    """Accuracy, and whether the cell leaves, of a prompt: a row for each task, a column for each (model, few-shot)."""
    frame = cells().query("prompt == @prompt")
    frame = frame[frame["primary"] if metric == "the task's own" else frame["metric"] == EXACT]
    floor = frame.apply(on_floor, axis=1) & (frame["metric"] == EXACT)  # a forced choice is never on it
    frame = frame.assign(few=frame["shots"] > 0, floor=floor, leaves=frame["acts"] | floor)
    return {
        column: frame.pivot(index="task", columns=["model", "few"], values=column)
        for column in ("accuracy", "leaves", "floor")
    }


def paired_t(differences: np.ndarray, shift: float = 0.0, alternative: str = "two-sided") -> float:
    """A difference over n tasks against a shift: t with n − 1 degrees of freedom."""
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    below = stats.t.cdf((differences.mean() - shift) / error, len(differences) - 1)
    return float({"less": below, "greater": 1 - below, "two-sided": 2 * min(below, 1 - below)}[alternative])


def wilcoxon(differences: np.ndarray, shift: float = 0.0, alternative: str = "two-sided") -> float:
    """Equal differences tie: they are rounded before they are ranked."""
    return float(stats.wilcoxon((differences - shift).round(9), alternative=alternative).pvalue)


TESTS: Mapping[str, Callable[..., float]] = {"paired t": paired_t, "Wilcoxon": wilcoxon}


def contrast(prompt: str, weights: Weights, metric: str, gates: str, test: str) -> dict[str, float]:
    """The mean of a weighted sum of cells over the tasks that stay, its tests, and how many tasks there are.

    Half of the tasks or more gone: no result.
    """
    frames = wide(prompt, metric)
    accuracy = frames["accuracy"][list(weights)].dropna()
    gone = frames["leaves" if gates == "left out" else "floor"]  # one on the floor is never kept
    leaves = gone.loc[accuracy.index, list(weights)].astype(bool).any(axis=1)
    differences = (accuracy[~leaves] * pd.Series(weights)).sum(axis=1).to_numpy()
    result: dict[str, float] = {"n": len(differences), "of": len(accuracy), "value": np.nan}
    if 2 * leaves.sum() >= len(accuracy):
        return result
    half = stats.t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / np.sqrt(len(differences))
    p = TESTS[test]
    return result | {
        "value": float(differences.mean()),
        "low": float(differences.mean() - half),
        "high": float(differences.mean() + half),
        "effect": p(differences),
        "small": max(p(differences, -MARGIN, "greater"), p(differences, MARGIN, "less")),
    }


def both_sides(contrasts: Mapping[str, dict[str, float]], correction: str) -> pd.DataFrame:
    """Each of the two tests corrected over the rows of the family that stay; then what speaks for and against."""
    frame = pd.DataFrame(contrasts).T.reindex(columns=["n", "of", "value", "low", "high", "effect", "small"])
    effect, small = (corrected(frame[column], correction) for column in ("effect", "small"))
    more, less = effect.where(frame["value"] > 0, 1.0), effect.where(frame["value"] < 0, 1.0)
    against = pd.concat([small, less], axis=1).min(axis=1)
    return frame.assign(more=more, against_more=against, same=small, differs=effect)


@functools.cache
def family(name: str, prompt: str, metric: str, gates: str, test: str) -> dict[str, dict[str, float]]:
    """Every contrast of the family of a claim, by the item of its statement or its model."""
    if name == "rq4_gain":
        pairs = table("difference_in_differences").query("prompt == @prompt")
        weights: dict[str, Weights] = {
            f"{pair.base} against {pair.tuned}, {prompt}": {
                (pair.base, True): 1, (pair.base, False): -1, (pair.tuned, True): -1, (pair.tuned, False): 1
            }
            for pair in pairs.itertuples()
        }  # fmt: skip
    else:
        models = table("contrasts").query("kind == 'few_minus_zero' and prompt == @prompt")["x_model"]
        weights = {model: {(model, True): 1, (model, False): -1} for model in models}
    return {item: contrast(prompt, each, metric, gates, test) for item, each in weights.items()}


def recounted(name: str, prompt: str, metric: str, gates: str, test: str, correction: str) -> pd.DataFrame:
    group = "rq4_gain" if name == "rq4_gain" else "models"
    return both_sides(family(group, prompt, metric, gates, test), correction)


RULE = {"metric": "the task's own", "gates": "left out", "test": "paired t", "correction": "Holm"}
SIDES = {
    "rq4_gain": ("more", "against_more"),
    "few_shot_boost": ("more", "against_more"),
    "few_shot_no_change": ("same", "differs"),
}
MODELS = {"few_shot_boost": "gptj_6b", "few_shot_no_change": "flan_t5_large"}
"""The model that the paper speaks of (Figure 2's text)."""


def contrast_differs(where: str, row: Any, mine: Any, sides: tuple[str, str], tested: int) -> Iterable[str]:
    if family_size(row["correction"]) != tested:
        yield f"{where}: Holm over {tested} recounted, the table has {row['correction']}"
    if mine["n"] != row["n"]:
        yield f"{where}: {mine['n']:.0f} of {mine['of']:.0f} tasks stay, the table has {row['n']}"
    if np.isnan(mine["value"]) != (row["word"] == "not comparable"):
        yield f"{where}: {mine['n']:.0f} of {mine['of']:.0f} tasks stay, but {row['word']}"
    elif not np.isnan(mine["value"]):
        columns = {"value": "value", "low": "low", "high": "high", "p_for": sides[0], "p_against": sides[1]}
        for column, name in columns.items():
            yield from numbers_differ(f"{where}, {column}", mine[name], row[column], relative=1e-4)


@pytest.mark.parametrize("prompt", [CLOSED, LETTERED])
def test_rq4_exemplars_for_the_base_model_and_its_twin(prompt: str) -> None:
    rows = claim("rq4_gain")
    rows = rows[rows.index.str.endswith(f", {prompt}")]
    mine = recounted("rq4_gain", prompt, **RULE)
    assert set(rows.index) == set(mine.index)
    tested = int(mine["value"].notna().sum())
    agree(
        difference
        for item, row in rows.iterrows()
        for difference in contrast_differs(item, row, mine.loc[item], SIDES["rq4_gain"], tested)
    )


@pytest.mark.parametrize("name", sorted(MODELS))
def test_what_exemplars_do_to_one_model(name: str) -> None:
    mine = recounted(name, CLOSED, **RULE)
    tested = int(mine["value"].notna().sum())
    agree(contrast_differs(name, claim(name).iloc[0], mine.loc[MODELS[name]], SIDES[name], tested))


def result(holds: float, opposite: float) -> float:
    if np.isnan(holds + opposite):
        return np.nan
    return 2 if holds < ALPHA and opposite < ALPHA else int(holds < ALPHA) - int(opposite < ALPHA)


@pytest.mark.parametrize("name", sorted(SIDES))
def test_every_analysis_of_a_contrast_is_done_again(name: str) -> None:
    """Of Wilcoxon's test the result alone: its p depends on how ties are broken."""
    prompts = {"options in the text": CLOSED, "lettered options": LETTERED}

    def differences() -> Iterable[str]:
        for row in table("analyses").query("claim == @name").itertuples():
            taken = choices(row.analysis)
            prompt = prompts[taken.pop("prompt")] if "prompt" in taken else row.item.rsplit(", ", 1)[1]
            mine = recounted(name, prompt, **taken).loc[row.item or MODELS[name]]
            where = f"{name} {row.item}, {row.analysis}"
            holds, opposite = (mine[side] for side in SIDES[name])
            both_missing = np.isnan(row.outcome) and np.isnan(mine["value"])
            if mine["n"] != row.n:
                yield f"{where}: {mine['n']:.0f} tasks stay, the table has {row.n}"
            if not both_missing and result(holds, opposite) != row.outcome:
                printed = f"{row.p_for:.4g} and {row.p_against:.4g}"
                yield f"{where}: p {holds:.4g} and {opposite:.4g}, the table has {printed}"
            elif not both_missing and taken["test"] == "paired t":
                yield from numbers_differ(f"{where}, p for", holds, row.p_for, relative=1e-4)
                yield from numbers_differ(f"{where}, p against", opposite, row.p_against, relative=1e-4)

    agree(differences())


def test_the_contrast_tables_hold_every_task_and_every_cell() -> None:
    """These tables leave no cell out; the audit does."""

    def differences() -> Iterable[str]:
        for row in table("difference_in_differences").itertuples():
            accuracy = wide(row.prompt, "the task's own")["accuracy"]
            gain = {model: accuracy[model, True] - accuracy[model, False] for model in (row.base, row.tuned)}
            values = (gain[row.base] - gain[row.tuned]).dropna()
            where = f"{row.base} against {row.tuned}, {row.prompt}"
            if len(values) != row.n_tasks:
                yield f"{where}: {len(values)} tasks recounted, the table has {row.n_tasks}"
            yield from numbers_differ(f"{where}, mean", values.mean(), row.mean_diff, relative=1e-4)
            yield from numbers_differ(f"{where}, p", paired_t(values.to_numpy()), row.t_p, relative=1e-4)

    agree(differences())
