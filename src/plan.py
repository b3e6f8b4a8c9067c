"""The grid before it runs: `python -m src.plan [suite=paper] [+model=NAME] [limit=8] [--csv FILE] [--measure [S]]`.

Tokens are counted with the model's own tokenizer where its tokenizer.json is on this disk, else four characters are a
token (marked ~); a task that is not prepared counts with its length in conf/task and the others' mean tokens. A prefix
is computed once a cell; to an API it is sent with every prompt. Completions are counted at their full budget. Time is
tokens / rate, the rate measured here or in this folder's tracked runs; for another model it is divided by the ratio of
parameters, an estimate for the same machine. Memory is parameters x bytes of dtype; GPUs have a fifth more than that.
"""

from __future__ import annotations

import csv
import functools
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from src.base.cli import command
from src.base.errors import UserError
from src.base.files import ROOT
from src.base.frames import write_csv
from src.base.grid import asked_of, composed_params, params_with
from src.base.schema import Condition, Model, Task
from src.cell.file import glance, path_of
from src.lab.speed import SECONDS, known_rate, measure, rate
from src.lab.tokens import (
    OUTPUTS,
    Asked,
    Rendered,
    Tokens,
    asked,
    by_characters,
    counted,
    counter,
    draws_of,
    evaluated,
    rendered,
)
from src.source import weights

if TYPE_CHECKING:
    from src.lab.machine import Check


DONE, MISSING, NOT_RUNNABLE = "done", "missing", "not_runnable"
PUBLISHED = ROOT / "data/published/scores.csv"
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
GPU_GB, HEADROOM = 80.0, 1.2  # memory of a GPU; what a model takes beside its weights


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
    sent: float  # prompt tokens an API bills


@dataclass(frozen=True)
class Plan:
    """One model's part of the grid."""

    model: str
    weights: str  # where they come from, or why they cannot be had
    cells: int
    done: int
    missing: int
    not_runnable: int
    why: str  # the first reason for what is not runnable
    prompts: int  # over all its cells
    completions: int
    tokens: Tokens  # of what is not done
    exact: bool  # counted with the model's own tokenizer
    hours: float | None  # for what is not done; None without a rate, or for an API
    memory_gb: float | None  # of the weights; None for an API
    gpus: int | None
    usd: float | None  # None where it costs nothing or no price is set


def origin(model: Model) -> str:
    """Where a model's weights come from."""
    if model.api:
        return f"API: {model.api}"
    return model.path or (f"PyPI: {model.source}" if model.source else f"hub: {model.hub}")


def hindrance(model: Model, folder: Path | None) -> str:
    """Why a model cannot be run as things stand; "" where it can."""
    if model.retired:
        return model.gate or "no longer served"
    if model.api or folder:
        return ""
    return f"weights are not here: python -m src.fetch +model={model.name}"


def is_done(what: Asked, model: Model, task: Task, condition: Condition, cell: Rendered) -> bool:
    """Whether data/outputs holds this cell whole, asked of the same prompts and data."""
    path = path_of(OUTPUTS / model.name, task.name, condition.name)
    if not path.is_file():
        return False
    try:
        head, seeds, count = glance(path)
    except UserError:
        return False
    wanted = {
        "model": model.name, "weights": model.weights, "data_sha256": cell.data_sha256, "encoder": what.encoder,
        "prompts_sha256": cell.sha256,
    }  # fmt: skip
    return count == len(cell.prompts) and seeds >= {*what.seeds} and head.chosen([*wanted]) == wanted


def cell_plans(what: Asked) -> dict[str, list[CellPlan]]:
    """Every cell of every model."""
    grid = ((t, c) for t in what.tasks for c in what.conditions)
    asks = {(t, c): rendered(what, what.tasks[t], what.conditions[c]) for t, c in grid}

    @functools.cache
    def estimates(key: tuple[str, str], draws: int) -> tuple[Tokens, float]:
        cell = asks[key]
        return counted(cell, by_characters, draws) if cell else (Tokens(), 0.0)

    return {model.name: _of_model(what, model, asks, estimates) for model in what.models}


