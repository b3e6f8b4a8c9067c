"""Scale series that others measured: which tasks can be judged, and the published rule on those that can.

The rule is that of the published scores, by the same functions (`scale.judge`). Each family, number of shots and axis
is a series of its own. No published or own cell is among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from src.base import metrics
from src.base.values import digest
from src.statistics.gates import gate_string, policy_gate, row_gates
from src.statistics.items import NAN, Array, fit_length
from src.statistics.published import known_items
from src.statistics.rows import tests_of
from src.statistics.scale import FEWEST, judge
from src.statistics.setting import Setting, policy_columns
from src.statistics.tests import adjust, wilson

SERIES = ["name", "family", "axis", "shots", "view"]
"""What the points of one series share, beside that their models are no tuned ones."""
MAIN = "main metric"
"""The view in which each task has its main metric: the one it prefers, or the only one that it has."""
JUDGED = (
    *("forecast", "residual", "residual_low", "residual_high", "fit_p", "tau2", "df"),
    *("p_jump", "p_differs", "p_within_ten", "p_emergent", "predictable"),
)
"""The columns of `scale.judge` that a row keeps."""
LIKE = {metrics.BY_LIKELIHOOD: metrics.LIKELIHOODS[0], metrics.BY_TEXT: metrics.EXACT}
"""By how a metric grades: the metric of ours whose gates and floor are its own."""


@dataclass(frozen=True, eq=False)
class Pool:
    """One series. points: those of its tasks that can be judged. rows: one a task, of the largest model."""

    points: pd.DataFrame
    rows: pd.DataFrame  # indexed by task; `reason` is null where the task can be judged

    @property
    def judged(self) -> pd.DataFrame:
        """The rows of the tasks that can be judged."""
        return self.rows[self.rows["reason"].isna()]


def pools(points: pd.DataFrame, setting: Setting) -> Iterator[Pool]:
    """Every series of some points (frame `external_points`), by name, family, axis, shots and view."""
    words = points.select_dtypes("string").astype(object)
    words = words.where(words.notna(), None)  # Python's own texts: a row of them is read ten times as fast
    points = points.assign(**words).assign(view=views(points), parameters=points["size"], accuracy=points["score"])
    for _, series in points.groupby(SERIES, sort=True, dropna=False):
        yield _pool(series.sort_values(["task", "parameters", "model"], ignore_index=True), setting)


def views(points: pd.DataFrame) -> pd.Series:
    """MAIN where a metric is its task's main one, else the metric."""
    task = points.groupby(["name", "family", "axis", "shots", "task"], dropna=False)
    alone = task["metric"].transform("nunique") == 1
    main = points["preferred"].astype("boolean").fillna(alone).astype(bool)
    return points["metric"].where(~main, MAIN)


def _pool(series: pd.DataFrame, setting: Setting) -> Pool:
    base = series[~series["tuned"]]
    largest = base.loc[base["parameters"] == base["parameters"].max(), "model"].unique()
    why = {str(task): _why_not(part, base, list(largest)) for task, part in series.groupby("task")}
    ready = base[base["task"].map(why).isna()]
    rows = pd.DataFrame([_row(part, list(largest), setting) for _, part in series.groupby("task")])
    rows = rows.assign(reason=[why[task] for task in rows["task"]])
    tests = tests_of(rows)
    rows = rows.assign(**{name: tests[name] for name in ("p", "p_below", "p_trivial")})
    rows = rows.assign(gates=_gates(rows, setting)).set_index("task", drop=False)
    found = _judged(ready, rows, setting.alpha)
    rows = rows.join(found.reindex(columns=[*JUDGED, "emergent"]))
    return Pool(ready, rows)


def _why_not(part: pd.DataFrame, base: pd.DataFrame, largest: list[str]) -> str | None:
    """Why a task of a series cannot be judged; None where it can. part: its points. base: those of all its tasks."""
    return next((why for check in CHECKS if (why := check(part[~part["tuned"]], base, largest))), None)


def _no_base(part: pd.DataFrame, *_: Any) -> str | None:
    return "every model is instruction-tuned, and a base series has none" if part.empty else None


def _no_accuracy(part: pd.DataFrame, *_: Any) -> str | None:
    metric = part["metric"].iloc[0]
    return None if part["counted"].all() else (
        f"{metric} is not known to be a share of right answers (--accuracy {metric} says that it is)"
    )  # fmt: skip


def _no_size(_: Any, base: pd.DataFrame, *__: Any) -> str | None:
    unknown = base.loc[base["parameters"].isna(), "model"]
    return f"the {base['axis'].iloc[0]} of {unknown.iloc[0]} are not known" if len(unknown) else None


def _two_largest(_: Any, __: Any, largest: list[str]) -> str | None:
    return f"{' and '.join(sorted(largest))} are both the largest" if len(largest) > 1 else None


def _no_largest(part: pd.DataFrame, _: Any, largest: list[str]) -> str | None:
    return None if part["model"].isin(largest).any() else f"the largest model, {largest[0]}, has no score"


def _few_sizes(part: pd.DataFrame, _: Any, largest: list[str]) -> str | None:
    smaller = part.loc[~part["model"].isin(largest), "parameters"].nunique()
    return None if smaller >= FEWEST else f"{smaller} smaller sizes, and a forecast needs {FEWEST}"


def _no_n(part: pd.DataFrame, *_: Any) -> str | None:
    unknown = part.loc[part["n"].isna(), "model"]
    return f"n is not known ({unknown.iloc[0]}), so the score has no interval" if len(unknown) else None


