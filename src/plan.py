"""The grid before it runs: `python -m src.plan [suite=paper] [limit=8]`. Reads conf/ alone; no data, no weights."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from src import config
from src.config import Condition, Model, Task, UserError


@dataclass(frozen=True)
class Plan:
    """One model's part of the grid."""

    model: str
    weights: str  # where they come from, or why they cannot be had
    cells: int
    prompts: int  # over all its cells
    completions: int  # prompts x seeds


def evaluated(task: Task, limit: int | None) -> int:
    """Examples a cell of this task asks; before a prepared file is at hand, by conf/task's counts."""
    n = task.n_source - (0 if task.exemplar_file else len(task.exemplars))
    return n if limit is None else min(limit, n)


def origin(model: Model) -> str:
    """Where a model's weights come from."""
    if model.api:
        return f"API: {model.gate or model.api}"
    return model.path or (f"PyPI: {model.source}" if model.source else f"hub: {model.hub}")


def plan(given: dict[str, object]) -> list[Plan]:
    """A row a model of params-like settings (models, tasks, conditions, seeds, limit). Raises UserError."""
    tasks = [config.load_task(name) for name in _names(given["tasks"])]
    conditions = [config.load("condition", name, Condition) for name in _names(given["conditions"])]
    limit, seeds = config.positive("limit", given["limit"]), config.distinct(given["seeds"])
    sizes = {task.name: evaluated(task, limit) for task in tasks}
    rows = []
    for name in _names(given["models"]):
        model = config.load("model", name, Model)
        asked = config.asked_of(model, list(sizes))
        prompts = sum(sizes[task] for task in asked) * len(conditions)
        draws = 1 if model.api else len(seeds)  # the paper's API runs: once, at temperature 0
        rows.append(Plan(name, origin(model), len(asked) * len(conditions), prompts, prompts * draws))
    return rows


def _names(found: object) -> Sequence[str]:
    return list(found) if isinstance(found, list) else []


def show(suite: str, rows: Sequence[Plan]) -> None:
    """The plan as a table on the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "weights", title=None, box=None)
    for name in ("cells", "prompts", "completions"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(row.model, row.weights, f"{row.cells:,}", f"{row.prompts:,}", f"{row.completions:,}")
    total = [sum(getattr(row, name) for row in rows) for name in ("cells", "prompts", "completions")]
    table.add_row("all", "", *(f"{n:,}" for n in total), style="bold")
    print(f"suite {suite}: {len(rows)} models, {total[0]:,} cells")
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def main() -> None:
    """Compose what `suite=` and other overrides say (params.yaml without any) and show its plan."""
    parser = config.command("plan", __doc__, "", "suite=paper")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="suite=<name>, limit=8, ...")
    words = parser.parse_args().overrides
    try:
        given = config.composed_params(words) if words else config.params()
        show(str(given["suite"]), plan(given))
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
