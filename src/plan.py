"""The grid before it runs: `python -m src.plan [suite=paper] [+model=NAME] [limit=8] [--csv FILE] [--measure [S]]`.

`--spent` looks back instead: what was computed so far, failed and killed runs included.

Tokens are counted with the model's own tokenizer if its tokenizer.json is on this disk. If not, four characters count
as one token (marked ~). A task that is not prepared has the number of examples in conf/task and the mean tokens of the
others. A prefix is computed once for each cell, but an API is sent it with every prompt. Every completion counts with
its full budget. Time is tokens / rate. The rate was measured on this machine, by --measure or by tracked runs. For
another model it is divided by the ratio of parameters, which is an estimate. Memory is parameters x bytes of the
dtype, and the number of GPUs allows a fifth more.
"""

from __future__ import annotations

import csv
import functools
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from src.base.cli import command, stage
from src.base.errors import UserError
from src.base.files import ROOT
from src.base.frames import write_csv
from src.base.grid import asked_of, composed, composed_params, params_with
from src.base.schema import Condition, Model, Task
from src.cell.file import glance, path_of
from src.lab.speed import SECONDS, known_rate, measure, rate
from src.lab.tokens import (
    OUTPUTS,
    Grid,
    Rendered,
    Tokens,
    by_characters,
    counted,
    counter,
    draws_of,
    evaluated,
    grid_of,
    rendered,
)
from src.source import weights

if TYPE_CHECKING:
    from src.lab.machine import Check


DONE, MISSING, NOT_RUNNABLE = "done", "missing", "not_runnable"
PUBLISHED = ROOT / "data/published/scores.csv"
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
TEXTS = ("experiment", "suite", "machine", "ended")  # columns of --spent
GPU_GB, HEADROOM = 80.0, 1.2  # memory of one GPU; factor for what a model needs beside its weights


@dataclass(frozen=True)
class CellPlan:
    """One cell of the grid."""

    model: str
    task: str
    condition: str
    status: str  # done | missing | not_runnable
    why: str
    prompts: int
    completions: int  # prompts x seeds
    tokens: Tokens
    sent: float  # prompt tokens that an API bills


@dataclass(frozen=True)
class Plan:
    """One model's part of the grid."""

    model: str
    weights: str  # where they come from
    cells: int
    done: int
    missing: int
    not_runnable: int
    why: str  # the first reason why a cell is not runnable
    prompts: int  # over all its cells
    completions: int
    tokens: Tokens  # of the cells that are not done
    exact: bool  # counted with the model's own tokenizer
    hours: float | None  # for the cells that are not done; None without a rate, or for an API
    memory_gb: float | None  # of the weights; None for an API
    gpus: int | None
    usd: float | None  # None if it costs nothing or no price is set


def origin(model: Model) -> str:
    """Where a model's weights come from."""
    if model.api:
        return f"API: {model.api}"
    return model.path or (f"PyPI: {model.source}" if model.source else f"hub: {model.hub}")


def hindrance(model: Model, folder: Path | None) -> str:
    """The reason why a model cannot run here. "" if it can."""
    if model.retired:
        return model.gate or "no longer served"
    if model.api or folder:
        return ""
    return f"weights are not here: python -m src.fetch +model={model.name}"


def is_done(grid: Grid, model: Model, task: Task, condition: Condition, cell: Rendered) -> bool:
    """Whether data/outputs has the whole cell, computed from the same prompts and data."""
    path = path_of(OUTPUTS / model.name, task.name, condition.name)
    if not path.is_file():
        return False
    try:
        head, seeds, count = glance(path)
    except UserError:
        return False
    identity = {
        "model": model.name, "weights": model.weights, "data_sha256": cell.data_sha256, "encoder": grid.encoder,
        "prompts_sha256": cell.sha256,
    }  # fmt: skip
    return count == len(cell.prompts) and seeds >= {*grid.seeds} and head.chosen([*identity]) == identity


def cell_plans(grid: Grid) -> dict[str, list[CellPlan]]:
    """Every cell of every model."""
    pairs = ((t, c) for t in grid.tasks for c in grid.conditions)
    cells = {(t, c): rendered(grid, grid.tasks[t], grid.conditions[c]) for t, c in pairs}

    @functools.cache
    def estimates(key: tuple[str, str], draws: int) -> tuple[Tokens, float]:
        cell = cells[key]
        return counted(cell, by_characters, draws) if cell else (Tokens(), 0.0)

    return {model.name: _of_model(grid, model, cells, estimates) for model in grid.models}