def _no_count(part: pd.DataFrame, *_: Any) -> str | None:
    """n x seeds x score is a whole number, to the digits printed."""
    asked = (part["n"] * part["seeds"]).to_numpy(dtype=float)
    right = asked * part["accuracy"].to_numpy(dtype=float)
    off = np.abs(right - right.round()) > asked * part["half_unit"].to_numpy(dtype=float) + 1e-6
    (at,) = np.nonzero(off)
    if not len(at):
        return None
    row = part.iloc[at[0]]
    return f"{row['accuracy']:.6g} x {asked[at[0]]:,.0f} is no whole number ({row['model']}): n is another, or answers are right in part"  # noqa: E501


def _two_chances(part: pd.DataFrame, *_: Any) -> str | None:
    levels = sorted(part["chance"].dropna().round(9).unique())
    return f"two chance levels, {levels[0]:.4g} and {levels[-1]:.4g}" if len(levels) > 1 else None


CHECKS: tuple[Callable[..., str | None], ...] = (
    _no_base, _no_accuracy, _no_size, _two_largest, _no_largest, _few_sizes, _no_n, _no_count, _two_chances,
)  # fmt: skip
"""What a task must have to be judged, in the order in which it is said what is missing."""


def _row(part: pd.DataFrame, largest: list[str], setting: Setting) -> dict[str, Any]:
    """The row of a task: its largest model's score and bars. Without that model, its numbers are missing."""
    own = part[part["model"].isin(largest) & ~part["tuned"]]
    row = (own if len(own) else part).iloc[0]
    known = len(own) > 0 and not pd.isna(row["n"]) and bool(row["counted"])
    n = int(row["n"]) if known else 0
    accuracy = float(row["accuracy"]) if len(own) else NAN
    k = round(n * accuracy) if known else NAN
    low, high = wilson(k, n) if known else (NAN, NAN)
    kept = ["source", *SERIES, "task", "our_task", "metric", "graded", "seeds"]
    row = row.copy()
    row["source"] = metrics.EXTERNAL
    return {
        **{name: row[name] for name in kept},
        "model": row["model"] if len(own) else None, "size": row["parameters"] if len(own) else NAN,
        "sizes": part.loc[~part["tuned"] & ~part["model"].isin(largest), "parameters"].nunique(),
        "n": n if known else NAN, "k": k, "accuracy": accuracy, "ci_low": float(low), "ci_high": float(high),
        **bars(row, n, setting),
        "fingerprint": digest(part.drop(columns="name").astype(str).to_numpy().tolist())[:12],
    }  # fmt: skip


def bars(row: Any, n: int, setting: Setting) -> dict[str, Any]:
    """chance, where it is from, `guess` (n,) and trivial of a point.

    What the file says comes first. Else our items give a forced choice its chance, where the task is one of ours.
    """
    ours = row["our_task"]
    these = None if pd.isna(ours) else known_items(setting, ours)
    forced = row["graded"] == metrics.BY_LIKELIHOOD or row["metric"] == metrics.BERT
    chance, guess, origin = float(row["chance"]), None, row["chance_from"]
    if not np.isnan(chance):
        guess = np.full(n, chance)
    elif these is not None and forced:
        left_in = [1 / m for m in these.exemplar_options]
        guess = fit_length(1 / these.n_options, n, left_in)
        chance, origin = (float(guess.mean()) if n else NAN), "our items"
    trivial = policy_columns(these, setting.seed)["trivial"] if these is not None and guess is not None else NAN
    found = {"chance": chance, "chance_scored": chance, "tested": chance, "trivial": trivial}
    return {**found, "chance_from": origin if guess is not None else None, "guess": guess if n else None}


def alike(rows: pd.DataFrame) -> list[str]:
    """The metric of ours whose gates and floor are those of each row's metric."""
    pairs = zip(rows["metric"], rows["graded"], strict=True)
    return [metric if metric in metrics.ACCURACIES else LIKE.get(graded, metric) for metric, graded in pairs]


def _gates(rows: pd.DataFrame, setting: Setting) -> list[str]:
    """The gates that a foreign score shows by itself, or against our items."""
    like = alike(rows)
    seen = rows.assign(
        metric=like, primary_metric=like, unparsed=NAN, ties=NAN, **dict.fromkeys(metrics.ACCURACIES, NAN)
    )
    against_items = [_item_gates(row, setting) for row in rows.itertuples()]
    names = (metrics.GATE_N_ABOVE, metrics.GATE_CONSTANT, metrics.GATE_CONSTANT_MAYBE)
    items: dict[str, Array] = {name: np.array([name in each for each in against_items]) for name in names}
    return gate_string({**row_gates(seen), **items}, len(rows))


def _item_gates(row: Any, setting: Setting) -> set[str]:
    if pd.isna(row.our_task) or np.isnan(row.n):
        return set()
    above = {metrics.GATE_N_ABOVE} if row.n > setting.tasks[row.our_task].n_source else set()
    these = known_items(setting, row.our_task)
    return above | (policy_gate(these, int(row.n), row.accuracy) if these and not np.isnan(row.trivial) else set())


def _judged(ready: pd.DataFrame, rows: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """JUDGED and `emergent` by task: `scale.judge` of the series, and Holm over the tasks that have a p."""
    if ready.empty:
        return pd.DataFrame()
    of_task = rows.loc[ready["task"]].reset_index(drop=True)
    columns = {name: of_task[name].to_numpy() for name in ("source", "tested", "p", "p_trivial")}
    pool = ready.reset_index(drop=True).assign(p_content=NAN, **columns)
    found = judge(pool, alpha)
    found = found.set_axis(pool.loc[found.index, "task"])
    holm = pd.Series(adjust(found["p_emergent"], "holm"), found.index)
    return found.assign(emergent=(holm < alpha).astype("boolean").mask(holm.isna()))
