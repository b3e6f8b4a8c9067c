"""The published cells: read, checked, and as rows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.base import metrics
from src.base.errors import UserError
from src.base.schema import Model, Task
from src.base.values import digest
from src.statistics.items import NAN, Items, fit_length, scorable
from src.statistics.setting import NO_POLICY, Setting, options_shown, policy_columns, primary_metric

KEY = ["task", "model", "prompt", "shots"]
COUNTS = ["n_examples", "n_runs"]
FRACTIONS = [metrics.EXACT, metrics.BERT, "bertscore_f1"]
NUMBERS = [
    "shots",
    *COUNTS,
    *(name for metric in (*FRACTIONS, "edit_distance") for name in (metric, f"{metric}_sd")),
    *("exact_match_gain", "exact_match_loss", "bertscore_gain", "bertscore_loss"),
]


def read_published(path: Path, tasks: Mapping[str, Task]) -> pd.DataFrame:
    """The published cells, one row per (task, model, prompt, shots).

    Raises UserError that names row (line of the file) and column: missing column, text in a number, a code for
    missing, a duplicate, a null where a value is needed, an n that cannot be.
    """
    if not path.exists():
        raise UserError(f"{path} is missing. It is part of the repository: git checkout {path}")
    try:
        raw = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged: {error}. Restore it: git checkout {path}") from None
    if raw.empty:
        raise UserError(f"{path} has no rows. Restore it: git checkout {path}")
    absent = [name for name in (*KEY, *NUMBERS) if name not in raw]
    if absent:
        raise UserError(f"{path} has no column {', '.join(map(repr, absent))}. Restore it: git checkout {path}")
    table = raw.assign(**{name: _numbers(path, raw, name) for name in NUMBERS})
    for check in (_no_nulls, _ranges, _no_duplicates, partial(_plausible_n, tasks=tasks)):
        check(path, table)
    return table.astype(dict.fromkeys(("shots", *COUNTS), int))


def _fault(path: Path, rows: Any, column: str, why: str) -> UserError:
    """The error for the first of `rows` (positions in the table; the header is line 1)."""
    return UserError(f"{path}, line {int(rows[0]) + 2}, column '{column}': {why}. Restore it: git checkout {path}")


def _numbers(path: Path, raw: pd.DataFrame, name: str) -> pd.Series:
    values = pd.to_numeric(raw[name].where(raw[name] != "", None), errors="coerce").astype(float)
    (text,) = np.nonzero(values.isna() & (raw[name] != ""))
    if len(text):
        raise _fault(path, text, name, f"{raw[name].iloc[text[0]]!r} is not a number")
    return values


def _no_nulls(path: Path, table: pd.DataFrame) -> None:
    for name in (*KEY, *COUNTS, metrics.EXACT):
        (empty,) = np.nonzero(table[name].isna() | (table[name] == ""))
        if len(empty):
            raise _fault(path, empty, name, "a value is needed here")


def _ranges(path: Path, table: pd.DataFrame) -> None:
    for name in NUMBERS:
        values = table[name]
        top = 1 if name in FRACTIONS else np.inf
        (wrong,) = np.nonzero((values < 0) | (values > top) | (np.isinf(values)))
        if len(wrong):
            raise _fault(path, wrong, name, f"{values.iloc[wrong[0]]:g} is outside 0 to {top:g} (missing is empty)")
    for name in ("shots", *COUNTS):
        (broken,) = np.nonzero((table[name] % 1 != 0) | ((table[name] < 1) & (name != "shots")))
        if len(broken):
            raise _fault(path, broken, name, f"{table[name].iloc[broken[0]]:g} is not a count")


def _no_duplicates(path: Path, table: pd.DataFrame) -> None:
    (again,) = np.nonzero(table.duplicated(KEY))
    if len(again):
        raise _fault(path, again, KEY[0], f"a second row for {' / '.join(map(str, table[KEY].iloc[again[0]]))}")


def _plausible_n(path: Path, table: pd.DataFrame, tasks: Mapping[str, Task]) -> None:
    """n is one that conf/task knows, and n * runs * accuracy is a whole number to the digits printed (six)."""
    for position, (task, n) in enumerate(zip(table["task"], table["n_examples"], strict=True)):
        allowed = {tasks[task].n_published, tasks[task].n_source} if task in tasks else {n}
        if n not in allowed:
            raise _fault(path, [position], "n_examples", f"{n:g} is not an n of {task}: {sorted(allowed)}")
    for name in (metrics.EXACT, metrics.BERT):
        right = table["n_examples"] * table["n_runs"] * table[name]
        (off,) = np.nonzero((right - right.round()).abs() > 0.5e-6 * table["n_examples"] * table["n_runs"] + 1e-9)
        if len(off):
            raise _fault(path, off, "n_examples", f"{name} is no multiple of 1 / (n_examples * n_runs)")
    needed = [primary_metric(tasks, *pair) == metrics.BERT for pair in zip(table["task"], table["prompt"], strict=True)]
    (empty,) = np.nonzero(table[metrics.BERT].isna() & np.array(needed))
    if len(empty):
        raise _fault(path, empty, metrics.BERT, "a value is needed here: it is the task's primary metric")


def known_items(setting: Setting, task: str) -> Items | None:
    """The items of a task whose options are the published ones; None where they are not known."""
    these = setting.items.get(task)
    return these if these is not None and these.known and not setting.tasks[task].chance_assumed else None


def assumed_options(task: Task, these: Items | None) -> int | None:
    """Number of options of a task whose options are not the published ones: conf's count, or the items' commonest."""
    count: int | None = task.options.get("count")
    if count or these is None or not (these.n_options > 0).all():
        return count
    return int(np.median(these.n_options))


def published_guess(setting: Setting, task: str, prompt: str, n: int) -> dict[str, Any]:
    """chance, chance_scored, ceiling and `guess` (n,) of a task's published scores; {} where chance is unknown."""
    these, known_task = known_items(setting, task), setting.tasks[task]
    if these is None:
        count = assumed_options(known_task, setting.items.get(task))
        return flat_guess(1 / count, n) if count else {}
    even, reach = 1 / these.n_options, np.ones(len(these.ids))
    if prompt != "closed_adv":
        reach = scorable(these, known_task.strip_full_stop_from_options).astype(float)
    left_in = [1 / m for m in these.exemplar_options]
    return {
        "chance": even.mean(),
        "chance_scored": (even * reach).mean(),
        "ceiling": reach.mean(),
        "guess": fit_length(even * reach, n, left_in),
    }


