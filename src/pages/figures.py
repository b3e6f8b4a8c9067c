"""The figures: a frame becomes a matplotlib figure with its alt text, colour-blind safe, the same bytes twice."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

from src.base import metrics
from src.base.metrics import MARGIN, OWN, PUBLISHED
from src.pages.choices import COUNTED, by_choice
from src.pages.palette import BLUE, GREEN, GREY, ORANGE, VERMILION, Figure, error_bars
from src.pages.two_sides import overlap

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Plot


matplotlib.use("agg")


CHANCE, TRIVIAL = (4, 2), (1, 1.6)  # dash patterns
VERDICTS = {
    metrics.YES: "predicted",
    metrics.NO_ABOVE: "above the line",
    metrics.NO_BELOW: "below the line",
    metrics.LINE_REJECTED: "line rejected",
    metrics.INCONCLUSIVE: "inconclusive",
}

RESULTS = {
    "holds": ("holds", BLUE, None),
    "neither": ("neither", "#d5d5d5", None),
    "both": ("both hold", ORANGE, ".."),
    "opposite": ("opposite holds", VERMILION, "//"),
}
"""What an analysis gives, from left to right: its label, colour and hatching."""

PANEL_COLUMNS = 4
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "savefig.facecolor": "white",
}

PNG_DPI = 160


def save(plot: Plot, name: str, folder: Path) -> None:
    """<folder>/<name>.{svg,png}. No date, no version: the same plot gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        plot.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})
        plot.savefig(folder / f"{name}.png", dpi=PNG_DPI, metadata={"Software": None})
    plt.close(plot)


def draw(figure: Figure, rows: pd.DataFrame) -> tuple[Plot, str]:
    """The plot and its alt text."""
    with matplotlib.rc_context(STYLE):
        return KINDS[figure.kind](figure, rows)


def scale(figure: Figure, rows: pd.DataFrame) -> tuple[Plot, str]:
    """Small multiples, one a task: accuracy by log10 parameters, with intervals, chance, trivial and forecast."""
    tasks = sorted(set(rows["task"]))
    lines = math.ceil(len(tasks) / PANEL_COLUMNS)
    plot, axes = plt.subplots(
        lines, PANEL_COLUMNS, figsize=(8.2, 1.62 * lines + 0.9), sharex=True, sharey=True, squeeze=False
    )
    flat = list(axes.flat)
    for axis, task in zip(flat, tasks, strict=False):
        _panel(axis, task, rows[rows["task"] == task])
    for axis in flat[len(tasks) :]:
        axis.set_visible(False)
    for axis in flat[max(0, len(tasks) - PANEL_COLUMNS) : len(tasks)]:
        axis.tick_params(labelbottom=True)
    _scale_axes(flat[0], rows)
    plot.supxlabel("Parameters", fontsize=9)
    plot.supylabel("Accuracy", fontsize=9)
    plot.legend(handles=_scale_legend(rows), loc="upper center", ncols=3, fontsize=8)
    plot.tight_layout(rect=(0, 0, 1, 1 - 0.5 / plot.get_figheight()), h_pad=0.6, w_pad=0.6)
    return plot, _scale_alt(tasks, rows)


def _scale_axes(axis: Axes, rows: pd.DataFrame) -> None:
    axis.set_xscale("log")
    axis.set_xlim(rows["parameters"].min() / 2.2, rows["parameters"].max() * 2.2)
    axis.set_ylim(-0.03, 1.03)
    axis.set_yticks([0, 0.5, 1], ["0", ".5", "1"])
    axis.set_xticks([1e8, 1e9, 1e10, 1e11], ["100 M", "1 B", "10 B", "100 B"])
    axis.minorticks_off()


def _panel(axis: Axes, task: str, rows: pd.DataFrame) -> None:
    published = rows[rows["source"] == PUBLISHED]
    bars = rows if published.empty else published
    mark = " †" if rows["paper_emergent"].eq(True).fillna(False).any() else ""
    axis.set_title(task.replace("_", " ") + mark, pad=3)
    for value, dashes in ((_first(bars, "chance_scored"), CHANCE), (_first(bars, "trivial"), TRIVIAL)):
        if value is not None:
            axis.axhline(value, color=GREY, linewidth=0.8, dashes=dashes, zorder=1)
    verdict = published.dropna(subset=["forecast"])["predictable"]
    if len(verdict):
        words = VERDICTS.get(verdict.iloc[0], verdict.iloc[0])
        axis.text(0.03, 0.93, words, transform=axis.transAxes, va="top", fontsize=6.8, color=GREY)
    for own, part in rows.groupby(rows["source"] == OWN, sort=True):
        _series(axis, part.sort_values("parameters"), own=bool(own))


