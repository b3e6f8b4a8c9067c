"""What a model still gets right under another example's input: its own content-free floor, paired by example.

docs/statistics.md, "Content-free answering". The floor of a cell is the accuracy of its condition `input_swapped` on
the examples that both have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from src.base import metrics
from src.statistics.items import Array
from src.statistics.own import OWN_KEY, example_means
from src.statistics.pairing import Pairing
from src.statistics.rows import plain

SWAPPED = "input_swapped"
SIDE = ["suite", "model", "prompt", "task"]
COLUMNS = ("floor", "floor_n", "floor_plain", "p_floor", "p_floor_short")


def floors(scores: pd.DataFrame) -> pd.DataFrame:
    """OWN_KEY, metric and COLUMNS of every plain cell that has a twin with swapped inputs. scores: scores.parquet."""
    rows = []
    for key, block in scores.groupby([*SIDE, scores["shots"] > 0], sort=True):
        swapped = block[block["control"] == SWAPPED]
        for condition, cell in block[plain(block)].groupby("condition", sort=True):
            head = dict(zip(SIDE, key[:-1], strict=True)) | {"condition": condition, "shots": cell["shots"].iloc[0]}
            rows += [head | row for row in _cell(cell, swapped)]
    return pd.DataFrame(rows, columns=[*OWN_KEY, "metric", *COLUMNS])


def _cell(cell: pd.DataFrame, swapped: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for metric in metrics.ACCURACIES:
        x, y = (example_means(each, metric) for each in (cell, swapped))
        both = x.index.intersection(y.index)
        if len(both):
            x, y = x.loc[both], y.loc[both]
            pairing = paired((x["y"] - y["y"]).groupby(x["group"]).mean().to_numpy(dtype=float))
            yield {
                "metric": metric, "floor": y["y"].mean(), "floor_n": len(both), "floor_plain": x["y"].mean(),
                "p_floor": float(stats.norm.sf(pairing.score_z(0.0))),
                "p_floor_short": float(stats.norm.cdf(pairing.score_z(metrics.MARGIN))),
            }  # fmt: skip


def paired(differences: Array) -> Pairing:
    """Plain against swapped, of the mean difference of each group of examples. Shape (groups,), each -1 to 1."""
    up, down = differences.clip(min=0), (-differences).clip(min=0)
    return Pairing(len(differences), float(up.sum()), float(down.sum()))


def option_counts(scores: pd.DataFrame) -> pd.DataFrame:
    """OWN_KEY and `option_counts`: how many examples of a cell have how many options, as "2:100 4:28"."""
    rows = []
    for key, cell in scores.groupby(OWN_KEY, sort=True):
        counts = Counter(cell.drop_duplicates("example_id")["n_options"].fillna(0).astype(int))
        rows.append((*key, " ".join(f"{k}:{n}" for k, n in sorted(counts.items()))))
    return pd.DataFrame(rows, columns=[*OWN_KEY, "option_counts"])


def guess_of(counts: str) -> Array:
    """(examples,): the chance of each example, of `option_counts`. Raises ValueError where the text is no such."""
    pairs = [pair.split(":") for pair in counts.split()]
    return np.repeat([1 / int(k) for k, _ in pairs], [int(n) for _, n in pairs])
