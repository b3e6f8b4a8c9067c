"""Answers that other programs logged: a row a cell and metric, and every two cells paired by item.

The rows are like those of own runs, by the same functions. They are a frame of their own: no published or own cell
is among them, and none of them enters a claim.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from src.base import metrics
from src.base.values import digest
from src.statistics.gates import MANY_UNPARSED, gate_string
from src.statistics.items import NAN, Array, Items, content_codes
from src.statistics.own import group_bootstrap
from src.statistics.rows import against_chance, tests_of
from src.statistics.setting import NO_POLICY, policy_columns
from src.statistics.tests import OUTSIDE_95, adjust, content_free, seed_se, wilson
from src.statistics.two_sides import Scores, can_reach, side_by_side

CELL = ["name", "model", "task", "our_task", "prompt", "shots", "metric"]
FAMILY = ["name", "model", "shots", "metric"]
"""What the tasks share that are one family of tests."""


def external_cells(scores: pd.DataFrame, alpha: float, seed: int) -> pd.DataFrame:
    """The frame `external`. scores: the frame `external_scores`."""
    rows = pd.DataFrame([_cell(cell, seed) for _, cell in scores.groupby(CELL, sort=True, dropna=False)])
    rows = pd.concat([rows, tests_of(rows)[["p", "p_trivial"]]], axis=1)
    family = [rows[name].fillna(-1) if name == "shots" else rows[name] for name in FAMILY]
    tested = rows["p"].notna().astype(int)
    rows["m_tests"] = tested.groupby(family).transform("sum").clip(1)
    rows["p_holm"] = rows["p"].groupby(family).transform(lambda p: adjust(p, "holm"))
    against = against_chance(rows.assign(tested=rows["chance"]), alpha)
    rows["min_detectable"] = against["min_detectable_bonferroni"]
    rows["above"] = (rows["p_holm"] < alpha).astype("boolean").mask(rows["p_holm"].isna())
    rows["gates"] = _gates(rows)
    return rows


def _cell(cell: pd.DataFrame, seed: int) -> dict[str, Any]:
    """The row of one cell and metric, without tests."""
    wide = cell.pivot(index="repeat", columns="item", values="score").astype(float)
    first = cell.drop_duplicates("item").sort_values("item")
    these, y = items_of(first), wide.mean(axis=0).to_numpy()
    whole = bool(cell["score"].isin([0, 1]).all())
    groups = len(set(these.group))
    row: dict[str, Any] = {
        "source": metrics.EXTERNAL,
        **{name: cell[name].iloc[0] for name in CELL},
        "left_out": int(cell["left_out"].iloc[0]),
        "n": len(y),
        "groups": groups,
        "accuracy": float(y.mean()),
        "seeds": len(wide),
        "seed_se": seed_se(wide.to_numpy()) if wide.notna().all(axis=None) else NAN,
        "k": round(float(y.sum())) if whole else NAN,
        **_interval(y, these.group, whole and groups == len(y), seed),
        "guess": None,
        "chance": NAN,
        **NO_POLICY,
        "p_content": NAN,
        "duplicates": these.duplicates,
        "fingerprint": digest(cell.drop(columns="name").astype(str).to_numpy().tolist())[:12],
    }
    picked = cell["picked_known"].all()
    row["unparsed_share"] = float(cell["picked"].isna().mean()) if picked else NAN
    row["one_pick"] = bool(picked and these.known and _one_pick(cell, these))
    if whole and (these.n_options > 0).all():
        guess = 1 / these.n_options
        row |= {"chance": float(guess.mean()), "guess": guess}
        row |= policy_columns(these, seed) if these.known else {}
        row |= {"p_content": _content(cell, these, seed)} if these.known and picked else {}
    return row


def items_of(first: pd.DataFrame) -> Items:
    """The Items of a cell; first: one row an item. An option is known by its hash."""
    n_options = first["n_options"].fillna(0).to_numpy(dtype=int)
    target = first["target"].fillna(-1).to_numpy(dtype=int)
    options = [tuple(filter(None, str(words or "").split(";"))) for words in first["options"]]
    whole = all(len(each) == n for each, n in zip(options, n_options, strict=True))
    options = options if whole else [() for _ in options]
    content = Counter(zip(first["text"], options, strict=True))
    known = bool((first["text"] != "").all())
    return Items(
        ids=tuple(first["item"]),
        n_options=n_options,
        target=target,
        label=tuple(each[t] if 0 <= t < len(each) else "" for each, t in zip(options, target, strict=True)),
        option_set=tuple(tuple(sorted(each)) for each in options),
        options=tuple(options),
        group=tuple(first["group"]),
        sibling=np.zeros(len(first)) > 0,
        duplicates=sum(content.values()) - len(content) if known else 0,
        exemplar_options=(),
    )


def _picks(cell: pd.DataFrame) -> Array:
    """(repeats, n) positions, -1 for an unparsed answer."""
    picks: Array = cell.pivot(index="repeat", columns="item", values="picked").astype(float).fillna(-1).to_numpy(int)
    return picks


def _content(cell: pd.DataFrame, these: Items, seed: int) -> float:
    """p_content: as of own cells."""
    return content_free(*content_codes(these, _picks(cell)), seed)


def _one_pick(cell: pd.DataFrame, these: Items) -> bool:
    """Whether every answer is the same position, or in a label task the same label."""
    _, picks, _ = content_codes(these, _picks(cell))
    return len(these.ids) > 1 and len(np.unique(picks)) == 1 and bool((picks >= 0).all())


def _interval(y: Array, group: tuple[str, ...], independent: bool, seed: int) -> dict[str, Any]:
    """Wilson's where every score is 0 or 1 and no items share a group, else a bootstrap of groups."""
    if independent:
        low, high = wilson(y.sum(), len(y))
        return {"interval": "wilson", "ci_low": float(low), "ci_high": float(high)}
    enough = can_reach(len(set(group)), OUTSIDE_95) and np.ptp(y) > 0
    low, high = group_bootstrap(pd.Series(y), pd.Series(group), seed) if enough else (NAN, NAN)
    return {"interval": "groups", "ci_low": low, "ci_high": high}