def _series(axis: Axes, rows: pd.DataFrame, *, own: bool) -> None:
    shape, colour = ("*", VERMILION) if own else ("o", BLUE)
    spread = error_bars(rows["accuracy"], rows["ci_low"], rows["ci_high"])
    if not own:
        axis.plot(rows["parameters"], rows["accuracy"], color=colour, linewidth=0.9, alpha=0.5, zorder=2)
    axis.errorbar(
        rows["parameters"], rows["accuracy"], yerr=spread, fmt=shape, color=colour, zorder=4,
        markersize=8 if own else 4, markeredgewidth=0, elinewidth=1, capsize=0,
    )  # fmt: skip
    if rows["fitted"].notna().any():
        axis.plot(rows["parameters"], rows["fitted"], color=ORANGE, linewidth=1.1, zorder=2)
    known = rows.dropna(subset=["forecast"])
    if not known.empty:
        low, high = ((known["accuracy"] - known[f"residual_{end}"]).clip(0, 1) for end in ("high", "low"))
        axis.errorbar(
            known["parameters"], known["forecast"], yerr=error_bars(known["forecast"], low, high), fmt="D",
            color=ORANGE, markersize=5, markerfacecolor="white", markeredgewidth=1.2, elinewidth=3, alpha=0.9, zorder=3,
        )  # fmt: skip


def _first(rows: pd.DataFrame, column: str) -> float | None:
    known = rows[column].dropna()
    return None if known.empty else float(known.iloc[-1])


def _scale_legend(rows: pd.DataFrame) -> list[Line2D]:
    own = rows.loc[rows["source"] == OWN]
    handles = [
        Line2D([], [], color=BLUE, marker="o", markersize=4, linewidth=0.9, label="published, with 95 %"),
        Line2D([], [], color=ORANGE, marker="D", markerfacecolor="white", markersize=5, linewidth=1.1,
               label="line through the smaller, forecast with 90 %"),
        Line2D([], [], color=GREY, dashes=CHANCE, linewidth=0.8, label="chance"),
        Line2D([], [], color=GREY, dashes=TRIVIAL, linewidth=0.8, label="trivial policy"),
    ]  # fmt: skip
    stars = [
        Line2D([], [], color=VERMILION, marker="*", markersize=8, linewidth=0, label=f"own: {model}")
        for model in sorted(set(own["model"]))
    ]
    return handles + stars


def _scale_alt(tasks: Sequence[str], rows: pd.DataFrame) -> str:
    published = rows[rows["source"] == PUBLISHED]
    largest = published[published["parameters"] == published["parameters"].max()]
    inside = largest["chance_scored"].between(largest["ci_low"], largest["ci_high"]).sum()
    models = published.sort_values("parameters")["model"].drop_duplicates()
    return (
        f"{len(tasks)} small panels, one a task: accuracy against number of parameters for {', '.join(models)}, "
        f"with 95 % intervals, chance and the trivial policy. For the largest model the interval holds chance in "
        f"{inside} of {largest['chance'].notna().sum()} panels where chance is known."
    )


def several(figure: Figure, rows: pd.DataFrame) -> tuple[Plot, str]:
    """One line a task: each model's accuracy with its interval, chance; a tinted band where verdicts differ."""
    models = sorted(set(rows["model"]))
    order = rows.groupby("task")["accuracy"].mean().sort_values(kind="stable").index
    plot, axis = plt.subplots(figsize=(7.6, 0.32 * len(order) + 1.4))
    agree = rows.groupby("task")["agree_above"].first()
    differ = agree.eq(False).fillna(False)
    for y in [y for y, task in enumerate(order) if differ[task]]:
        axis.axhspan(y - 0.5, y + 0.5, color=ORANGE, alpha=0.16, linewidth=0)
    for number, (model, colour, shape) in enumerate(
        zip(models, (BLUE, GREEN, VERMILION, ORANGE), "os^D", strict=False)
    ):
        these = rows[rows["model"] == model].set_index("task").reindex(order)
        height = [y + 0.24 * ((len(models) - 1) / 2 - number) for y in range(len(order))]
        axis.errorbar(
            these["accuracy"], height, xerr=error_bars(these["accuracy"], these["ci_low"], these["ci_high"]), fmt=shape,
            color=colour, markersize=4.5, elinewidth=1.1, markeredgewidth=0, label=model.replace("_", " "), zorder=4,
        )  # fmt: skip
        axis.scatter(these["chance"], height, marker="|", s=50, color="black", linewidths=1, zorder=2)
    _task_axis(axis, [task.replace("_", " ") for task in order])
    axis.set_xlim(-0.01, 1.01)
    axis.set_xlabel("Accuracy (bars: Wilson 95 %; black: chance)")
    plot.legend(loc="upper center", ncols=len(models), fontsize=8)
    plot.tight_layout(rect=(0, 0, 1, 1 - 0.35 / plot.get_figheight()))
    apart = [task.replace("_", " ") for task in order if differ[task]]
    return plot, (
        f"Accuracy of {', '.join(models)} on {len(order)} tasks, with 95 % intervals and chance. Whether they are "
        f"above chance differs on {len(apart)} of {agree.count()} with a chance level: {', '.join(apart) or 'none'}."
    )


