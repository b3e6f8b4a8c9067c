"""What the numbers say: the counts behind the sentences of the page and behind metrics.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.base import conf, grid
from src.base.frames import read_frame, read_yaml
from src.base.metrics import ALL_TASKS, LIKELIHOODS, OWN, PUBLISHED
from src.base.schema import Model, Task
from src.base.verdict import word_counts
from src.pages import statements
from src.pages.tables import records

if TYPE_CHECKING:
    import pandas as pd


def share_of(rows: pd.DataFrame, name: str) -> float | None:
    """Mean of a column, None where nothing is known."""
    known = rows[name].dropna()
    return None if known.empty else float(known.astype(float).mean())


def own_summary(cells: pd.DataFrame) -> dict[str, Any]:
    """Per own model: number of cells, unparsed share; per prompt and shots: accuracy, chance, tasks above chance."""
    own = cells[(cells["source"] == OWN) & cells["primary"].astype(bool)]
    return {str(model): _model_summary(rows) for model, rows in own.groupby("model", sort=True)}


def _model_summary(rows: pd.DataFrame) -> dict[str, Any]:
    few = rows["shots"].gt(0).map({True: "few", False: "zero"})
    groups = {f"{prompt}_{shots}": part for (prompt, shots), part in rows.groupby([rows["prompt"], few], sort=True)}
    return {
        "cells": int(rows["fingerprint"].nunique()),
        "unparsed_share": rounded(_unparsed(rows)),
        "conditions": {name: _condition_summary(part) for name, part in groups.items()},
    }


def _condition_summary(rows: pd.DataFrame) -> dict[str, Any]:
    """Means over the tasks that have a chance level; over all tasks where none has. `untested` are the others."""
    known = rows[rows["chance"].notna()]
    everything, rows = rows, rows if known.empty else known
    return {
        "tasks": len(rows),
        "untested": len(everything) - len(rows),
        "accuracy": rounded(share_of(rows, "accuracy")),
        "chance": rounded(share_of(rows, "chance")),
        "above_raw": int(rows["above_raw"].fillna(False).astype(bool).sum()),
        "above_holm": int(rows["above"].fillna(False).astype(bool).sum()),
        "unparsed_share": rounded(_unparsed(everything)),
    }


def _unparsed(rows: pd.DataFrame) -> float | None:
    known = rows.dropna(subset=["unparsed"])
    return None if known.empty else float(known["unparsed"].sum() / known["n"].sum())


def emergence_summary(rows: pd.DataFrame) -> dict[str, Any]:
    """What Table 2's row says beside the paper, over the published rows the paper gives a verdict on."""
    judged = rows[(rows["source"] == PUBLISHED) & rows["paper_above"].notna()]

    def names(column: str) -> list[str]:
        return sorted(judged.loc[judged[column].fillna(False).astype(bool), "task"])

    verdicts = ("above_raw", "above", "paper_above", "emergent", "emergent_paper_rule", "paper_emergent")
    return {
        "tasks": len(judged),
        "tests": int(judged["above"].notna().sum()),
        "models": sorted(set(judged["model"])),
        **{verdict: names(verdict) for verdict in verdicts},
        "predictable": {str(k): int(v) for k, v in judged["predictable"].value_counts(sort=False).sort_index().items()},
        "untested": sorted(judged.loc[judged["above"].isna(), "task"]),
    }


def overlap_summary(rows: pd.DataFrame, statistics: pd.DataFrame) -> dict[str, Any]:
    """Where the two sides of an overlap frame agree about being above chance; and the frame's statistics by rule.

    Its tasks are those on which both sides have a verdict.
    """
    known = rows.dropna(subset=["agree"])
    agree = known["agree"].astype(bool)
    figure = [row for row in records(statistics) if row["left_model"] == rows["left_model"].iloc[0]]
    return {
        "tasks": len(known),
        "untested": sorted(set(rows["task"]) - set(known["task"])),
        "agree": int(agree.sum()),
        "differ": sorted(known.loc[~agree, "task"]),
        **{side: rows[f"{side}_model"].iloc[0] for side in ("left", "right")},
        "rules": [row for row in figure if row["percentile"] is not None],
        "partner_zero": [row for row in figure if str(row["figure"]).endswith("partner_zero")],
    }


def audit_summary(root: Path) -> dict[str, Any]:
    """How many independent inferences and rows have each word, and by question; nothing where the audit has not run."""
    audit = statements.load(root, {}, ())
    if audit is None:
        return {}
    return {"audit": {"inferences": audit.words, "rows": audit.row_words}, "questions": audit.by_question}


def control_summary(root: Path) -> list[dict[str, Any]]:
    """Over all tasks: the conditions whose options were shifted or stood under another example's input."""
    if not (root / "data/stats/controls.parquet").exists():
        return []
    return of_controls(read_frame(root, "data/stats/controls.parquet"), conf.members("task", Task))