def _of_model(
    what: Asked,
    model: Model,
    asks: Mapping[tuple[str, str], Rendered | None],
    estimates: Callable[[tuple[str, str], int], tuple[Tokens, float]],
) -> list[CellPlan]:
    repeats, folder = draws_of(what, model), weights.on_disk(model, ROOT)
    stops, count = hindrance(model, folder), counter(model)
    rows = []
    for t in asked_of(model, list(what.tasks)):
        for c, condition in what.conditions.items():
            cell = asks[t, c]
            n = len(cell.prompts) if cell else evaluated(what.tasks[t], what.limit)
            tokens, sent = counted(cell, count, repeats) if cell and count else estimates((t, c), repeats)
            status, why = MISSING, ""
            if cell and is_done(what, model, what.tasks[t], condition, cell):
                status = DONE
            elif stops or not cell:
                status, why = NOT_RUNNABLE, stops or f"{t} is not prepared: dvc repro prepare (docs: README, DATA_DIR)"
            rows.append(CellPlan(model.name, t, c, status, why, n, n * repeats, tokens, sent))
    return filled(rows)


def filled(rows: Sequence[CellPlan]) -> list[CellPlan]:
    """Cells of unprepared tasks with the mean tokens a completion of the others has in their condition."""
    whole = []
    for row in rows:
        like = [r for r in rows if r.condition == row.condition and r.tokens.all]
        if row.tokens.all or not like:
            whole.append(row)
            continue
        per = [fmean(getattr(r.tokens, f.name) / r.completions for r in like) for f in fields(Tokens)]
        guess = Tokens(*(value * row.completions for value in per))
        whole.append(replace(row, tokens=guess, sent=fmean(r.sent / r.completions for r in like) * row.completions))
    return whole


def plan(given: Mapping[str, Any]) -> list[Plan]:
    """A row a model of params-like settings (models, tasks, conditions, seeds, limit). Raises UserError."""
    what = asked(given)
    rows = cell_plans(what)
    return [summed(model, rows[model.name]) for model in what.models]


def summed(model: Model, rows: Sequence[CellPlan]) -> Plan:
    """One model's row, of its cells."""
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
    """US dollars an API asks for these tokens; None for weights of one's own, or where no price is set."""
    if model.usd_per_million_in is None or model.usd_per_million_out is None:
        return None
    return (sent * model.usd_per_million_in + completed * model.usd_per_million_out) / 1e6


@dataclass(frozen=True)
class Released:
    """Published cells of one model, on tasks inside or outside the paper suite."""

    model: str
    part: str  # "paper" | the name of the task, or "model not in the paper"
    cells: int
    runs: int  # cells x seeds
    generations: int  # examples x seeds
    without_open: int
    planned: int | None  # completions that `suite=paper` plans for the model


def published(path: Path = PUBLISHED) -> list[Released]:
    """The released generations, line by line, from the rows of the published cells (n_examples x n_runs)."""
    suite = composed_params(["suite=paper"])
    what = asked(suite)
    planned = {model.name: completions(what, model) for model in what.models}
    lines: dict[tuple[str, str], list[dict[str, str]]] = {}
    with path.open() as file:
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


def completions(what: Asked, model: Model) -> int:
    """Completions that plain conditions ask of a model, by conf/task's counts."""
    examples_asked = sum(evaluated(what.tasks[t], what.limit) for t in asked_of(model, list(what.tasks)))
    return examples_asked * len(what.conditions) * draws_of(what, model)


def _generations(rows: Iterable[Mapping[str, str]]) -> int:
    return sum(int(row["n_examples"]) * int(row["n_runs"]) for row in rows)


def _console() -> Any:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 200)