def _task_axis(axis: Axes, labels: Sequence[str]) -> None:
    axis.set_yticks(range(len(labels)), labels)
    axis.tick_params(axis="y", length=0, labelcolor="black")
    axis.set_ylim(-0.6, len(labels) - 0.4)
    axis.grid(axis="x", color="#e3e3e3", linewidth=0.6)
    axis.set_axisbelow(True)


def forest(figure: Figure, rows: pd.DataFrame) -> tuple[Plot, str]:
    """One line a contrast: mean difference with its 95 % interval, bounds of equivalence shaded."""
    rows = rows.iloc[::-1].reset_index(drop=True)
    labels = [
        f"{row.x_model}, few minus zero" if row.x_model == row.y_model else f"{row.x_model} minus {row.y_model}, "
        f"{str(row.x_condition).rsplit('_', 1)[-1]}"
        for row in rows.itertuples()
    ]  # fmt: skip
    plot, axis = plt.subplots(figsize=(7.6, 0.24 * len(rows) + 1.3))
    axis.axvspan(-MARGIN, MARGIN, color=GREY, alpha=0.12, linewidth=0)
    axis.axvline(0, color=GREY, linewidth=0.8)
    kinds = (("differs", VERMILION, "s"), ("equivalent", GREEN, "o"), ("neither", BLUE, "D"))
    for kind, colour, shape in kinds:
        some = rows[_contrast_kind(rows) == kind]
        axis.errorbar(
            some["mean_diff"], some.index, xerr=error_bars(some["mean_diff"], some["ci_low"], some["ci_high"]),
            fmt=shape, color=colour, markersize=4.5, markeredgewidth=0, elinewidth=1.1, label=f"{kind} ({len(some)})",
        )  # fmt: skip
    _task_axis(axis, [label.replace("_", " ") for label in labels])
    axis.set_xlabel("Difference in accuracy over tasks (95 %); shaded: equivalence bounds")
    plot.legend(loc="upper center", ncols=3, fontsize=8)
    plot.tight_layout(rect=(0, 0, 1, 1 - 0.35 / plot.get_figheight()))
    counted = ", ".join(f"{(_contrast_kind(rows) == kind).sum()} {kind}" for kind, _, _ in kinds)
    return plot, f"{len(rows)} contrasts over tasks with 95 % intervals and bounds of {MARGIN}: {counted}."


def _contrast_kind(rows: pd.DataFrame) -> pd.Series:
    differs, equivalent = (rows[name].fillna(False).astype(bool) for name in ("differs", "equivalent"))
    return differs.map({True: "differs", False: "neither"}).mask(equivalent & ~differs, "equivalent")


def choices(figure: Figure, rows: pd.DataFrame) -> tuple[Plot, str]:
    """One bar a level of each choice: the share of analyses in which the claim holds, its opposite, neither, both."""
    bars = [each for each in by_choice(rows) if any(each[name] for name in RESULTS)]
    plot, axis = plt.subplots(figsize=(7.6, 0.3 * len(bars) + 1.2))
    height = list(range(len(bars)))[::-1]
    left = [0.0] * len(bars)
    for name, (label, colour, hatch) in RESULTS.items():
        wide = [each[name] / sum(each[n] for n in RESULTS) for each in bars]
        if any(wide):
            axis.barh(height, wide, left=left, color=colour, hatch=hatch, height=0.7, label=label, edgecolor="white")
        left = [before + more for before, more in zip(left, wide, strict=True)]
    axis.set_yticks(height, [f"{each['choice']}: {each['level']}" for each in bars])
    axis.tick_params(axis="y", length=0, labelcolor="black")
    axis.set_xlim(0, 1)
    axis.set_xlabel("Share of the analyses that give a result")
    plot.legend(loc="upper center", ncols=len(RESULTS), fontsize=8)
    plot.tight_layout(rect=(0, 0, 1, 1 - 0.35 / plot.get_figheight()))
    known = rows["outcome"].dropna()
    counted = ", ".join(f"{label} in {int((known == COUNTED[name]).sum())}" for name, (label, _, _) in RESULTS.items())
    return plot, f"Results of {len(known)} analyses by choice, one bar a level. Over all: {counted}."