def of_controls(rows: pd.DataFrame, tasks: Mapping[str, Task]) -> list[dict[str, Any]]:
    """The rows over all tasks of controls.parquet, one a condition: by the metric that is primary in most of its tasks.

    `n_tasks` of a row says how many tasks that are. The others are judged by another metric.
    """
    told = rows[rows["control"].isin(["input_swapped", "shifts"])].sort_values(["control", "condition"])
    alone = told[told["task"] != ALL_TASKS]
    primary = [tasks[row.task].primary(row.prompt) == row.metric for row in alone.itertuples()]
    most = alone.loc[primary].groupby("condition")["metric"].agg(lambda metric: metric.mode().iloc[0])
    whole = told[told["task"] == ALL_TASKS]
    return records(whole[whole["metric"] == whole["condition"].map(most)])


PAIR, PAIR_AUDIT = "data/reference/pair.csv", "data/audit/pair_audit.parquet"


def pair_summary(root: Path) -> dict[str, Any]:
    """What suite pair can show, and the words that came of it; nothing where it was not run."""
    if not (root / PAIR).exists() or not (root / PAIR_AUDIT).exists():
        return {}
    cells, judged = read_frame(root, PAIR), read_frame(root, PAIR_AUDIT)
    cells = cells[cells["metric"] == LIKELIHOODS[0]]  # every cell has it
    plain, controls = cells[cells["control"].isna()], cells[cells["control"].notna()]
    above, gain = (judged[judged["claim"] == f"own/{name}"] for name in ("above", "gain"))
    of = {side: str(plain.loc[plain["tuned"] == side, "model"].iloc[0]) for side in (False, True)}
    words = {name: list(judged.loc[judged["claim"] == f"own/{name}", "word"]) for name in ("above", "agree")}
    return {
        "base": of[False], "tuned": of[True], "sizes": {m: conf.load("model", m, Model).size for m in of.values()},
        "tasks": plain["task"].nunique(), "n_low": int(plain["n"].min()), "n_high": int(plain["n"].max()),
        "n_controls": int(controls["n"].max()), "detectable_gain": float(gain["detectable"].max()),
        "detectable_task": float((above["detectable"] - above["reference"]).median()),
        **{name: word_counts(each) for name, each in words.items()},
        "alone": records(judged[~judged["claim"].isin([f"own/{name}" for name in words])]),
    }  # fmt: skip


def summaries(root: Path, cells: pd.DataFrame) -> dict[str, Any]:
    """The numbers behind the sentences of the page and behind metrics.json."""
    return {
        "own": own_summary(cells),
        "emergence": emergence_summary(read_frame(root, "data/stats/emergence.parquet")),
        "overlap": overlap_summary(
            read_frame(root, "data/stats/overlap.parquet"), read_frame(root, "data/stats/overlap_summary.parquet")
        ),
        "agreement": records(read_frame(root, "data/stats/agreement.parquet")),
        "audit": audit_summary(root),
        "controls": control_summary(root),
        "pair": pair_summary(root),
    }


def metrics(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """What `dvc metrics show` prints."""
    emergence = numbers["emergence"]
    counts = {key: len(value) for key, value in emergence.items() if isinstance(value, list) and key != "models"}
    overlap = {key: numbers["overlap"][key] for key in ("tasks", "agree")}
    sizes = {key: emergence[key] for key in ("tasks", "tests")}
    published = {"table2": {**sizes, **counts}, "figure2": overlap}
    whole = ("cells", "unparsed_share")  # flat, for each key is a column of `dvc exp show`
    own = {model: {k: m[k] for k in whole} | m["conditions"] for model, m in numbers["own"].items()}
    return {"own": own, "published": published, **numbers["audit"]}


def rounded(value: float | None) -> float | None:
    """The value to six digits behind the point."""
    return None if value is None else round(value, 6)


def gaps(root: Path) -> list[dict[str, str]]:
    """Every cell that the ledgers of data/outputs/*/ledger.json do not call done."""
    entries = [
        entry
        for path in sorted(root.glob("data/outputs/*/ledger.json"))
        for entry in json.loads(path.read_text(encoding="utf-8"))
    ]
    return [entry for entry in entries if entry["status"] != "done"]


def suite_facts(root: Path, own: pd.DataFrame) -> dict[str, Any]:
    """params.yaml, and how much of each task it takes: {suite, limit, largest, tasks, models, weights, ...}."""
    params = grid.params(root / "params.yaml")
    sizes = [read_yaml(conf.CONF / f"task/{name}.yaml").get("n_published", 0) for name in params["tasks"]]
    return {
        **params,
        "largest": max(sizes, default=0),
        "weights": sorted({str(each) for each in own["weights"].dropna()}) if "weights" in own else [],
        "models_done": sorted(set(own["model"])),
    }
