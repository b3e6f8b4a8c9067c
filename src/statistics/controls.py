"""Control conditions beside the plain cells: what an accuracy keeps when content goes, options move or words change.

The definitions are in docs/statistics.md, "Content-free answering". Only own runs have controls. Every comparison is
paired by example.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from src.base import metrics
from src.base.schema import Task
from src.statistics.items import NAN, Items
from src.statistics.own import example_means, own_pair
from src.statistics.rows import plain
from src.statistics.tests import adjust, wilson

CELL = ["suite", "model", "prompt"]
COLUMNS = (
    "suite", "model", "weights", "task", "prompt", "shots", "control", "condition", "metric", "n", "n_tasks", "groups",
    "chance", "plain_accuracy", "control_accuracy", "mean_diff", "ci_low", "ci_high", "test", "p", "p_holm",
    "consistent", "balanced_accuracy", "balanced_chance", "plain_fingerprint", "fingerprint",
)  # fmt: skip

SHIFT_COLUMNS = (
    "suite", "model", "weights", "task", "prompt", "shots", "shift", "metric", "n", "k", "accuracy", "ci_low",
    "ci_high", "chance", "mean_over_shifts", "first_share", "fingerprint",
)  # fmt: skip

SHIFTS, CONTENT_FREE, PRIOR_CORRECTED = "shifts", "content_free", "prior_corrected"
ALL_TASKS = metrics.ALL_TASKS
METRIC, ALWAYS = metrics.EXACT, metrics.LIKELIHOODS[0]


def controls(scores: pd.DataFrame, tasks: Mapping[str, Task], items: Mapping[str, Items], seed: int) -> pd.DataFrame:
    """One row (COLUMNS) per control cell and metric, and one over all tasks: plain minus control, paired by example.

    scores: scores.parquet. The metrics are the task's primary one and likelihood. A row over all tasks holds the tasks
    that have its metric, `n_tasks` of them, and resamples and flips whole tasks. p_holm: over the tasks of one
    condition and metric. `prior_corrected` is the plain cell chosen by prior-corrected instead of plain likelihood,
    where its content-free twin was run.
    """
    rows: list[dict[str, Any]] = []
    for _, block in scores.groupby([*CELL, scores["shots"] > 0], sort=True):
        beside = block[plain(block)]
        for condition, cell in block[~plain(block)].groupby("condition", sort=True):
            rows += list(_condition(beside, cell, str(condition), tasks, items, seed))
    out = pd.DataFrame(rows, columns=list(COLUMNS))
    alone = out[out["task"] != ALL_TASKS]
    holm = alone.groupby(["suite", "model", "condition", "control", "metric"])["p"].transform(
        lambda p: adjust(p, "holm")
    )
    return out.assign(p_holm=holm.reindex(out.index))


def _condition(
    plain_cells: pd.DataFrame,
    cell: pd.DataFrame,
    condition: str,
    tasks: Mapping[str, Task],
    items: Mapping[str, Items],
    seed: int,
) -> Iterator[dict[str, Any]]:
    """The rows of one control condition of one model: task by task, then over all of them, metric by metric."""
    control = str(cell["control"].iloc[0])
    sides: dict[tuple[str, str], list[tuple[str, pd.DataFrame, pd.DataFrame, dict[str, Any]]]] = {}
    for task, mine in cell.groupby("task", sort=True):
        beside = plain_cells[plain_cells["task"] == task]
        for what, metric, x, y in _compared(beside, mine, control, tasks[str(task)]):
            both = x.index.intersection(y.index)
            if len(both):
                facts = _facts(beside, mine, metric, items.get(str(task)) if what == SHIFTS else None)
                sides.setdefault((what, metric), []).append((str(task), x.loc[both], y.loc[both], facts))
    first = cell.iloc[0]
    shared = {name: first[name] for name in (*CELL, "weights")} | {"condition": condition}
    for (what, metric), found in sides.items():
        head = {**shared, "control": what, "metric": metric}
        for task, x, y, facts in found:
            yield {**head, "task": task, "n_tasks": 1, **facts, **_paired(x, y, f"{condition} / {task}", seed)}
        if len(found) > 1:
            x, y = (pd.concat([_of_task(each[side], each[0]) for each in found]) for side in (1, 2))
            yield {**head, "task": ALL_TASKS, "n_tasks": len(found), **_paired(x, y, condition, seed)}


def _compared(
    plain_cell: pd.DataFrame, cell: pd.DataFrame, control: str, task: Task
) -> Iterator[tuple[str, str, pd.DataFrame, pd.DataFrame]]:
    """(what, metric, plain side, control side) of one task's cell."""
    prompt = str(cell["prompt"].iloc[0])
    for name in dict.fromkeys((task.primary(prompt), ALWAYS)):
        if len(plain_cell) and name in cell:
            yield control, name, example_means(plain_cell, name), example_means(cell, name)
    if control == CONTENT_FREE and "likelihood_prior" in plain_cell:
        yield (
            PRIOR_CORRECTED,
            ALWAYS,
            example_means(plain_cell, "likelihood_plain"),
            example_means(plain_cell, "likelihood_prior"),
        )