def _gates(rows: pd.DataFrame) -> list[str]:
    """The gates that a foreign cell can show."""
    forced = rows["unparsed_share"].eq(0)
    flags = {
        metrics.GATE_ZERO: (forced & rows["accuracy"].eq(0) & rows["n"].ge(100)).to_numpy(),
        metrics.GATE_CONSTANT: rows["one_pick"].to_numpy(),
        metrics.GATE_UNPARSED: rows["unparsed_share"].gt(MANY_UNPARSED).to_numpy(),
        metrics.GATE_DUPLICATES: rows["duplicates"].gt(0).to_numpy(),
    }
    return gate_string(flags, len(rows))


def external_pairs(scores: pd.DataFrame, alpha: float, seed: int) -> pd.DataFrame:
    """The frame `external_pairs`: every two sides that have one metric and some items in common.

    A side is one import's model with its shots, and its prompt where it put a task in several.
    """
    scores = scores.assign(side=_sides(scores), about=scores["our_task"].fillna(scores["task"]))
    scores["known_by"] = scores["example_id"].fillna(scores["item"] + " " + scores["text"])
    rows = [row for _, mine in scores.groupby("metric", sort=True) for row in _pairs(mine, alpha, seed)]
    return pd.DataFrame(rows)


def _sides(scores: pd.DataFrame) -> pd.Series:
    shots = scores["shots"].map(lambda n: "" if pd.isna(n) else f", {int(n)}-shot")
    side = scores["name"] + ": " + scores["model"] + shots
    several = scores.groupby([side, scores["task"], scores["metric"]])["prompt"].transform("nunique").gt(1)
    return side + np.where(several.groupby(side).transform("any"), ", " + scores["prompt"], "")


def _pairs(scores: pd.DataFrame, alpha: float, seed: int) -> Iterator[dict[str, Any]]:
    """The rows of all pairs of sides of one metric."""
    means = (
        scores.groupby(["side", "about", "known_by"]).agg(y=("score", "mean"), group=("group", "first")).reset_index()
    )
    for a, b in combinations(sorted(means["side"].unique()), 2):
        both = means[means["side"] == a].merge(
            means[means["side"] == b], on=["about", "known_by"], suffixes=("_a", "_b")
        )
        sides = [
            Scores(
                str(task), str(task), mine["y_a"].to_numpy(float), mine["y_b"].to_numpy(float), tuple(mine["group_a"])
            )
            for task, mine in both.groupby("about", sort=True)
        ]
        if sides:
            for row in side_by_side(sides, alpha, seed).to_dict("records"):
                yield {"side_a": a, "side_b": b, "metric": scores["metric"].iloc[0], **row}
