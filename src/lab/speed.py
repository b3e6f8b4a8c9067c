"""Tokens a second on this machine: measured by `--measure`, or taken from the tracked runs of this folder."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from src.base import conf
from src.base.errors import UserError
from src.base.files import ROOT
from src.base.schema import Compat, Generation, Model
from src.cell.file import cell_files, read_header
from src.lab.tokens import Rendered, grid_of, rendered
from src.source import weights

CALIBRATION = ROOT / "data/calibration.json"  # describes this machine, so it is not in git
KEPT = ROOT / "data/cells"  # finished cells with their speed, one folder an experiment
SECONDS = 120.0  # length of a calibration


@dataclass(frozen=True)
class Rate:
    """A measured speed: tokens a second of one model."""

    model: str
    parameters: float
    tokens_per_s: float
    origin: str


def rate(model: Model) -> float | None:
    """Tokens a second to expect of a model on this machine. None if nothing was measured."""
    measured = known_rate()
    return None if measured is None else measured.tokens_per_s * measured.parameters / model.parameters


@functools.cache
def known_rate() -> Rate | None:
    """The last calibration. Without one, the speed of the tracked runs of this folder."""
    if CALIBRATION.is_file():
        return Rate(**json.loads(CALIBRATION.read_text(encoding="utf-8")))
    return tracked_rate(KEPT)


def tracked_rate(folder: Path) -> Rate | None:
    """Tokens a second over all kept cells of the model with the most tokens. None without such a cell.

    folder: data/cells. Files of another kind are skipped.
    """
    totals: dict[str, tuple[float, float]] = {}
    for path in cell_files(folder):
        with suppress(UserError):
            head = read_header(path)
            speed = head.recorded.metrics if head.recorded else {}
            tokens, seconds = totals.get(head.model, (0.0, 0.0))
            totals[head.model] = (tokens + speed.get("tokens", 0.0), seconds + speed.get("wall_s", 0.0))
    known = {name: each for name, each in totals.items() if all(each) and name in conf.known("model")}
    if not known:
        return None
    name = max(known, key=lambda each: known[each][0])
    tokens, seconds = known[name]
    return Rate(name, conf.load("model", name, Model).parameters, tokens / seconds, "tracked runs")


def measure(settings: Mapping[str, Any], seconds: float) -> Rate:
    """Compute cells for some seconds and keep only the rate. Raises UserError if no model has weights here."""
    grid = grid_of(settings)
    model = next((m for m in grid.models if not m.api and weights.on_disk(m, ROOT)), None)
    cells = [cell for t in grid.tasks.values() for c in grid.conditions.values() if (cell := rendered(grid, t, c))]
    if model is None or not cells:
        raise UserError("nothing to measure: no model of the suite has its weights and a prepared task here")
    tokens, took = timed(model, cells, grid.seeds, seconds)
    measured = Rate(model.name, model.parameters, tokens / took, f"{took:.0f} s of --measure")
    CALIBRATION.parent.mkdir(exist_ok=True)
    CALIBRATION.write_text(json.dumps(asdict(measured)) + "\n", encoding="utf-8")
    known_rate.cache_clear()
    return measured


def timed(model: Model, cells: Sequence[Rendered], seeds: tuple[int, ...], seconds: float) -> tuple[int, float]:
    """(tokens computed, seconds taken). A first prompt, which loads the weights, does not count."""
    from src.engine.job import Request
    from src.engine.local import LocalEngine

    folder, identity = weights.located(model, ROOT)
    engine = LocalEngine(folder, identity, model, Generation(), conf.load("compat", "fixed", Compat))
    list(engine.run([Request(cells[0].prompts[0], seeds[:1], False)]))
    begun, before = time.monotonic(), engine.tokens
    for cell in cells:
        for _ in engine.run([Request(p, seeds, bool(p.continuations)) for p in cell.prompts[:16]]):
            if time.monotonic() - begun > seconds:
                return engine.tokens - before, time.monotonic() - begun
    return engine.tokens - before, time.monotonic() - begun
