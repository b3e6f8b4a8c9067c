"""What logging costs: seconds a cell into SQLite, and its share of the time of a cell that is really computed.

  PYTHONPATH=. python benchmarks/tracking.py                      # 80 cells of data/outputs, then 4 cells computed
  PYTHONPATH=. python benchmarks/tracking.py --limit 32 --uri http://127.0.0.1:5000

Needs what `dvc repro infer` leaves. Everything else goes into a temporary folder.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from src import run, tracking
from src.base import conf, grid
from src.cell import file
from src.cell.file import read_cell
from src.lab import runs
from src.lab.facts import facts_of, from_conf
from src.lab.opening import connected


def said(what: str, seconds: list[float]) -> None:
    worst = max(seconds)
    print(f"{what}: median {statistics.median(seconds):.3f} s, largest {worst:.3f} s, {len(seconds)} cells", flush=True)


def alone(uri: str | None, folder: Path) -> None:
    """Log every cell of data/outputs, first new, then again as an update; the table of examples is as it is there."""
    heads, _ = tracking.finished([Path("data/outputs")])
    client, experiment = connected(uri or f"sqlite:///{folder / 'alone.db'}", f"benchmark-{time.time_ns()}")
    lettered = [read_cell(path) for path, head in heads.items() if head.lettered]
    recorded = [from_conf(*each) for each in lettered]
    scored = [file.scored(*each, None, r.params["primary_metric"]) for each, r in zip(lettered, recorded, strict=True)]
    facts = [facts_of(*each) for each in zip(scored, recorded, strict=True)]
    parent = client.create_run(experiment).info.run_id
    for what in ("new run", "update"):
        seconds = []
        for each in facts:
            started = time.monotonic()
            runs.log_cell(client, experiment, parent, each, "run")
            seconds.append(time.monotonic() - started)
        said(what, seconds)
    started = time.monotonic()
    runs.summarise(client, experiment, parent)
    print(f"summary and figure, once a model: {time.monotonic() - started:.2f} s")


def timed(method: Callable[..., None], seconds: list[float]) -> Callable[..., None]:
    def wrapped(*given: Any) -> None:
        started = time.monotonic()
        method(*given)
        seconds.append(time.monotonic() - started)

    return wrapped


def within(uri: str | None, folder: Path, limit: int, metrics: bool) -> None:
    """Compute four cells from nothing; the share of the run that went into keeping and logging them."""
    words = [
        "+model=smollm2_135m_instruct", "tasks=[social_iqa,strategyqa]", "conditions=[closed_few,closed_adv_few]",
        f"limit={limit}", f"store='{folder / f'store-{metrics}'}'", f"tracking.system_metrics={metrics}",
        f"tracking.uri='{uri or f'sqlite:///{folder}/within.db'}'", "tracking.experiment=benchmark",
    ]  # fmt: skip
    with initialize_config_dir(str(conf.CONF), version_base="1.3"):
        asked = grid.compose_run(compose("config", overrides=words))
    logging: list[float] = []
    kept, runs.Tracker.cell = runs.Tracker.cell, timed(runs.Tracker.cell, logging)  # type: ignore[method-assign]
    started = time.monotonic()
    for _ in run.run_all(asked, asked.cells, check=lambda: None):
        pass
    wall = time.monotonic() - started
    runs.Tracker.cell = kept  # type: ignore[method-assign]
    said(f"within a run (system metrics {'on' if metrics else 'off'})", logging)
    print(f"  {sum(logging):.2f} s of {wall:.1f} s: {sum(logging) / wall:.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uri", help="an MLflow server; else SQLite in a temporary folder")
    parser.add_argument("--limit", type=int, default=16, help="examples of each computed cell (16)")
    given = parser.parse_args()
    grid.register()
    with tempfile.TemporaryDirectory() as name:
        alone(given.uri, Path(name))
        for metrics in (True, False, True, False):
            within(given.uri, Path(name) / str(time.time_ns()), given.limit, metrics)


if __name__ == "__main__":
    main()
