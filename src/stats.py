"""The stage `python -m src.stats`: published cells and own scores -> data/stats/*.parquet, by docs/statistics.md.

Published and own rows go through the same functions; published rows are tested against the score a uniform guesser
gets under the published scorer, own rows against 1 / number of options.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial, reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from src import config, names, stats_cell, stats_controls, stats_pairs, stats_questions, stats_scale
from src.config import UserError
from src.frames import write_csv
from src.stats_cell import NAN, Array, Items

PUBLISHED_SCORES = Path("data/published/scores.csv")
PUBLISHED_TABLES = Path("data/published/tables.yaml")
OWN_SCORES = Path("data/scores.parquet")
TASKS = Path("data/tasks")
OUT = Path("data/stats")
REFERENCE = Path("data/reference")
CONTROLS = ("controls", "option_shifts")
"""Frames of the committed run of suite controls, each a csv in REFERENCE and a frame in OUT."""
SEED = 20240811
"""Of every simulation and resampling; any other gives the same verdicts, not the same last digit."""

KEY = ["task", "model", "prompt", "shots"]
COUNTS = ["n_examples", "n_runs"]
FRACTIONS = [names.EXACT, names.BERT, "bertscore_f1"]
NUMBERS = [
    "shots",
    *COUNTS,
    *(name for metric in (*FRACTIONS, "edit_distance") for name in (metric, f"{metric}_sd")),
    *("exact_match_gain", "exact_match_loss", "bertscore_gain", "bertscore_loss"),
]
DESCRIPTION = ["suite", "weights", "fingerprint", "data_sha256", "completions_sha256", "control"]
OWN_KEY = ["suite", "model", "condition", "prompt", "shots", "task"]


@dataclass(frozen=True)
class Setting:
    """What is known beside the scores. tasks, models: fields of conf by name; items: test items of prepared tasks."""

    tasks: Mapping[str, Mapping[str, Any]]
    models: Mapping[str, Mapping[str, Any]]
    items: Mapping[str, Items]
    tables: Mapping[str, Any]
    alpha: float = 0.05
    seed: int = SEED


# ---- the published file ----------------------------------------------------------------------


def read_published(path: Path, tasks: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """The published cells, one row per (task, model, prompt, shots).

    Raises UserError that names row (line of the file) and column: missing column, text in a number, a code for
    missing, a duplicate, a null where a value is needed, an n that cannot be.
    """
    if not path.exists():
        raise UserError(f"{path} is missing. It is part of the repository: git checkout {path}")
    raw = pd.read_csv(path, dtype=str, keep_default_na=False)
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
    for name in (*KEY, *COUNTS, names.EXACT):
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


def _plausible_n(path: Path, table: pd.DataFrame, tasks: Mapping[str, Mapping[str, Any]]) -> None:
    """n is one that conf/task knows, and n * runs * accuracy is a whole number to the digits printed (six)."""
    for position, (task, n) in enumerate(zip(table["task"], table["n_examples"], strict=True)):
        allowed = {tasks[task]["n_published"], tasks[task]["n_source"]} if task in tasks else {n}
        if n not in allowed:
            raise _fault(path, [position], "n_examples", f"{n:g} is not an n of {task}: {sorted(allowed)}")
    for name in (names.EXACT, names.BERT):
        right = table["n_examples"] * table["n_runs"] * table[name]
        (off,) = np.nonzero((right - right.round()).abs() > 0.5e-6 * table["n_examples"] * table["n_runs"] + 1e-9)
        if len(off):
            raise _fault(path, off, "n_examples", f"{name} is no multiple of 1 / (n_examples * n_runs)")
    needed = [_metric(tasks, *pair) == names.BERT for pair in zip(table["task"], table["prompt"], strict=True)]
    (empty,) = np.nonzero(table[names.BERT].isna() & np.array(needed))
    if len(empty):
        raise _fault(path, empty, names.BERT, "a value is needed here: it is the task's primary metric")


def _metric(tasks: Mapping[str, Mapping[str, Any]], task: str, prompt: str) -> str | None:
    return tasks[task]["metric"].get(prompt) if task in tasks else None


# ---- rows: one per cell and metric ----------------------------------------------------------------------


def options_shown(task: Mapping[str, Any], prompt: str) -> bool:
    """Whether a test item lists its options: never in the open format, elsewhere as the task's wording says."""
    return prompt != "open" and bool(task.get("wording", {}).get(prompt, {}).get("show_options", True))