def _table(*columns: str) -> Any:
    from rich.table import Table

    table = Table(box=None)
    for name in columns:
        text = name in ("model", "weights", "note", "part", "what", "found", "do")
        table.add_column(name, justify="left" if text else "right", overflow="fold")
    return table


def show(suite: str, rows: Sequence[Plan]) -> None:
    """The plan as a table on the terminal."""
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
    """1.2M, 340k, 12."""
    return f"{n / 1e6:,.1f}M" if n >= 1e6 else f"{n / 1e3:,.0f}k" if n >= 1e3 else f"{n:.0f}"


def price(row: Plan) -> str:
    """What a model's calls cost."""
    if row.memory_gb is not None:
        return ""
    return "price not set" if row.usd is None else f"{row.usd:,.2f}"


def show_machine(checks: Sequence[Check]) -> None:
    """The machine check as a table on the terminal."""
    table = _table("what", "found", "do")
    for check in checks:
        table.add_row(check.what, check.found, check.todo)
    _console().print(table)


def show_published(rows: Sequence[Released]) -> None:
    """The released grid as a table on the terminal, with a line for each part and one for all."""
    table = _table("part", "model", "cells", "runs", "generations", "without open", "this plan")
    for part in dict.fromkeys(row.part for row in rows):
        of = [row for row in rows if row.part == part]
        for row in of:
            beside = "" if row.planned is None else f"{row.planned:,}"
            numbers = (row.cells, row.runs, row.generations, row.without_open)
            table.add_row(part, row.model, *(f"{n:,}" for n in numbers), beside)
        _sum(table, part, of)
    _sum(table, "all", rows)
    _console().print(table)


def _sum(table: Any, part: str, rows: Sequence[Released]) -> None:
    sums = [sum(getattr(row, name) for row in rows) for name in ("cells", "runs", "generations", "without_open")]
    table.add_row(part, "all", *(f"{n:,}" for n in sums), style="bold")


def write_rows(path: Path, rows: Iterable[Any]) -> None:
    """A line a row; nested tokens as columns of their own."""
    import pandas as pd

    flat = [
        {**{k: v for k, v in asdict(row).items() if k != "tokens"}, **asdict(row).get("tokens", {})} for row in rows
    ]
    write_csv(pd.DataFrame(flat), path, digits=12)  # token counts whole


def parse(argv: Sequence[str]) -> Any:
    """Command line."""
    parser = command(
        "plan", __doc__, "", "suite=paper --csv plan.csv", "suite=paper +model=llama_7b --measure", "published"
    )
    parser.add_argument("words", nargs="*", help="suite=NAME, +model=NAME, limit=8, ...; or: published")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write a line a cell")
    parser.add_argument("--measure", type=float, nargs="?", const=SECONDS, metavar="S", help="calibrate for S seconds")
    return parser.parse_intermixed_args(argv)


def execute(given: Any) -> None:
    """Do what the command line says. Raises UserError."""
    if given.words == ["published"]:
        released = published()
        show_published(released)
        if given.csv:
            write_rows(given.csv, released)
        return
    settings = params_with(given.words)
    if given.measure:
        print(f"measuring for {given.measure:.0f} s: {measure(settings, given.measure).tokens_per_s:,.0f} tokens/s")
    from src.lab import machine

    with ThreadPoolExecutor(1) as beside:  # git, DVC and the hub take their time while the grid is worked out
        checks = beside.submit(machine.checks)
        what = asked(settings)
        rows = cell_plans(what)
        show(str(settings["suite"]), [summed(model, rows[model.name]) for model in what.models])
        show_machine(checks.result())
    if given.csv:
        write_rows(given.csv, [row for of in rows.values() for row in of])


def main() -> None:
    """Compose what `suite=` and other overrides say (params.yaml without any) and show its plan."""
    given = parse(sys.argv[1:])
    try:
        execute(given)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
