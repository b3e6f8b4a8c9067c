"""Figure 2: two models on every task, each with its interval, its chance and, of own runs, its controls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

from src.pages.palette import BLUE, GREY, ORANGE, VERMILION, Figure, error_bars

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Plot


def overlap(figure: Figure, rows: pd.DataFrame) -> tuple[Plot, str]:
    """One line a task: the two models' accuracies with intervals, each one's chance, disagreements on a tinted band."""
    left, right = (side for side in ("left", "right"))
    labels = {left: _label(rows, left), right: _label(rows, right)}
    rows = rows.sort_values("right_accuracy", kind="stable").reset_index(drop=True)
    plot, axis = plt.subplots(figsize=(7.6, 0.27 * len(rows) + 1.5))
    differ = rows["agree"].eq(False).fillna(False)
    for y in rows.index[differ]:
        axis.axhspan(y - 0.5, y + 0.5, color=ORANGE, alpha=0.16, linewidth=0)
    for side, colour, shape, shift in ((left, BLUE, "o", 0.17), (right, VERMILION, "s", -0.17)):
        _dots(axis, rows, side, colour, shape, shift)
    axis.set_yticks(range(len(rows)), [task.replace("_", " ") for task in rows["task"]])
    axis.tick_params(axis="y", length=0, labelcolor="black")
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.set_xlim(-0.01, 1.01)
    axis.set_xlabel("Accuracy (bars: Wilson 95 %)")
    axis.grid(axis="x", color="#e3e3e3", linewidth=0.6)
    axis.set_axisbelow(True)
    handles = [
        Line2D([], [], color=BLUE, marker="o", markersize=5, linewidth=1, label=labels[left]),
        Line2D([], [], color=VERMILION, marker="s", markersize=5, linewidth=1, label=labels[right]),
        Line2D([], [], color="black", marker="|", markersize=8, linewidth=0, label="chance"),
        Line2D([], [], color=ORANGE, alpha=0.3, linewidth=7, label="one above chance, the other not"),
        *(
            Line2D([], [], color=GREY, marker=shape, markersize=5, linewidth=0, label=label)
            for _, shape, label in _controls(rows)
        ),
    ]
    plot.legend(handles=handles, loc="upper center", ncols=2, fontsize=8)
    plot.tight_layout(rect=(0, 0, 1, 1 - (1 + (len(handles) + 1) // 2) / 6 / plot.get_figheight()))
    return plot, _overlap_alt(rows, labels)


def _controls(rows: pd.DataFrame) -> list[tuple[str, str, str]]:
    """(column of a side, mark, name in the legend) of each control that an overlap has a value of."""
    known = [
        ("floor", "x", "under another example's input"),
        ("every_order", "d", "mean over every order of the options"),
    ]
    columns = {name: [f"{side}_{name}" for side in ("left", "right")] for name, _, _ in known}
    return [each for each in known if {*columns[each[0]]} <= {*rows} and rows[columns[each[0]]].notna().any(axis=None)]


def _label(rows: pd.DataFrame, side: str) -> str:
    shots = "few-shot" if rows[f"{side}_shots"].max() > 0 else "zero-shot"
    return f"{rows[f'{side}_model'].iloc[0]}, {shots}"


def _dots(axis: Axes, rows: pd.DataFrame, side: str, colour: str, shape: str, shift: float) -> None:
    accuracy, low, high = (rows[f"{side}_{name}"] for name in ("accuracy", "ci_low", "ci_high"))
    height = [y + shift for y in range(len(rows))]
    above = rows[f"{side}_above"].fillna(False).astype(bool)
    axis.errorbar(
        accuracy, height, xerr=error_bars(accuracy, low, high), fmt="none", ecolor=colour, elinewidth=1.2, zorder=3
    )
    for filled in (True, False):
        some = above == filled
        axis.scatter(
            accuracy[some], [y for y, keep in zip(height, some, strict=True) if keep], marker=shape, s=24, zorder=4,
            edgecolors=colour, linewidths=1.1, facecolors=colour if filled else "white",
        )  # fmt: skip
    axis.scatter(rows[f"{side}_chance"], height, marker="|", s=62, color="black", linewidths=1, zorder=2)
    for name, mark, _ in _controls(rows):
        axis.scatter(
            rows[f"{side}_{name}"], height, marker=mark, s=20, color=colour, linewidths=0.9, alpha=0.7, zorder=3
        )


def _overlap_alt(rows: pd.DataFrame, labels: Mapping[str, str]) -> str:
    apart = [task.replace("_", " ") for task in rows.loc[rows["agree"].eq(False).fillna(False), "task"]]
    named, judged = f": {', '.join(apart)}" if apart else "", rows["agree"].count()
    return (
        f"Accuracy of {labels['left']} and of {labels['right']} on {len(rows)} tasks, with 95 % intervals and chance. "
        f"Whether a model is above chance differs on {len(apart)} of {judged} with a chance level{named}."
    )