def flat_guess(chance: float, n: int) -> dict[str, Any]:
    """The columns of `published_guess` under one chance level for all examples."""
    return {"chance": chance, "chance_scored": chance, "ceiling": 1.0, "guess": np.full(n, chance)}


def published_baseline(setting: Setting, task: str, prompt: str, metric: str, n: int) -> dict[str, Any]:
    """Chance and content-free columns of a published row, and `guess` (n,), what is tested against (or None)."""
    out = {"chance": NAN, "chance_scored": NAN, "ceiling": NAN, "guess": None, "chance_assumed": None, **NO_POLICY}
    known_task = setting.tasks.get(task)
    if known_task is None:
        return out
    out["chance_assumed"] = known_task.chance_assumed
    if metric not in metrics.ACCURACIES or (metric == metrics.EXACT and not options_shown(known_task, prompt)):
        return out
    these = known_items(setting, task)
    policies = policy_columns(these, setting.seed) if these else {}
    return {**out, **published_guess(setting, task, prompt, n), **policies}


def published_rows(table: pd.DataFrame, setting: Setting, data_sha256: str) -> pd.DataFrame:
    """Every published cell and metric, with its baselines."""
    baseline = cache(partial(published_baseline, setting))
    out = []
    for cell in table.to_dict("records"):
        few = "few" if cell["shots"] else "zero"
        shared = {
            **{name: cell[name] for name in KEY},
            "source": metrics.PUBLISHED,
            "suite": metrics.PUBLISHED,
            "condition": f"{cell['prompt']}_{few}",
            "n": cell["n_examples"],
            "seeds": cell["n_runs"],
            "weights": metrics.PUBLISHED,
            "data_sha256": data_sha256,
            "fingerprint": digest([data_sha256, *(cell[name] for name in KEY)])[:12],
        }
        for metric in (metrics.EXACT, metrics.BERT, *metrics.MEANS):
            if not np.isnan(cell.get(metric, NAN)):  # a metric of our own has no published value
                columns = baseline(cell["task"], cell["prompt"], metric, cell["n_examples"])
                out.append({**shared, "metric": metric, **published_score(cell, metric), **columns})
    return pd.DataFrame(out)


def published_score(cell: Mapping[str, Any], metric: str) -> dict[str, float]:
    """accuracy, k, and the two views of seed noise of one published metric."""
    counted = metric in metrics.ACCURACIES
    sd = cell[f"{metric}_sd"]
    return {
        "accuracy": cell[metric],
        "k": round(cell["n_examples"] * cell[metric]) if counted else NAN,
        "sd_published": sd,
        "seed_se": sd / np.sqrt(cell["n_runs"]),
    }


GAINS = {metrics.EXACT: ("exact_match_gain", "exact_match_loss"), metrics.BERT: ("bertscore_gain", "bertscore_loss")}


def gain_loss(published: pd.DataFrame, models: Mapping[str, Model]) -> pd.DataFrame:
    """Against which model the published gains and losses were counted: gain - loss = n (accuracy - its accuracy).

    One row a model and metric: the reference that fits the most cells, in how many it fits, in how many the runner-up,
    and what the two differ in. published: what `read_published` gives; models: conf/model by name.
    """
    key = ["task", "prompt", "shots"]
    rows = []
    for metric, (gain, loss) in GAINS.items():
        wide = published.pivot(index=key, columns="model", values=metric)
        for model, cells in published.dropna(subset=[gain, loss, metric]).groupby("model", sort=True):
            others = wide.reindex(pd.MultiIndex.from_frame(cells[key])).drop(columns=model)
            net, n = (cells[gain] - cells[loss]).to_numpy(), cells["n_examples"].to_numpy()
            expected = n[:, None] * (cells[metric].to_numpy()[:, None] - others.to_numpy())
            # accuracies are printed to six digits, counts are means of whole numbers over at most three runs
            fits = pd.Series((np.abs(expected - net[:, None]) < 0.02).sum(axis=0), others.columns).sort_values()
            reference, first, second = str(fits.index[-1]), int(fits.iloc[-1]), int(fits.iloc[-2])
            clear = first == len(cells) and second < first
            tuning = is_tuned(models, str(model)) != is_tuned(models, reference)
            rows.append(
                {
                    "model": model, "metric": metric, "cells": len(cells), "reference": reference if clear else None,
                    "fits": first, "runner_up": str(fits.index[-2]), "runner_up_fits": second,
                    "compares": ("tuning" if tuning else "size") if clear else None,
                    "gain": float(cells[gain].sum()), "loss": float(cells[loss].sum()),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def is_tuned(models: Mapping[str, Model], name: str) -> bool:
    """Whether conf/model calls a model instruction-tuned. A model that conf does not know is not."""
    return name in models and models[name].tuned
