"""Tokens a second on this machine: measured, or from this folder's runs."""

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
from src.lab.tokens import Rendered, asked, rendered
from src.source import weights

CALIBRATION = ROOT / "data/calibration.json"  # of this machine, so not in git
KEPT = ROOT / "data/cells"  # finished cells with their speed, by experiment
SECONDS = 120.0  # of a calibration


@dataclass(frozen=True)
class Rate:
    """What was measured: tokens a second of one model."""

    model: str
    parameters: float
    tokens_per_s: float
    origin: str


def rate(model: Model) -> float | None:
    """Tokens a second to expect of a model on this machine; None where nothing was measured."""
    measured = known_rate()
    return None if measured is None else measured.tokens_per_s * measured.parameters / model.parameters


@functools.cache
def known_rate() -> Rate | None:
    """The last calibration, else what this folder's tracked runs took."""
    if CALIBRATION.is_file():
        return Rate(**json.loads(CALIBRATION.read_text()))
    return tracked_rate(KEPT)


def tracked_rate(folder: Path) -> Rate | None:
    """Tokens by seconds over all kept cells of the model that has most tokens; None without any.

    folder: data/cells. Files that are no cells say nothing.
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


def measure(given: Mapping[str, Any], seconds: float) -> Rate:
    """Computes cells of the grid for some seconds, keeps nothing but the rate. Raises UserError without any weights."""
    what = asked(given)
    model = next((m for m in what.models if not m.api and weights.on_disk(m, ROOT)), None)
    cells_here = [cell for t in what.tasks.values() for c in what.conditions.values() if (cell := rendered(what, t, c))]
    if model is None or not cells_here:
        raise UserError("nothing to measure: no model of the suite has its weights and a prepared task here")
    tokens, took = timed(model, cells_here, what.seeds, seconds)
    measured = Rate(model.name, model.parameters, tokens / took, f"{took:.0f} s of --measure")
    CALIBRATION.parent.mkdir(exist_ok=True)
    CALIBRATION.write_text(json.dumps(asdict(measured)) + "\n")
    known_rate.cache_clear()
    return measured


def timed(model: Model, cells_here: Sequence[Rendered], seeds: tuple[int, ...], seconds: float) -> tuple[int, float]:
    """(tokens computed, seconds it took), after a first prompt that loads the weights."""
    from src.engine.job import Request
    from src.engine.local import LocalEngine

    folder, identity = weights.located(model, ROOT)
    engine = LocalEngine(folder, identity, model, Generation(), conf.load("compat", "fixed", Compat))
    list(engine.run([Request(cells_here[0].prompts[0], seeds[:1], False)]))
    begun, before = time.monotonic(), engine.tokens
    for cell in cells_here:
        for _ in engine.run([Request(p, seeds, bool(p.continuations)) for p in cell.prompts[:16]]):
            if time.monotonic() - begun > seconds:
                return engine.tokens - before, time.monotonic() - begun
    return engine.tokens - before, time.monotonic() - begun
