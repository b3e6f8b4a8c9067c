"""The look of MLflow's table of runs: two shared views, which links open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CELLS, TWINS = "cells", "twins"


@dataclass(frozen=True)
class View:
    """A shared view of MLflow's table of runs. The default shows no parameter and no metric, and hides cells."""

    caption: str
    query: str
    order: str
    ascending: bool
    columns: Mapping[str, int]  # name -> width in pixels, in the order shown


VIEWS = {
    CELLS: View(
        "every cell, the best first", "tags.kind = 'cell'", "metrics.accuracy", False,
        {"params.model": 120, "params.task": 130, "params.prompt": 76, "params.shots": 48, "params.tuned": 52,
         "metrics.exact_match": 80, "metrics.bertscore_accuracy": 80, "metrics.likelihood": 76, "metrics.chance": 62,
         "metrics.above_chance": 84, "metrics.n": 40, "metrics.tokens_per_s": 80},
    ),
    TWINS: View(
        "base above tuned, task by task", "tags.kind = 'cell' and params.control = 'None'", "params.pair", True,
        {"params.task": 130, "params.condition": 110, "params.model": 120, "params.tuned": 52,
         "metrics.accuracy": 72, "metrics.chance": 62, "metrics.above_chance": 84, "metrics.n": 40},
    ),
}  # fmt: skip

# MLflow always shows these columns.
FIRST, LAST = {"attributes.`Run Name`": 110, "runDateAndNestInfo": 126}, {"duration": 66}


def state_of(name: str) -> dict[str, Any]:
    """The state of MLflow's table of runs as its UI reads it. The format is undocumented, so a test opens the page."""

    def quoted(column: str) -> str:
        return "{}.`{}`".format(*column.split("."))

    view = VIEWS[name]
    widths = {quoted(column): width for column, width in view.columns.items()}
    all_widths = {**FIRST, **widths, **LAST}
    return {
        "selectedColumns": list(widths), "columnOrder": ["1", *all_widths], "columnWidths": all_widths,
        "orderByKey": quoted(view.order), "orderByAsc": view.ascending, "searchFilter": view.query, "startTime": "ALL",
        "lifecycleFilter": "Active", "modelVersionFilter": "All Runs", "datasetsFilter": [], "runsExpanded": {},
        "runsHidden": [], "runsPinned": [],
    }  # fmt: skip