def power(figure: Figure, rows: pd.DataFrame) -> tuple[Plot, str]:
    """Points over chance that each task finds with 80 % power, against its number of examples."""
    plot, axis = plt.subplots(figsize=(7.6, 4.2))
    rows = rows.dropna(subset=["min_detectable"])
    levels = (
        ("min_detectable", BLUE, "o", "alpha"),
        ("min_detectable_bonferroni", VERMILION, "s", "alpha / tests (Bonferroni)"),
    )
    for column, colour, shape, label in levels:
        axis.scatter(rows["n"], rows[column] - rows["tested"], color=colour, marker=shape, s=22, label=label)
    for row in rows.itertuples():
        axis.annotate(
            str(row.task).replace("_", " "), (row.n, row.min_detectable_bonferroni - row.tested), fontsize=6,
            color=GREY, xytext=(2, 3), textcoords="offset points", rotation=28,
        )  # fmt: skip
    axis.axhline(0.05, color=GREY, linewidth=0.8, dashes=CHANCE)
    axis.set_xscale("log")
    axis.set_xlabel("Examples")
    axis.set_ylabel("Smallest difference from chance found")
    axis.legend(loc="upper right", fontsize=8)
    axis.margins(x=0.12, y=0.12)
    plot.tight_layout()
    blind = int((rows["min_detectable_bonferroni"] - rows["tested"] > 0.05).sum())
    return plot, (
        f"Smallest difference from chance found with 80 % power against number of examples, {len(rows)} tasks: under "
        f"Bonferroni {blind} of them cannot find five points (dashed line)."
    )


def shifts(figure: Figure, rows: pd.DataFrame) -> tuple[Plot, str]:
    """A panel a condition, a line a task: exact match under each cyclic shift of the options, their mean, chance.

    Shown are the shifts that every example of the cell has; the mean is over all.
    """
    whole = rows["n"] == rows.groupby(["shots", "task"])["n"].transform("max")
    rows = rows[whole].assign(shots=rows["shots"].gt(0).map({True: "few-shot", False: "zero-shot"}))
    tasks = sorted(set(rows["task"]), reverse=True)
    panels = sorted(set(rows["shots"]), reverse=True)
    plot, axes = plt.subplots(1, len(panels), figsize=(8.2, 0.27 * len(tasks) + 1.3), sharey=True, squeeze=False)
    for axis, panel in zip(axes.flat, panels, strict=True):
        mine = rows[rows["shots"] == panel]
        _task_axis(axis, [task.replace("_", " ") for task in tasks])
        height = mine["task"].map({task: y for y, task in enumerate(tasks)})
        by = mine.groupby("task").agg(
            low=("accuracy", "min"), high=("accuracy", "max"), mean=("mean_over_shifts", "first")
        )
        for each in by.itertuples():
            y = tasks.index(each.Index)
            axis.plot([each.low, each.high], [y, y], color=BLUE, linewidth=1, alpha=0.45, zorder=2)
            axis.scatter([each.mean], [y], marker="D", s=26, color=VERMILION, linewidths=0, zorder=4)
        axis.scatter(mine["accuracy"], height, s=17, facecolors="white", edgecolors=BLUE, linewidths=1, zorder=3)
        axis.scatter(mine["chance"], height, marker="|", s=62, color="black", linewidths=1, zorder=1)
        axis.set_title(panel)
        axis.set_xlim(-0.03, 1.03)
        axis.set_xlabel("Exact match")
    handles = [
        Line2D([], [], color=BLUE, marker="o", markerfacecolor="white", markersize=5, linewidth=1, label="one shift"),
        Line2D([], [], color=VERMILION, marker="D", markersize=5, linewidth=0, label="mean over the shifts"),
        Line2D([], [], color="black", marker="|", markersize=8, linewidth=0, label="chance"),
    ]
    plot.legend(handles=handles, loc="upper center", ncols=3, fontsize=8)
    plot.tight_layout(rect=(0, 0, 1, 1 - 0.35 / plot.get_figheight()))
    spread = rows.groupby(["shots", "task"])["accuracy"].agg(lambda values: values.max() - values.min())
    return plot, (
        f"Exact match of {', '.join(sorted(set(rows['model'])))} under each cyclic shift of the options, {len(tasks)} "
        f"tasks, {' and '.join(panels)}. Moving the options changes the accuracy of a cell by {spread.median():.2f} in "
        f"the median and by up to {spread.max():.2f}."
    )


KINDS: dict[str, Callable[[Figure, Any], tuple[Any, str]]] = {
    "scale": scale,
    "overlap": overlap,
    "several": several,
    "forest": forest,
    "choices": choices,
    "power": power,
    "shifts": shifts,
}
