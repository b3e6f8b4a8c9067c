"""Own runs: a row a cell and metric, out of the scores of its examples; two cells paired by example."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.contingency_tables import mcnemar

from src.base import metrics
from src.base.errors import UserError
from src.base.schema import Task
from src.statistics.items import NAN, Array, Items, content_codes
from src.statistics.overlap import square_of
from src.statistics.setting import NO_POLICY, Setting, options_shown, policy_columns
from src.statistics.tests import OUTSIDE_95, content_free, seed_se, sign_flip

DESCRIPTION = ["suite", "weights", "fingerprint", "data_sha256", "completions_sha256", "control"]
OWN_KEY = ["suite", "model", "condition", "prompt", "shots", "task"]
OWN_SCORES = Path("data/scores.parquet")


def own_rows(scores: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """Every own cell and metric; scores: one row per (cell, example, seed). Raises UserError where a metric lacks."""
    known = (*metrics.ACCURACIES, *metrics.MEANS, *metrics.PROBABILITIES)
    if absent := [name for name in known if name not in scores]:
        raise UserError(f"{OWN_SCORES} has no column {', '.join(absent)}. Make it again: dvc repro -f collect")
    return pd.DataFrame([row for _, cell in scores.groupby(OWN_KEY, sort=True) for row in own_cell(cell, setting)])


def own_cell(cell: pd.DataFrame, setting: Setting) -> Iterator[dict[str, Any]]:
    """Rows of one cell, one per metric that it has."""
    if cell["fingerprint"].nunique() > 1 or cell.duplicated(["example_id", "variant", "seed"]).any():
        where = " / ".join(str(cell[name].iloc[0]) for name in OWN_KEY)
        raise UserError(f"{OWN_SCORES}: more than one run of {where}. Make it again: dvc repro -f collect")
    head = cell.iloc[0]
    examples = cell.drop_duplicates("example_id").sort_values("example_id")
    these = control_items(own_items(examples, setting.items.get(head["task"])), cell)
    task = setting.tasks[head["task"]]
    shared = {
        **{name: head[name] for name in (*OWN_KEY, *DESCRIPTION)},
        "source": metrics.OWN,
        "seeds": cell["seed"].nunique(),
        "ceiling": 1.0,
        "chance_assumed": task.chance_assumed,
    }
    for metric in (*metrics.ACCURACIES, *metrics.MEANS, *metrics.PROBABILITIES):
        wide = by_example(cell, metric).dropna(how="all")
        if wide.isna().any(axis=None):
            raise UserError(
                f"{OWN_SCORES}: {metric} is null for some examples of {head['task']}. Make it: dvc repro collect"
            )
        if len(wide):
            yield {**shared, "metric": metric, **own_score(wide.to_numpy(), cell, these, metric, task, setting)}


def own_items(examples: pd.DataFrame, known: Items | None) -> Items:
    """The Items of a cell, in the order of `examples`; texts only where the cell shows the options in file order."""
    options = examples["n_options"].fillna(0).to_numpy(dtype=int)
    target = examples["target"].fillna(-1).to_numpy(dtype=int)
    n, ids = len(examples), tuple(examples["example_id"])
    groups = tuple(examples["group"].astype(str))
    bare = Items(ids, options, target, ("",) * n, ((),) * n, ((),) * n, groups, np.zeros(n) > 0, 0, ())
    place = {name: i for i, name in enumerate(known.ids)} if known else {}
    if known is None or any(name not in place for name in ids):
        return bare
    at = [place[name] for name in ids]
    bare = replace(bare, sibling=known.sibling[at], duplicates=known.duplicates)
    if (known.target[at] != target).any():
        return bare
    return replace(
        bare,
        label=tuple(known.label[i] for i in at),
        option_set=tuple(known.option_set[i] for i in at),
        options=tuple(known.options[i] for i in at),
    )


def by_example(cell: pd.DataFrame, column: str) -> pd.DataFrame:
    """A column (seeds, examples); an example asked in several variants counts once, by its mean."""
    values = cell.assign(**{column: cell[column].astype(float)})
    return values.groupby(["seed", "example_id"])[column].mean().unstack("example_id")


def control_items(these: Items, cell: pd.DataFrame) -> Items:
    """The items as a control cell meets them: the siblings known are those of the published exemplars."""
    return (
        replace(these, sibling=np.zeros(len(these.ids)) > 0) if (cell["control"] == metrics.RESAMPLED).any() else these
    )


def own_score(
    scores: Array,
    cell: pd.DataFrame,
    these: Items,
    metric: str,
    task: Task,
    setting: Setting,
) -> dict[str, Any]:
    """Columns of one own metric; scores (seeds, n) in the order of `these`. Means have no count, chance, interval."""
    y = scores.mean(axis=0)
    finite = np.isfinite(scores).all()  # an impossible gold option has -inf
    out: dict[str, Any] = {"n": len(y), "accuracy": y.mean(), "seed_se": seed_se(scores) if finite else NAN}
    out["guess"] = None
    lost = cell.groupby("example_id")["unparsed"].mean().sort_index().to_numpy(dtype=float)
    out |= {"unparsed": lost.sum(), "k": NAN, "chance": NAN, "chance_scored": NAN, **NO_POLICY}
    if metric in (*metrics.MEANS, *metrics.PROBABILITIES):
        return out
    tied = by_example(cell.assign(tied=cell[metric].astype(float) % 1 > 1e-9), "tied")
    out |= {"k": round(y.sum()), "ties": (tied > 0).any().mean()}
    if (these.n_options == 0).any() or (metric == metrics.EXACT and not options_shown(task, cell["prompt"].iloc[0])):
        return out
    guess = 1 / these.n_options
    out |= {"chance": guess.mean(), "chance_scored": guess.mean(), "guess": guess}
    out |= policy_columns(these, setting.seed) if these.known and cell["variant"].isna().all() else {}
    out |= own_content(cell, these, metric, setting.seed)
    return out


def own_content(cell: pd.DataFrame, these: Items, metric: str, seed: int) -> dict[str, float]:
    """p_content of a metric that comes from a pick."""
    if metric not in metrics.PICKS or not these.known or cell["variant"].notna().any():
        return {}
    picks = cell.pivot(index="seed", columns="example_id", values=metrics.PICKS[metric]).astype(float).fillna(-1)
    return {"p_content": content_free(*content_codes(these, picks.to_numpy(dtype=int)), seed)}


def example_means(cell: pd.DataFrame, metric: str) -> pd.DataFrame:
    """(examples: y, group), y the mean over seeds, by example id; examples without the metric are left out."""
    by = cell.dropna(subset=[metric]).groupby("example_id")
    return pd.DataFrame({"y": by[metric].mean(), "group": by["group"].first()})


def own_pair(x: pd.DataFrame, y: pd.DataFrame, where: str, seed: int) -> dict[str, Any]:
    """x - y on the same examples: exact McNemar, or sign-flips of group sums where examples share contexts or seeds.

    The interval is a percentile bootstrap of groups. Raises UserError where the two cells differ in their examples.
    """
    if not x.index.equals(y.index):
        raise UserError(f"{where}: the two cells have different examples. Run both anew with one limit")
    difference = x["y"] - y["y"]
    sums = difference.groupby(x["group"]).sum()
    whole = bool(x["y"].isin([0, 1]).all() and y["y"].isin([0, 1]).all())
    clustered = len(sums) < len(x) or not whole
    low, high = group_bootstrap(difference, x["group"], seed)
    return {
        "n": len(x),
        "groups": len(sums),
        "mean_diff": float(difference.mean()),
        "ci_low": low,
        "ci_high": high,
        "test": "sign_flip" if clustered else "mcnemar",
        "p": sign_flip(sums.to_numpy(dtype=float), seed) if clustered else mcnemar_p(x["y"], y["y"]),
    }


def mcnemar_p(x: pd.Series, y: pd.Series) -> float:
    """Exact McNemar of two 0/1 columns (statsmodels)."""
    return float(mcnemar(square_of(x.astype("boolean"), y.astype("boolean")), exact=True).pvalue)


def group_bootstrap(values: pd.Series, group: pd.Series, seed: int, draws: int = 2000) -> tuple[float, float]:
    """Percentile 95 % interval of the mean under resampling of whole groups."""
    by = values.groupby(group)
    sums, sizes = by.sum().to_numpy(dtype=float), by.size().to_numpy()
    rng = np.random.default_rng(seed)
    means: Array = np.empty(draws)
    at_once = max(1, 2_000_000 // len(sums))  # the same draws as all at once, in 16 MB
    for first in range(0, draws, at_once):
        index = rng.integers(0, len(sums), (min(at_once, draws - first), len(sums)))
        means[first : first + len(index)] = sums[index].sum(axis=1) / sizes[index].sum(axis=1)
    low, high = np.quantile(means, [OUTSIDE_95 / 2, 1 - OUTSIDE_95 / 2])
    return float(low), float(high)
