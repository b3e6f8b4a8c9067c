"""What became of each cell of a run: done, failed, not runnable, or not done."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from src.base.errors import UserError
from src.base.files import whole
from src.base.schema import Cell, Run
from src.cell.file import Header, files_in, path_of

DONE, FAILED, NOT_RUNNABLE, NOT_DONE = "done", "failed", "not_runnable", "not_done"


@dataclass(frozen=True)
class Entry:
    """One line of the ledger: what became of a cell."""

    model: str
    task: str
    condition: str
    status: str  # done | failed | not_runnable | not_done (stopped before)
    reason: str | None = None
    fingerprint: str | None = None


@dataclass(frozen=True)
class Outcome:
    """A cell's ledger entry and the figures that the run's report prints. They are empty where the cell is not done."""

    entry: Entry
    n: int = 0  # examples
    accuracy: float | None = None  # the task's primary metric, a fraction
    unparsed: float | None = None  # a fraction


def write_ledger(run: Run, entries: Sequence[Entry]) -> None:
    """Write ledger.json: every cell of this run, and what became of each.

    A shard leaves the cells of other shards alone and keeps its own ledger. A whole run replaces those ledgers.
    """
    if run.out is None:
        return
    run.out.mkdir(parents=True, exist_ok=True)
    for path in out_of_date(run, entries):
        path.unlink(missing_ok=True)
    name = "ledger.json" if run.shards == 1 else f"ledger_{run.shard}_of_{run.shards}.json"
    with whole(run.out / name) as part:
        part.write_text(json.dumps([asdict(e) for e in entries], indent=1) + "\n", encoding="utf-8")


def out_of_date(run: Run, entries: Sequence[Entry]) -> list[Path]:
    """The files of `run.out` that contradict these entries."""
    assert run.out is not None
    file = {e: path_of(run.out, e.task, e.condition) for e in entries}
    if run.shards > 1:  # an earlier ledger.json is of the whole grid
        return [run.out / "ledger.json", *(path for e, path in file.items() if e.status != DONE)]
    done = {path for e, path in file.items() if e.status == DONE}
    return [path for path in files_in(run.out) if path not in done] + [*run.out.glob("ledger_*_of_*.json")]


def gaps(run: Run, left: Sequence[Cell], status: str, reason: str) -> list[Outcome]:
    """Cells that were not computed, each for the same reason."""
    return [Outcome(Entry(run.model.name, c.task.name, c.condition.name, status, reason)) for c in left]


def check_ledgers(heads: Mapping[Path, Header]) -> None:
    """Raises UserError where a cell is not the one that the ledger beside it names: it came from elsewhere."""
    for path, head in heads.items():
        ledger = path.parent / "ledger.json"
        if not ledger.is_file():
            continue
        entries = json.loads(ledger.read_text(encoding="utf-8"))
        named = {path_of(path.parent, e["task"], e["condition"]): e["fingerprint"] for e in entries}
        if named.get(path) != head.fingerprint:
            raise UserError(
                f"{path} has the fingerprint {head.fingerprint}, {ledger.name} beside it names "
                f"{named.get(path)}: it is of another run. Get the whole folder again (dvc pull) or make it anew: "
                f"dvc repro -f infer@{path.parent.name}"
            )