def _of_model(
    grid: Grid,
    model: Model,
    cells: Mapping[tuple[str, str], Rendered | None],
    estimates: Callable[[tuple[str, str], int], tuple[Tokens, float]],
) -> list[CellPlan]:
    repeats, folder = draws_of(grid, model), weights.on_disk(model, ROOT)
    hinders, count = hindrance(model, folder), counter(model)
    rows = []
    for t in asked_of(model, list(grid.tasks)):
        for c, condition in grid.conditions.items():
            cell = cells[t, c]
            n = len(cell.prompts) if cell else evaluated(grid.tasks[t], grid.limit)
            tokens, sent = counted(cell, count, repeats) if cell and count else estimates((t, c), repeats)
            status, why = MISSING, ""
            if cell and is_done(grid, model, grid.tasks[t], condition, cell):
                status = DONE
            elif hinders or not cell:
                status, why = (
                    NOT_RUNNABLE,
                    hinders or f"{t} is not prepared: dvc repro prepare (docs: README, DATA_DIR)",
                )
            rows.append(CellPlan(model.name, t, c, status, why, n, n * repeats, tokens, sent))
    return filled(rows)


def filled(rows: Sequence[CellPlan]) -> list[CellPlan]:
    """The rows, with an estimate for tasks that are not prepared.

    Such a cell gets the mean tokens for each completion of the other cells in its condition.
    """
    complete = []
    for row in rows:
        others = [r for r in rows if r.condition == row.condition and r.tokens.all]
        if row.tokens.all or not others:
            complete.append(row)
            continue
        means = [fmean(getattr(r.tokens, f.name) / r.completions for r in others) for f in fields(Tokens)]
        estimate = Tokens(*(value * row.completions for value in means))
        sent = fmean(r.sent / r.completions for r in others) * row.completions
        complete.append(replace(row, tokens=estimate, sent=sent))
    return complete


def plan(settings: Mapping[str, Any]) -> list[Plan]:
    """One row for each model. settings: the keys of params.yaml. Raises UserError."""
    grid = grid_of(settings)
    rows = cell_plans(grid)
    return [summed(model, rows[model.name]) for model in grid.models]


def summed(model: Model, rows: Sequence[CellPlan]) -> Plan:
    """The row of one model: the sum over its cells."""
    left = [row for row in rows if row.status != DONE]
    status = {name: sum(row.status == name for row in rows) for name in (DONE, MISSING, NOT_RUNNABLE)}
    tokens = sum((row.tokens for row in left), Tokens())
    weights_gb = None if model.api else model.parameters * BYTES[model.dtype] / 1e9
    speed = None if model.api else rate(model)
    return Plan(
        model=model.name,
        weights=origin(model),
        cells=len(rows),
        **status,
        why=next((row.why for row in left if row.why), ""),
        prompts=sum(row.prompts for row in rows),
        completions=sum(row.completions for row in rows),
        tokens=tokens,
        exact=counter(model) is not None,
        hours=None if speed is None else tokens.all / speed / 3600,
        memory_gb=weights_gb,
        gpus=None if weights_gb is None else math.ceil(weights_gb * HEADROOM / GPU_GB),
        usd=cost(model, sum(row.sent for row in left), tokens.completion),
    )


def cost(model: Model, sent: float, completed: float) -> float | None:
    """The price of these tokens in US dollars. None for local weights, or if no price is set."""
    if model.usd_per_million_in is None or model.usd_per_million_out is None:
        return None
    return (sent * model.usd_per_million_in + completed * model.usd_per_million_out) / 1e6


@dataclass(frozen=True)
class Released:
    """The published cells of one model, on tasks inside or outside the paper suite."""

    model: str
    part: str  # "paper" | the name of the task, or "model not in the paper"
    cells: int
    runs: int  # cells x seeds
    generations: int  # examples x seeds
    without_open: int
    planned: int | None  # completions that `suite=paper` plans for the model