def known_items(setting: Setting, task: str) -> Items | None:
    """The items of a task whose options are the published ones; None where they are not known."""
    these = setting.items.get(task)
    return these if these is not None and these.known and not setting.tasks[task]["chance_assumed"] else None


def assumed_options(task: Mapping[str, Any], these: Items | None) -> int | None:
    """Number of options of a task whose options are not the published ones: conf's count, or the items' commonest."""
    count: int | None = task.get("options", {}).get("count")
    if count or these is None or not (these.n_options > 0).all():
        return count
    return int(np.median(these.n_options))


def published_guess(setting: Setting, task: str, prompt: str, n: int) -> dict[str, Any]:
    """chance, chance_scored, ceiling and `guess` (n,) of a task's published scores; {} where chance is unknown."""
    these, fields = known_items(setting, task), setting.tasks[task]
    if these is None:
        count = assumed_options(fields, setting.items.get(task))
        return flat_guess(1 / count, n) if count else {}
    even, reach = 1 / these.n_options, np.ones(len(these.ids))
    if prompt != "closed_adv":
        reach = stats_cell.scorable(these, fields["strip_full_stop_from_options"]).astype(float)
    left_in = [1 / m for m in these.exemplar_options]
    return {
        "chance": even.mean(),
        "chance_scored": (even * reach).mean(),
        "ceiling": reach.mean(),
        "guess": stats_cell.fit_length(even * reach, n, left_in),
    }


def flat_guess(chance: float, n: int) -> dict[str, Any]:
    """The columns of `published_guess` under one chance level for all examples."""
    return {"chance": chance, "chance_scored": chance, "ceiling": 1.0, "guess": np.full(n, chance)}


def published_baseline(setting: Setting, task: str, prompt: str, metric: str, n: int) -> dict[str, Any]:
    """Chance and content-free columns of a published row, and `guess` (n,), what is tested against (or None)."""
    out = {"chance": NAN, "chance_scored": NAN, "ceiling": NAN, "guess": None, "chance_assumed": None, **NO_POLICY}
    fields = setting.tasks.get(task)
    if fields is None:
        return out
    out["chance_assumed"] = bool(fields["chance_assumed"])
    if metric not in names.ACCURACIES or (metric == names.EXACT and not options_shown(fields, prompt)):
        return out
    these = known_items(setting, task)
    policies = policy_columns(these, setting.seed) if these else {}
    return {**out, **published_guess(setting, task, prompt, n), **policies}


constant_counts = cache(stats_cell.constant_counts)
NO_POLICY = {"trivial": NAN, "trivial_cv": NAN, "gold_skew_p": NAN}


@cache
def policy_columns(these: Items, seed: int) -> dict[str, float]:
    """trivial, trivial_cv, gold_skew_p of a set of items, computed once a set."""
    return {
        "trivial": stats_cell.trivial(these),
        "trivial_cv": stats_cell.trivial_cv(these, seed),
        "gold_skew_p": stats_cell.gold_skew_p(these, seed),
    }


def published_rows(table: pd.DataFrame, setting: Setting, data_sha256: str) -> pd.DataFrame:
    """Every published cell and metric, with its baselines."""
    baseline = cache(partial(published_baseline, setting))
    out = []
    for cell in table.to_dict("records"):
        few = "few" if cell["shots"] else "zero"
        shared = {
            **{name: cell[name] for name in KEY},
            "source": names.PUBLISHED,
            "suite": names.PUBLISHED,
            "condition": f"{cell['prompt']}_{few}",
            "n": cell["n_examples"],
            "seeds": cell["n_runs"],
            "weights": names.PUBLISHED,
            "data_sha256": data_sha256,
            "fingerprint": config.digest([data_sha256, *(cell[name] for name in KEY)])[:12],
        }
        for metric in (names.EXACT, names.BERT, *names.MEANS):
            if not np.isnan(cell.get(metric, NAN)):  # a metric of our own has no published value
                columns = baseline(cell["task"], cell["prompt"], metric, cell["n_examples"])
                out.append({**shared, "metric": metric, **published_score(cell, metric), **columns})
    return pd.DataFrame(out)


