"""The terminal output of a run: bars while it works, a summary at its end."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from src.base.schema import Run
from src.cell.ledger import DONE, Entry, Outcome


@contextlib.contextmanager
def progress(
    run: Run, count: int
) -> Iterator[tuple[Callable[[str], None], Callable[[int, int], None], Callable[[], None]]]:
    """Show one bar over the cells and one over the examples of the current cell, with rate and time left.

    Yields three functions: `begin(cell)`, `advance(n, of)` when n more of its examples are done, and `end()`.
    Nothing is shown where stderr is not a terminal.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[unit]}"),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, disable=quiet(), console=_stderr()) as bar:
        whole = bar.add_task(label(run), total=count, unit="cells", rate="")
        unit: dict[str, Any] = {
            "unit": "examples",
            "rate": "",
        }  # named again at each reset, which drops what it is not given
        part = bar.add_task("", total=None, **unit)

        def advance(n: int, of: int) -> None:
            bar.update(part, total=of, advance=n)
            speed = next(t.finished_speed or t.speed for t in bar.tasks if t.id == part)
            bar.update(part, rate=f"{speed:.1f}/s" if speed else "")

        yield (lambda cell: bar.reset(part, description=cell, total=None, **unit)), advance, lambda: bar.advance(whole)


def quiet() -> bool:
    """Whether bars are off: stderr is a file or a pipe, or several jobs of a sweep share it."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    return sweep or not sys.stderr.isatty()


def label(run: Run) -> str:
    """The model's name, with its shard if there are several."""
    return run.model.name + (f" shard {run.shard} of {run.shards}" if run.shards > 1 else "")


def _stderr() -> Any:
    from rich.console import Console

    return Console(stderr=True)


def headline(run: Run) -> str:
    """One line that describes what is about to run."""
    tasks = list({c.task.name: c.task for c in run.cells}.values())
    conditions = {c.condition.name for c in run.cells}
    largest = max(t.n_source - len(t.exemplars) for t in tasks)
    sample = f"{min(run.limit, largest):,} of {largest:,}" if run.limit else f"all of up to {largest:,}"
    whole = "" if run.suite == "paper" else "; whole grid: suite=paper"
    return (
        f"suite {run.suite}, {label(run)} ({run.model.weights}): {len(tasks)} tasks x {len(conditions)} "
        f"conditions, {sample} examples, seeds {','.join(map(str, run.seeds))}{whole}"
    )


def report(run: Run, results: Sequence[Outcome], wall_s: float) -> None:
    """Print the end of a run: cells done, accuracy by condition, and each reason why cells are missing."""
    entries = [outcome.entry for outcome in results]
    done = [e for e in entries if e.status == DONE]
    place = f"    cells: {run.out}" if run.out else ""
    print(f"{label(run)}: {len(done)} of {len(entries)} cells done in {wall_s:.0f} s. Browse them: make ui{place}")
    print(*summary([o for o in results if o.accuracy is not None]), sep="\n", end="")
    for reason, names in _by_reason(entries).items():
        print(f"  {len(names)} {names[0].status}: {', '.join(f'{e.task}/{e.condition}' for e in names[:4])}", end="")
        print(f"{' ...' if len(names) > 4 else ''}\n    {reason}")


def summary(done: Sequence[Outcome]) -> list[str]:
    """One line a condition: mean accuracy over tasks with its 95 % interval, share unparsed. The last line is empty."""
    if not done:
        return []
    rows = ["  condition                    tasks  accuracy  95 % interval  unparsed"]
    for name in dict.fromkeys(o.entry.condition for o in done):
        outcomes = [o for o in done if o.entry.condition == name]
        mean, low, high = interval([o.accuracy or 0.0 for o in outcomes], [o.n for o in outcomes])
        unparsed = sum(o.unparsed or 0.0 for o in outcomes) / len(outcomes)
        rows.append(f"  {name:<28} {len(outcomes):>5}  {mean:>8.3f}  {low:.3f} to {high:.3f} {unparsed:>8.1%}")
    note = "  accuracy: mean over tasks of each one's primary metric; interval: these tasks, other examples of them"
    return [*rows, note, ""]


def interval(accuracy: Sequence[float], n: Sequence[int]) -> tuple[float, float, float]:
    """(mean over tasks, low, high): the 95 % Wilson intervals of the tasks, combined by MOVER (Zou & Donner 2008).

    accuracy: one fraction a task. n: the number of examples of each. The tasks are fixed and their examples are a
    sample. Pooling the examples of all tasks would weigh tasks by size and count their differences as noise.
    """
    from statsmodels.stats.proportion import proportion_confint

    mean = sum(accuracy) / len(accuracy)
    intervals = [proportion_confint(a * k, k, method="wilson") for a, k in zip(accuracy, n, strict=True)]
    below = math.hypot(*(a - low for a, (low, _) in zip(accuracy, intervals, strict=True))) / len(accuracy)
    above = math.hypot(*(high - a for a, (_, high) in zip(accuracy, intervals, strict=True))) / len(accuracy)
    return mean, max(0.0, mean - below), min(1.0, mean + above)


def _by_reason(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    by_reason: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.status != DONE:
            by_reason.setdefault(entry.reason or "no reason given", []).append(entry)
    return by_reason
