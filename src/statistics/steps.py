"""From the log-likelihood of the right option to accuracy: the steps of each own cell, and where a correlation is lost.

Schaeffer et al. (2024, arXiv 2406.04391) show that each step from log-likelihood to accuracy loosens the relation to
scale. Here the steps are ranked over tasks: what the first step says of two tasks, and what the last one does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from src.base import metrics
from src.statistics.power import rank_correlations
from src.statistics.setting import SEED

CELL = ["suite", "model", "condition", "prompt", "shots", "task"]
"""What names an own cell."""


def steps(cells: pd.DataFrame) -> pd.DataFrame:
    """One row per own cell whose options are scored, plain conditions only: every step of metrics.STEPS a column.

    cells: rows by cell and metric. A step that a cell does not have is null.
    """
    names = list(dict.fromkeys(name for each in metrics.STEPS.values() for name in each))
    names += [name for name in metrics.PROBABILITIES if name not in names]
    rows = own_plain(cells)
    wide = rows.pivot(index=CELL, columns="metric", values="accuracy").reindex(columns=names)
    scored = rows[rows["metric"] == metrics.LIKELIHOODS[0]].set_index(CELL)[["n", "chance", "fingerprint"]]
    return scored.join(wide).reset_index()


def own_plain(cells: pd.DataFrame) -> pd.DataFrame:
    """The rows of own cells in plain conditions."""
    return cells[(cells["source"] == metrics.OWN) & cells["control"].isna()]


def step_correlations(cells: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Rank correlation over tasks of every two steps, for each own model, condition and normalisation.

    More is better everywhere: the metrics LESS_IS_BETTER have their sign turned. Only tasks whose options are scored
    count, so that all steps of a row are of the same tasks. No correlation over fewer than four tasks. `over` names
    suite, model and condition; `scored_by` the normalisation.
    """
    rows = own_plain(cells)
    scored = pd.MultiIndex.from_frame(rows.loc[rows["metric"] == metrics.LIKELIHOODS[0], CELL])
    rows = rows[pd.MultiIndex.from_frame(rows[CELL]).isin(scored)]
    rows = rows.assign(value=oriented(rows))
    parts = []
    for (suite, model, condition), cell in rows.groupby(["suite", "model", "condition"], sort=True):
        for scored_by, names in metrics.STEPS.items():
            chain = cell[cell["metric"].isin(names)]
            found = rank_correlations(chain, "value", f"{suite} / {model} / {condition}", seed)
            parts.append(found.assign(scored_by=scored_by))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def oriented(rows: pd.DataFrame) -> Any:
    """Each row's value with the sign that makes more better, shape (rows,)."""
    sign = np.where(rows["metric"].isin(metrics.LESS_IS_BETTER), -1.0, 1.0)
    return sign * rows["accuracy"].to_numpy(dtype=float)


def tables(cells: pd.DataFrame, seed: int = SEED) -> dict[str, pd.DataFrame]:
    """The frames of own steps by file name; none where no own cell has scored options, or no two tasks compare."""
    found = {"own_steps": steps(cells), "step_correlations": step_correlations(cells, seed)}
    return {name: frame for name, frame in found.items() if len(frame)}