def published_score(cell: Mapping[str, Any], metric: str) -> dict[str, float]:
    """accuracy, k, and the two views of seed noise of one published metric."""
    counted = metric in names.ACCURACIES
    sd = cell[f"{metric}_sd"]
    return {
        "accuracy": cell[metric],
        "k": round(cell["n_examples"] * cell[metric]) if counted else NAN,
        "sd_published": sd,
        "seed_se": sd / np.sqrt(cell["n_runs"]),
    }


# ---- own rows ----------------------------------------------------------------------


def own_rows(scores: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """Every own cell and metric; scores: one row per (cell, example, seed)."""
    return pd.DataFrame([row for _, cell in scores.groupby(OWN_KEY, sort=True) for row in own_cell(cell, setting)])


def own_cell(cell: pd.DataFrame, setting: Setting) -> Iterator[dict[str, Any]]:
    """Rows of one cell, one per metric that it has."""
    if cell["fingerprint"].nunique() > 1 or cell.duplicated(["example_id", "variant", "seed"]).any():
        where = " / ".join(str(cell[name].iloc[0]) for name in OWN_KEY)
        raise UserError(f"{OWN_SCORES}: more than one run of {where}. Make it again: dvc repro -f collect")
    head = cell.iloc[0]
    examples = cell.drop_duplicates("example_id").sort_values("example_id")
    these = control_items(own_items(examples, setting.items.get(head["task"])), cell)
    fields = setting.tasks[head["task"]]
    shared = {
        **{name: head[name] for name in (*OWN_KEY, *DESCRIPTION)},
        "source": names.OWN,
        "seeds": cell["seed"].nunique(),
        "ceiling": 1.0,
        "chance_assumed": bool(fields["chance_assumed"]),
    }
    for metric in (*names.ACCURACIES, *names.MEANS):
        wide = by_example(cell, metric).dropna(how="all")
        if wide.isna().any(axis=None):
            raise UserError(
                f"{OWN_SCORES}: {metric} is null for some examples of {head['task']}. Make it: dvc repro collect"
            )
        if len(wide):
            yield {**shared, "metric": metric, **own_score(wide.to_numpy(), cell, these, metric, fields, setting)}


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
    return replace(these, sibling=np.zeros(len(these.ids)) > 0) if (cell["control"] == names.RESAMPLED).any() else these


def own_score(
    scores: Array,
    cell: pd.DataFrame,
    these: Items,
    metric: str,
    fields: Mapping[str, Any],
    setting: Setting,
) -> dict[str, Any]:
    """Columns of one own metric; scores (seeds, n) in the order of `these`. Means carry a t interval, no count."""
    y = scores.mean(axis=0)
    out: dict[str, Any] = {"n": len(y), "accuracy": y.mean(), "seed_se": stats_cell.seed_se(scores), "guess": None}
    lost = cell.groupby("example_id")["unparsed"].mean().sort_index().to_numpy(dtype=float)
    out |= {"unparsed": lost.sum(), "k": NAN, "chance": NAN, "chance_scored": NAN, **NO_POLICY}
    if metric in names.MEANS:
        return out
    tied = by_example(cell.assign(tied=cell[metric].astype(float) % 1 > 1e-9), "tied")
    out |= {"k": round(y.sum()), "ties": (tied > 0).any().mean()}
    if (these.n_options == 0).any() or (metric == names.EXACT and not options_shown(fields, cell["prompt"].iloc[0])):
        return out
    guess = 1 / these.n_options
    out |= {"chance": guess.mean(), "chance_scored": guess.mean(), "guess": guess}
    out |= policy_columns(these, setting.seed) if these.known and cell["variant"].isna().all() else {}
    out |= {"p_groups": _p_groups(y, guess, these)} | own_content(cell, these, metric, setting.seed)
    if metric == names.EXACT:
        out |= stats_cell.unparsed_views(y.sum(), lost.sum(), float((lost * guess).sum()), len(y))
    if these.sibling.any() and not these.sibling.all():
        out["accuracy_without_siblings"] = y[~these.sibling].mean()
    return out


def _p_groups(y: Array, guess: Array, these: Items) -> float:
    return stats_cell.p_groups(y, guess, these.group) if len(set(these.group)) < len(y) else NAN


def own_content(cell: pd.DataFrame, these: Items, metric: str, seed: int) -> dict[str, float]:
    """p_content and kappa_content of a metric that comes from a pick."""
    if metric not in names.PICKS or not these.known or cell["variant"].notna().any():
        return {}
    picks = cell.pivot(index="seed", columns="example_id", values=names.PICKS[metric]).astype(float).fillna(-1)
    p, kappa = stats_cell.content_free(*stats_cell.content_codes(these, picks.to_numpy(dtype=int)), seed)
    return {"p_content": p, "kappa_content": kappa}


# ---- all rows together ----------------------------------------------------------------------

FLOATS = (
    *("p_content", "kappa_content", "p_groups", "unparsed", "ties", "accuracy_parsed", "accuracy_guess_credited"),
    *("low_bound", "high_bound", "accuracy_without_siblings", "sd_published", "seed_se"),
)


def complete(rows: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """cells.parquet: tests, families, corrections, gates, and what conf says of model and task."""
    rows = rows.reindex(columns=[*rows.columns, *(name for name in (*FLOATS, "control") if name not in rows)])
    rows = described(rows, setting)
    rows["tested"] = rows["chance_scored"]
    rows["p"] = stats_cell.tails(rows["k"], list(rows["guess"]))
    rows["p_margin"] = stats_cell.tails(rows["k"], list(rows["guess"]), more=0.05)
    rows["p_trivial"] = stats_cell.binomial_tail(rows["k"], rows["n"], rows["trivial"])
    rows = clustered(rows, setting)
    rows["m_tests"] = tests_in_condition(rows)
    rows = pd.concat([rows, stats_cell.against_chance(rows, setting.alpha)], axis=1)
    rows = corrected(rows, setting)
    rows["gates"] = gates(rows, setting)
    return rows.drop(columns=["guess"]).sort_values([*names.CELL_KEY, "metric"], ignore_index=True)


def described(rows: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """Adds what conf/model and conf/task say, and `primary`: the task's metric in one of the plain conditions."""
    unknown: Mapping[str, Any] = {}
    for name in ("family", "parameters", "tuned"):
        rows[name] = [setting.models.get(model, unknown).get(name) for model in rows["model"]]
    rows["tuned"] = [True if tuned is None else bool(tuned) for tuned in rows["tuned"]]
    rows["parameters"] = rows["parameters"].astype(float)
    for name in ("competence", "memorisable", "previously_emergent"):
        rows[name] = [setting.tasks.get(task, unknown).get(name) for task in rows["task"]]
    metric = [_metric(setting.tasks, *pair) for pair in zip(rows["task"], rows["prompt"], strict=True)]
    plain = rows["condition"] == rows["prompt"] + np.where(rows["shots"] > 0, "_few", "_zero")
    rows["primary"] = (rows["metric"] == metric) & plain
    return rows.astype({"previously_emergent": "boolean", "memorisable": "Int64", "chance_assumed": "boolean"})


def clustered(rows: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """p_deff (ICC .1) and p_deff_30 (ICC .3) of published rows whose examples share contexts."""
    size = {task: len(these.ids) / len(set(these.group)) for task, these in setting.items.items()}
    known = rows["p"].notna() & (rows["source"] == names.PUBLISHED) & rows["task"].map(size).gt(1)
    for name, icc in (("p_deff", 0.1), ("p_deff_30", 0.3)):
        rows[name] = NAN
        rows.loc[known, name] = [
            stats_cell.design_effect_tail(int(row.k), row.n, row.tested, size[row.task], icc)
            for row in rows[known].itertuples()
        ]
    return rows


def tests_in_condition(rows: pd.DataFrame) -> pd.Series:
    """How many tasks of the same (source, suite, model, condition) have a primary test; at least 1."""
    tested = (rows["primary"] & rows["p"].notna()).astype(int)
    return tested.groupby([rows[name] for name in ("source", "suite", "model", "condition")]).transform("sum").clip(1)


def family_of(row: Any, largest_base: str | None) -> str | None:
    """Holm family of a row; exploratory rows share one Benjamini-Hochberg grid per source; null without a test."""
    if np.isnan(row.p):
        return None
    if isinstance(row.control, str):
        return f"control/{row.suite}/{row.model}/{row.condition}"
    if row.primary and row.source == names.OWN:
        return f"{names.OWN}/{row.suite}/{row.model}/{row.condition}"
    if row.primary and (row.model, row.condition) == (largest_base, "closed_zero"):
        return names.F1
    return names.EXPLORATORY


def table2_model(rows: pd.DataFrame) -> str | None:
    """The model of Table 2: the largest base model among the published ones."""
    base = rows[(rows["source"] == names.PUBLISHED) & ~rows["tuned"]]
    return None if base.empty else str(base.loc[base["parameters"].idxmax(), "model"])


def corrected(rows: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """Adds family, p_holm (confirmatory families), p_bh (all) and the verdict `above` (confirmatory families)."""
    largest = table2_model(rows)
    rows["family_tests"] = [family_of(row, largest) for row in rows.itertuples()]
    rows["p_holm"] = by_family(rows, "p", "holm").mask(
        (rows["family_tests"] == names.EXPLORATORY) | rows["control"].notna()
    )
    rows["p_bh"] = by_family(rows, "p", "fdr_bh")
    rows["above"] = (rows["p_holm"] < setting.alpha).astype("boolean").mask(rows["p_holm"].isna())
    return rows


def by_family(rows: pd.DataFrame, column: str, method: str) -> pd.Series:
    """p values of `column`, adjusted within each family of tests; null without a family."""
    out = pd.Series(NAN, rows.index)
    for _, part in rows.groupby(["source", "family_tests"], sort=False):
        out[part.index] = stats_cell.adjust(part[column], method)
    return out


def gates(rows: pd.DataFrame, setting: Setting) -> list[str]:
    """The validity gates of every row, ';'-joined."""
    index = list(names.CELL_KEY)
    wide = rows.pivot(index=index, columns="metric", values="accuracy").reindex(columns=[names.EXACT, names.BERT])
    beside = rows[index].merge(wide, left_on=index, right_index=True, how="left")
    seen = rows.assign(**{name: beside[name].to_numpy() for name in (names.EXACT, names.BERT)})
    table1 = table1_models(setting.tables)
    item_flags = [item_gates(row, setting) for row in rows.itertuples()]
    flags = {
        **stats_cell.row_gates(seen),
        names.GATE_MODEL: ((rows["source"] == names.PUBLISHED) & ~rows["model"].isin(table1)).to_numpy(),
        names.GATE_TASK: (~rows["task"].isin(list(setting.tables["table2"]))).to_numpy(),
        **{name: np.array([name in each for each in item_flags]) for name in names.ITEM_GATES},
        names.GATE_CEILING: (rows["ceiling"] < 1).to_numpy(),
    }
    return stats_cell.gate_string(flags, len(rows))


def table1_models(tables: Mapping[str, Any]) -> set[str]:
    """Every model that Table 1 names."""
    pairs = [value for row in tables["table1"] for value in (row["base"], row["tuned"])]
    return {name for value in pairs for name in (value if isinstance(value, list) else [value]) if name}


def item_gates(row: Any, setting: Setting) -> set[str]:
    """Gates that a row shows against its task's items."""
    fields, these = setting.tasks.get(row.task), setting.items.get(row.task)
    raised = set()
    if row.source == names.PUBLISHED and fields and row.n != fields["n_published"]:
        raised.add(names.GATE_EXEMPLARS if row.n == fields["n_source"] else names.GATE_N)
    if these is None:
        return raised
    if row.source == names.PUBLISHED and row.n < len(these.ids):
        raised.add(names.GATE_N)
    if these.sibling.any() and row.shots > 0:
        raised.add(names.GATE_SIBLINGS)
    if these.duplicates:
        raised.add(names.GATE_DUPLICATES)
    if row.source == names.PUBLISHED and not np.isnan(row.trivial) and row.n == len(these.ids):
        raised |= {names.GATE_CONSTANT} if row.k in constant_counts(these) else set()
    return raised


# ---- tables ----------------------------------------------------------------------


def emergence(cells: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """Rows of Table 2: primary metric; published base models of a series, and own models. All columns of cells too."""
    base = (cells["source"] == names.PUBLISHED) & ~cells["tuned"] & cells["family"].notna()
    rows = cells[cells["primary"] & (base | (cells["source"] == names.OWN))].reset_index(drop=True)
    rows = pd.concat([rows, stats_scale.judge_all(rows, setting.alpha)], axis=1)
    rows["emergent_paper_rule"] = (
        (rows["above_raw"] & (rows["residual"] > names.MARGIN)).astype("boolean").mask(rows["residual"].isna())
    )
    holm = by_family(rows, "p_emergent", "holm").mask(rows["family_tests"] == names.EXPLORATORY)
    verdict = (holm < setting.alpha) & (rows["predictable"] == names.NO_ABOVE)
    rows["emergent"] = verdict.astype("boolean").mask(holm.isna())
    paper = paper_verdicts(setting.tables)
    judged = _of_table2(rows) & rows["primary"]
    for name in paper:
        rows[name] = rows["task"].map(paper[name]).astype("boolean").mask(~judged)
    return rows


def _of_table2(rows: pd.DataFrame) -> pd.Series:
    """Rows of the paper's Table 2, tested or not."""
    return (
        (rows["source"] == names.PUBLISHED)
        & (rows["model"] == table2_model(rows))
        & (rows["condition"] == "closed_zero")
    )


def paper_verdicts(tables: Mapping[str, Any]) -> dict[str, dict[str, bool | None]]:
    """The paper's three verdicts by task."""
    columns = {"paper_above": "above_baseline", "paper_predictable": "predictable", "paper_emergent": "emergent"}
    return {ours: {task: row[theirs] for task, row in tables["table2"].items()} for ours, theirs in columns.items()}


def chance_sensitivity(table2: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """Rows of Table 2 whose number of options is assumed, or has none, under other chance levels.

    chance 0 is free generation; p_holm: Holm over the family with this row's p in place of its own.
    """
    out = []
    for row in table2[table2["chance_assumed"].fillna(False)].itertuples():
        others = table2.loc[table2["task"] != row.task, "p"].to_numpy(dtype=float)
        for chance in (1 / 3, 1 / 4, 1 / 5, 0.0):
            p = float(stats_cell.binomial_tail(row.k, row.n, chance))
            holm = stats_cell.adjust([p, *others], "holm")[0]
            verdict = {"p": p, "p_holm": holm, "above_raw": row.accuracy > chance, "above": bool(holm < alpha)}
            shared = {name: getattr(row, name) for name in ("task", "model", "prompt", "shots", "n", "k", "accuracy")}
            out.append({**shared, "chance": chance, **verdict, "fingerprint": row.fingerprint})
    return pd.DataFrame(out)


def table4_manual(paper: Sequence[Mapping[str, Any]], graded: pd.DataFrame | None) -> pd.DataFrame:
    """Table 4's rows (per cent of 50 outputs) with intervals, and below them the outputs graded by src.annotate."""
    rows = pd.DataFrame(list(paper))
    rows = rows.assign(source=names.PUBLISHED, n=50, k_metric=rows["metric"] / 2, k_manual=rows["manual"] / 2)
    low, high = stats_cell.newcombe(rows["k_metric"], rows["n"], rows["k_manual"], rows["n"])
    rows = rows.assign(
        model=None, baseline=rows["baseline"] / 100, difference=(rows["metric"] - rows["manual"]) / 100,
        difference_low=low, difference_high=high, graders=1, kappa=NAN, fingerprint=None,
    )  # fmt: skip
    if graded is not None:
        own = graded.rename(columns={"chance": "baseline"}).assign(source=names.OWN)
        rows = pd.concat([rows.astype({"model": object}), own[[c for c in own if c in rows]]], ignore_index=True)
    low, high = stats_cell.wilson(rows["k_manual"], rows["n"])
    shares = {name: rows[f"k_{name}"] / rows["n"] for name in ("metric", "manual")}
    return rows.drop(columns=["metric", "manual"]).assign(
        manual_low=low, manual_high=high, **{f"{name}_accuracy": values for name, values in shares.items()}
    )


def build(
    published: pd.DataFrame, own: pd.DataFrame | None, setting: Setting, data_sha256: str
) -> dict[str, pd.DataFrame]:
    """Every output by file name. own: None where nothing was run yet."""
    rows = [published_rows(published, setting, data_sha256)]
    rows += [own_rows(own, setting)] if own is not None and len(own) else []
    cells = complete(pd.concat(rows, ignore_index=True), setting)
    rows2 = emergence(cells, setting)
    table2 = rows2[_of_table2(rows2)]
    pairs = stats_pairs.tables(cells, table2, setting.tables, setting.alpha, setting.seed)
    sides = stats_pairs.by_condition(cells)
    return {
        "cells": cells,
        "emergence": rows2[list(names.EMERGENCE_COLUMNS)],
        "scale": stats_scale.scale(rows2),
        "agreement": stats_scale.agreement(table2, setting.alpha),
        "chance_sensitivity": chance_sensitivity(table2, setting.alpha),
        "own_contrasts": stats_pairs.own_contrasts(pd.DataFrame() if own is None else own, cells, setting.seed),
        **pairs,
        "questions": stats_questions.questions(
            table2, sides, setting.tables["claims"]["figure2"], pairs, setting.alpha, setting.seed
        ),
    }


def control_tables(own: pd.DataFrame, setting: Setting) -> dict[str, pd.DataFrame]:
    """The frames of CONTROLS: own control conditions against their plain cells."""
    found = stats_controls.controls(own, setting.tasks, setting.items, setting.seed)
    return dict(zip(CONTROLS, (found, stats_controls.option_shifts(own)), strict=True))


def with_reference(own: pd.DataFrame | None, setting: Setting, folder: Path) -> dict[str, pd.DataFrame]:
    """The control tables of own scores, and below them the committed ones of suites that were not run here."""
    fresh = control_tables(own, setting) if own is not None and len(own) else {}
    out = {}
    for name in CONTROLS:
        kept = pd.read_csv(folder / f"{name}.csv") if (folder / f"{name}.csv").exists() else None
        mine = fresh.get(name)
        suites = set() if mine is None else set(mine["suite"])
        parts = [mine, None if kept is None else kept[~kept["suite"].isin(suites)]]
        parts = [each for each in parts if each is not None and len(each)]
        if parts:
            out[name] = pd.concat(parts, ignore_index=True).convert_dtypes()
    return out


# ---- the stage ----------------------------------------------------------------------


def read_setting(root: Path) -> Setting:
    """conf/, the paper's tables and the prepared items."""
    found = {path.stem: read_items(path) for path in sorted((root / TASKS).glob("*.jsonl"))}
    tables = yaml.safe_load((root / PUBLISHED_TABLES).read_text())
    alpha = float(config.params(root / "params.yaml").get("alpha", 0.05))
    return Setting(members("task", config.Task), members("model", config.Model), found, tables, alpha)


def members(group: str, schema: type[Any]) -> dict[str, dict[str, Any]]:
    """Every conf/<group>/*.yaml as a plain dict, typed and with its defaults."""
    paths = [config.CONF / group / f"{name}.yaml" for name in config.known(group)]
    return {path.stem: asdict(config.typed(schema, composed(path), str(path))) for path in paths}


def composed(path: Path) -> dict[str, Any]:
    """A member of conf/ merged onto the `<folder>@_here_` it names: what Hydra makes of it, in milliseconds."""
    own = yaml.safe_load(path.read_text())
    bases = [entry for entry in own.pop("defaults", []) if isinstance(entry, dict)]
    parts = [composed(path.parent / key.split("@")[0] / f"{name}.yaml") for each in bases for key, name in each.items()]
    return reduce(merged, [*parts, own], {})


def merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid on `under`, mappings key by key."""
    both = {k: merged(under[k], v) for k, v in over.items() if isinstance(v, dict) and isinstance(under.get(k), dict)}
    return {**under, **over, **both}


def read_items(path: Path) -> Items:
    """The Items of a prepared task (JSON lines of src.data.Example)."""
    return stats_cell.items([json.loads(line) for line in path.read_text().splitlines() if line])


def write(tables: Mapping[str, pd.DataFrame], out: Path) -> None:
    """One parquet file a table, all of them or none: a folder beside the final one is renamed at the end."""
    partial_folder = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial_folder, ignore_errors=True)
    partial_folder.mkdir(parents=True)
    for name, table in tables.items():
        table.to_parquet(partial_folder / f"{name}.parquet", index=False)
    shutil.rmtree(out, ignore_errors=True)
    partial_folder.rename(out)


def run(root: Path) -> dict[str, pd.DataFrame]:
    """Read, compute, write data/stats. Raises UserError for input that cannot be right."""
    setting = read_setting(root)
    published = read_published(root / PUBLISHED_SCORES, setting.tasks)
    own = pd.read_parquet(root / OWN_SCORES) if (root / OWN_SCORES).exists() else None
    sha256 = hashlib.sha256((root / PUBLISHED_SCORES).read_bytes()).hexdigest()
    graded = root / REFERENCE / "graded.csv"
    tables = build(published, own, setting, sha256) | with_reference(own, setting, root / REFERENCE)
    by_hand = pd.read_csv(graded) if graded.exists() else None
    tables["gain_loss"] = stats_pairs.gain_loss(published, setting.models)
    tables["table4_manual"] = table4_manual(setting.tables["table4"], by_hand)
    write(tables, root / OUT)
    return tables


def reference(scores: Path, out: Path, root: Path) -> None:
    """Cell scores of a finished run as a csv that can be committed: no dataset text, no machine fact."""
    setting = read_setting(root)
    cells = complete(own_rows(pd.read_parquet(scores), setting), setting)
    cells["unparsed_share"] = cells["unparsed"] / cells["n"]
    write_csv(cells[list(names.REFERENCE_COLUMNS)], out)


def control_reference(scores: Path, out: Path, root: Path) -> None:
    """The control tables of a finished run of suite controls as csv files that can be committed."""
    for name, table in control_tables(pd.read_parquet(scores), read_setting(root)).items():
        write_csv(table, out / f"{name}.csv")


def main() -> None:
    """`python -m src.stats`: the stage; with --own, only the cells of one run. Exit code 1 on a user's mistake."""
    parser = config.command("stats", __doc__, "", "--own data/laptop/scores.parquet data/reference/laptop.csv")
    parser.add_argument("--own", nargs=2, type=Path, metavar=("SCORES", "CSV"), help="write these scores' cells as csv")
    parser.add_argument("--controls", nargs=2, type=Path, metavar=("SCORES", "FOLDER"), help="write their controls")
    given = parser.parse_args()
    with config.stage("stats"):
        if given.controls:
            scores, folder = given.controls
            control_reference(scores, folder, config.ROOT)
            print(*(folder / f"{name}.csv" for name in CONTROLS))
            return
        if given.own:
            scores, csv = given.own
            reference(scores, csv, config.ROOT)
            print(csv)
            return
        print(config.suite_line(config.params()), flush=True)
        tables = run(config.ROOT)
    print(f"{OUT}: {len(tables)} tables, {len(tables['cells'])} rows of cells")


if __name__ == "__main__":
    main()