def _of_task(values: pd.DataFrame, task: str) -> pd.DataFrame:
    """The examples of one task as one group."""
    return values.assign(group=task)


def _paired(x: pd.DataFrame, y: pd.DataFrame, where: str, seed: int) -> dict[str, Any]:
    return {"plain_accuracy": x["y"].mean(), "control_accuracy": y["y"].mean(), **own_pair(x, y, where, seed)}


def _facts(plain_cell: pd.DataFrame, cell: pd.DataFrame, metric: str, these: Items | None) -> dict[str, Any]:
    options = cell.drop_duplicates("example_id")["n_options"].astype(float)
    picks = metrics.PICKS.get(metric)
    shifted = cell["variant"].notna().all()
    return {
        "chance": (1 / options).mean() if options.gt(0).all() else NAN,
        "consistent": consistent(cell, picks) if shifted and picks else NAN,
        **(balanced(cell, metric, these) if these else {}),
        "shots": cell["shots"].iloc[0],
        "plain_fingerprint": plain_cell["fingerprint"].iloc[0],
        "fingerprint": cell["fingerprint"].iloc[0],
    }


def shift_of(variant: pd.Series) -> pd.Series:
    """k of "shift<k>"."""
    return variant.str.removeprefix("shift").astype(int)


def consistent(cell: pd.DataFrame, picked: str) -> float:
    """Share of examples and seeds whose pick is one and the same option under every shift; unparsed is not."""
    known = cell.dropna(subset=[picked])
    option = (known[picked].astype(int) + shift_of(known["variant"])) % known["n_options"].astype(int)
    by = [known["example_id"], known["seed"]]
    same = option.groupby(by).nunique().eq(1) & option.groupby(by).size().eq(known["n_options"].groupby(by).first())
    return float(same.sum() / len(cell.drop_duplicates(["example_id", "seed"])))


def balanced(cell: pd.DataFrame, metric: str, these: Items) -> dict[str, float]:
    """Mean over labels of the accuracy on examples with that gold label, and its null 1 / labels; label tasks only.

    A label task is one where most items share one set of options (items.content_codes).
    """
    shared, many = Counter(these.option_set).most_common(1)[0]
    if not these.known or 2 * many <= len(these.ids):
        return {}
    label = dict(zip(these.ids, these.label, strict=True))
    means = example_means(cell, metric)["y"]
    by = means.groupby(means.index.map(label)).mean()
    return {"balanced_accuracy": float(by.mean()), "balanced_chance": 1 / len(shared)} if len(by) == len(shared) else {}


def option_shifts(scores: pd.DataFrame) -> pd.DataFrame:
    """One row (SHIFT_COLUMNS) per task, condition and cyclic shift: exact match, and how often the first is picked.

    mean_over_shifts: the cell's, each example by the mean over its own shifts (those with fewer options have fewer).
    first_share: of the parsed answers, those that name the option shown first.
    """
    cells = scores[scores["control"] == SHIFTS]
    rows: list[dict[str, Any]] = []
    for _, cell in cells.groupby([*CELL, "shots", "task"], sort=True):
        first = cell.iloc[0]
        shared = {name: first[name] for name in (*CELL, "shots", "weights", "task", "fingerprint")}
        shared["mean_over_shifts"] = example_means(cell, METRIC)["y"].astype(float).mean()
        for k, part in cell.groupby(shift_of(cell["variant"])):
            y = part.astype({METRIC: float}).groupby("example_id")[METRIC].mean()
            picked = part["picked"].dropna().astype(int)
            right = round(y.sum())
            low, high = wilson(right, len(y))
            options = part.drop_duplicates("example_id")["n_options"].astype(float)
            rows.append(
                {
                    **shared, "shift": k, "metric": METRIC, "n": len(y), "k": right, "accuracy": y.mean(),
                    "ci_low": low, "ci_high": high, "chance": (1 / options).mean(),
                    "first_share": float((picked == 0).mean()) if len(picked) else NAN,
                }
            )  # fmt: skip
    return pd.DataFrame(rows, columns=list(SHIFT_COLUMNS))