def published(path: Path = PUBLISHED) -> list[Released]:
    """Count the released generations from the rows of the published cells (n_examples x n_runs)."""
    suite = composed_params(["suite=paper"])
    grid = grid_of(suite)
    planned = {model.name: completions(grid, model) for model in grid.models}
    lines: dict[tuple[str, str], list[dict[str, str]]] = {}
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            part = "paper" if row["task"] in suite["tasks"] else row["task"]
            key = (row["model"], part if row["model"] in planned else "model not in the paper")
            lines.setdefault(key, []).append(row)
    return [
        Released(
            model, part, len(rows), sum(int(r["n_runs"]) for r in rows), _generations(rows),
            _generations(r for r in rows if r["prompt"] != "open"), planned[model] if part == "paper" else None,
        )
        for (model, part), rows in sorted(lines.items(), key=lambda line: (line[0][1], line[0][0]))
    ]  # fmt: skip


def completions(grid: Grid, model: Model) -> int:
    """Completions that a grid takes from a model, by the counts in conf/task."""
    n_examples = sum(evaluated(grid.tasks[t], grid.limit) for t in asked_of(model, list(grid.tasks)))
    return n_examples * len(grid.conditions) * draws_of(grid, model)


def _generations(rows: Iterable[Mapping[str, str]]) -> int:
    return sum(int(row["n_examples"]) * int(row["n_runs"]) for row in rows)


def _console() -> Any:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 200)


def _table(*columns: str) -> Any:
    from rich.table import Table

    table = Table(box=None)
    for name in columns:
        text = name in ("model", "weights", "note", "part", "what", "found", "do", *TEXTS)
        table.add_column(name, justify="left" if text else "right", overflow="fold")
    return table


def show(suite: str, rows: Sequence[Plan]) -> None:
    """Print the plan as a table."""
    table = _table(
        "model", "weights", "cells", "done", "missing", "not runnable", "prompts", "completions", "prompt tok",
        "completion tok", "hours", "GB", "GPUs", "USD", "note",
    )  # fmt: skip
    for row in rows:
        about = "" if row.exact else "~"
        table.add_row(
            row.model, row.weights, *(f"{n:,}" for n in (row.cells, row.done, row.missing, row.not_runnable)),
            f"{row.prompts:,}", f"{row.completions:,}", about + short(row.tokens.prefix + row.tokens.prompt),
            about + short(row.tokens.completion), "" if row.hours is None else f"{row.hours:,.1f}",
            "" if row.memory_gb is None else f"{row.memory_gb:,.1f}", "" if row.gpus is None else str(row.gpus),
            price(row), row.why,
        )  # fmt: skip
    names = ("cells", DONE, MISSING, NOT_RUNNABLE, "prompts", "completions")
    counts = [sum(getattr(row, name) for row in rows) for name in names]
    table.add_row("all", "", *(f"{n:,}" for n in counts), style="bold")
    print(f"suite {suite}: {len(rows)} models, {counts[0]:,} cells. Tokens, hours and USD are of what is not done.")
    _console().print(table)
    measured = known_rate()
    print(
        f"hours: {measured.tokens_per_s:,.0f} tokens/s of {measured.model} here ({measured.origin}), for others "
        f"divided by the ratio of parameters: an estimate. GPUs: of {GPU_GB:.0f} GB."
        if measured
        else "hours: nothing was measured here yet: python -m src.plan --measure"
    )


def short(n: float) -> str:
    """A number in short: 1.2M, 340k, 12."""
    return f"{n / 1e6:,.1f}M" if n >= 1e6 else f"{n / 1e3:,.0f}k" if n >= 1e3 else f"{n:.0f}"


def price(row: Plan) -> str:
    """The cost of a model's calls, as text."""
    if row.memory_gb is not None:
        return ""
    return "price not set" if row.usd is None else f"{row.usd:,.2f}"


def show_machine(checks: Sequence[Check]) -> None:
    """Print the machine check as a table."""
    table = _table("what", "found", "do")
    for check in checks:
        table.add_row(check.what, check.state, check.todo)
    _console().print(table)


def show_published(rows: Sequence[Released]) -> None:
    """Print the released grid as a table, with a sum for each part and for all."""
    table = _table("part", "model", "cells", "runs", "generations", "without open", "this plan")
    for part in dict.fromkeys(row.part for row in rows):
        part_rows = [row for row in rows if row.part == part]
        for row in part_rows:
            planned = "" if row.planned is None else f"{row.planned:,}"
            numbers = (row.cells, row.runs, row.generations, row.without_open)
            table.add_row(part, row.model, *(f"{n:,}" for n in numbers), planned)
        _sum(table, part, part_rows)
    _sum(table, "all", rows)
    _console().print(table)


def _sum(table: Any, part: str, rows: Sequence[Released]) -> None:
    sums = [sum(getattr(row, name) for row in rows) for name in ("cells", "runs", "generations", "without_open")]
    table.add_row(part, "all", *(f"{n:,}" for n in sums), style="bold")


def show_spent(uri: str | None, path: Path | None, as_json: bool) -> None:
    """Print what was computed so far, by experiment, model, suite and machine. Raises UserError."""
    from src.lab import spent

    rows = spent.spent(uri)
    whole, said = spent.total(rows), spent.remarks(rows)
    if path:
        write_rows(path, rows)
    if as_json:
        print(json.dumps({"rows": [asdict(row) for row in rows], "all": asdict(whole), "remarks": said}, indent=1))
        return
    if not rows:
        print("Nothing was computed yet, or no run of it reached MLflow: there is no sum to show")
        return
    table = _table("experiment", "model", "suite", "machine", "ended", "n", "wall", "CPU", "tokens", "USD")
    for row in [*rows, whole]:
        cpu = spent.UNKNOWN if row.cpu_s is None else spent.clock_time(row.cpu_s)
        usd = f"{row.usd:,.6f}".rstrip("0").rstrip(".") if row.usd else ""
        numbers = (f"{row.n:,}", spent.clock_time(row.wall_s), cpu, f"{row.tokens:,}", usd)
        style = "bold" if row is whole else None
        table.add_row(row.experiment, row.model, row.suite, row.machine, row.ended, *numbers, style=style)
    print("Runs of models so far, as MLflow knows them (hours:minutes:seconds):")
    _console().print(table)
    print(*said, sep="\n")


def write_rows(path: Path, rows: Iterable[Any]) -> None:
    """Write a csv file. The kinds of tokens are columns."""
    import pandas as pd

    told = [asdict(row) for row in rows]
    flat = [row | row.pop("tokens") if isinstance(row.get("tokens"), dict) else row for row in told]
    write_csv(pd.DataFrame(flat), path, digits=12)  # token counts whole


def parse(argv: Sequence[str]) -> Any:
    """Command line."""
    parser = command(
        "plan",
        __doc__,
        "",
        "suite=paper --csv plan.csv",
        "suite=paper +model=llama_7b --measure",
        "published",
        "--spent",
    )
    parser.add_argument("words", nargs="*", help="suite=NAME, +model=NAME, limit=8, ...; or: published")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write a line a cell")
    parser.add_argument(
        "--spent", action="store_true", help="what was computed so far, failed runs included, from MLflow"
    )
    parser.add_argument("--json", action="store_true", help="with --spent: print JSON")
    parser.add_argument("--measure", type=float, nargs="?", const=SECONDS, metavar="S", help="calibrate for S seconds")
    return parser.parse_intermixed_args(argv)


def execute(given: Any) -> None:
    """Run the command. Raises UserError."""
    if given.json and not given.spent:
        raise UserError("--json is of --spent. For the plan take --csv FILE")
    if given.words == ["published"]:
        released = published()
        show_published(released)
        if given.csv:
            write_rows(given.csv, released)
        return
    if given.spent:
        return show_spent(composed(given.words).tracking.uri, given.csv, given.json)
    settings = params_with(given.words)
    if given.measure:
        print(f"measuring for {given.measure:.0f} s: {measure(settings, given.measure).tokens_per_s:,.0f} tokens/s")
    from src.lab import machine

    with ThreadPoolExecutor(1) as beside:  # git, DVC and the hub are slow, so they are asked while the grid is computed
        checks = beside.submit(machine.checks)
        grid = grid_of(settings)
        rows = cell_plans(grid)
        show(str(settings["suite"]), [summed(model, rows[model.name]) for model in grid.models])
        show_machine(checks.result())
    if given.csv:
        write_rows(given.csv, [row for model_rows in rows.values() for row in model_rows])


def main() -> None:
    """Show the plan of the settings on the command line. Without any, of params.yaml."""
    given = parse(sys.argv[1:])
    with stage("plan"):
        execute(given)


if __name__ == "__main__":
    main()
