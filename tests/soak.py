"""Kills every stage at random moments, again and again: `make soak`, or `python -m tests.soak --kills 1000 --seed 0`.

In a copy of the project a tiny random checkpoint answers one task. A round takes one stage: what it makes is removed,
its command is begun and killed a few times (SIGKILL, SIGTERM, SIGINT; at a moment that is uniform over the stage, or
just before one of its writes; of `dvc repro` a child, the parent alone, or all of them), then the same command goes on
to its end. After each kill, what stands under its own name has the bytes of an unbroken run; at the end of a round all
of it stands there. At the end of all rounds MLflow holds each cell once.

Started again, it goes on where it stopped: the copy and the list of kills are in --folder. The seed decides stages,
signals and moments. What a moment meets depends on the speed of the machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from src import report
from src.base import grid
from src.base.files import ROOT
from tests import scratch, warm
from tests.test_recovery import KILLED_AT
from tests.tiny import tiny

MODEL, TASK, SOURCE = "llama_7b", "rhyming", "rhyming"  # the model's YAML gets a tiny random checkpoint
CONDITIONS = ("closed_adv_zero", "closed_adv_few")
EXPERIMENT = "emergence-audit (random)"
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
PATIENCE = 1200.0  # seconds for one command on a busy machine
STORED = ("data/store", "data/cells")  # what a run goes on from


@dataclass(frozen=True)
class Stage:
    """One command, and what it makes. gone: what is removed before a round, so that there is something to do."""

    words: tuple[str, ...]
    makes: tuple[str, ...]
    gone: tuple[str, ...] = ()
    children: bool = False  # it works in processes of its own


STAGES = {
    "fetch": Stage(("src.fetch", SOURCE), (f"data/raw/{SOURCE}",)),
    "prepare": Stage(("src.prepare",), ("data/tasks",)),
    "run": Stage(("src.run", f"+model={MODEL}", f"out=data/outputs/{MODEL}"), (f"data/outputs/{MODEL}",), STORED),
    "sync": Stage(
        ("src.tracking", "sync", f"tracking.experiment='{EXPERIMENT}'"), (),
        ("mlflow.db", "mlflow.db-wal", "mlflow.db-shm"),
    ),
    "hashes": Stage(("src.verify", "--publish"), ("reports/hashes",)),
    "collect": Stage(("src.collect",), ("data/scores.parquet",)),
    "stats": Stage(("src.stats",), ("data/stats",)),
    "audit": Stage(("src.audit",), ("data/audit",)),
    "fidelity": Stage(("src.fidelity",), ("data/fidelity",)),
    "report": Stage(("src.report",), tuple(report.OUTS)),
    "repro": Stage(
        ("dvc", "repro", "collect"), ("data/tasks", f"data/outputs/{MODEL}", "data/scores.parquet", "dvc.lock"),
        (".dvc/cache", ".dvc/tmp/rwlock", *STORED), children=True,
    ),
    "release": Stage(("src.release", "dist/soak.zip"), ("dist/soak.zip",)),
}  # fmt: skip
CELLS = """
select name.value, status, completions.value from runs
join tags as kind on kind.run_uuid = runs.run_uuid and kind.key = 'kind' and kind.value = 'cell'
join tags as name on name.run_uuid = runs.run_uuid and name.key = 'fingerprint'
left join tags as completions on completions.run_uuid = runs.run_uuid and completions.key = 'completions_sha256'
where lifecycle_stage = 'active'
"""
KEPT = ("dvc.lock",)  # made, but never removed before a round: git has it


@dataclass
class Soak:
    """A copy of the project, what an unbroken run made there, and the kills so far."""

    folder: Path
    seed: int
    unbroken: dict[str, dict[str, str]] = field(default_factory=dict)  # stage -> path -> sha256
    seconds: dict[str, float] = field(default_factory=dict)  # that a stage takes
    writes: dict[str, int] = field(default_factory=dict)  # that it makes
    cells: int = 0
    kills: list[dict[str, Any]] = field(default_factory=list)
    rounds: int = 0
    open: str | None = None  # the stage whose round is not at its end

    @property
    def project(self) -> Path:
        """The copy."""
        return self.folder / "project"

    def save(self) -> None:
        """Keep what was done, so that a soak that is killed goes on, too."""
        part = self.folder / "soak.part"
        part.write_text(json.dumps({k: v for k, v in vars(self).items() if k != "folder"}, indent=1))
        part.replace(self.folder / "soak.json")

    # ---- One command

    def start(self, stage: Stage, *before: str) -> warm.Running:
        """Begin a stage's command in the copy."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        env = {**warm.QUIET, "DATA_DIR": str(self.folder / "given"), "PATH": path, "HF_HUB_OFFLINE": "1"}
        return warm.started(*before, *stage.words, cwd=self.project, both=True, env=env)

    def finish(self, name: str, *before: str) -> str:
        """Run a stage to its end, and give what it says. What it made has to be that of the unbroken run."""
        running = self.start(STAGES[name], *before)
        said, _ = running.communicate(PATIENCE)
        if running.returncode != 0:
            raise Broken(f"{name}: the same command ends with {running.returncode}\n{said[-3000:]}")
        if name in self.unbroken:
            self.compare(name, whole=True)
        return said

    def made(self, name: str) -> dict[str, str]:
        """path -> sha256 of what stands under its own name."""
        found: dict[str, str] = {}
        for out in STAGES[name].makes:
            place = self.project / out
            for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
                if path.is_file() and path.suffix != ".part":
                    found[str(path.relative_to(self.project))] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def compare(self, name: str, whole: bool) -> None:
        """Every file that is there has the unbroken run's bytes. whole: every file is there."""
        here, there = self.made(name), self.unbroken[name]
        wrong = [path for path, sha256 in here.items() if path not in KEPT and there.get(path) != sha256]
        missing = [path for path in there if path not in here]
        if wrong or (whole and (missing or here != there)):
            raise Broken(f"{name}: {wrong or missing or 'dvc.lock'} differs from the unbroken run")

    def remove(self, name: str) -> None:
        """Remove what a stage makes, as DVC does before it, and what it would go on from."""
        stage = STAGES[name]
        for out in (*stage.makes, *stage.gone):
            place = self.project / out
            if place.is_dir():
                shutil.rmtree(place)
            elif out not in KEPT:
                place.unlink(missing_ok=True)

    # ---- The copy

    def copy(self) -> None:
        """Make the copy of the project, with a small grid and a tiny random checkpoint."""
        shutil.rmtree(self.project, ignore_errors=True)
        self.project.mkdir(parents=True)
        given = self.folder / "given" / SOURCE
        scratch.linked(ROOT / "data/raw" / SOURCE, given)
        if not given.is_dir():
            sys.exit(f"error: data/raw/{SOURCE} is not here. Get it: dvc repro fetch@{SOURCE}")
        scratch.clone(self.project)
        weights = tiny("llama", self.folder / "weights")
        place = self.project / f"conf/model/{MODEL}.yaml"
        place.write_text(place.read_text() + f"path: {weights}\nweights: random\ndtype: float32\ntasks: null\n")
        asked = {
            "models": [MODEL], "tasks": [TASK], "sources": [SOURCE], "conditions": [*CONDITIONS], "seeds": [2266, 105],
            "limit": 12,
        }  # fmt: skip
        (self.project / "params.yaml").write_text(json.dumps(grid.composed_params(["suite=pilot"]) | asked))
        shutil.rmtree(self.project / "reports/hashes")
        (self.project / "dvc.lock").unlink()
        self.save()

    def measure(self, last: str) -> None:
        """The unbroken run, up to this stage: what each stage makes, how long it takes, how often it writes."""
        warm.ran("-c", "pass", cwd=self.project)  # the first start imports for all
        names = list(STAGES)
        for name in names[: names.index(last) + 1]:
            if name in self.unbroken:
                continue
            if name == "release":
                scratch.commit(self.project)
            self.remove(name)
            counting = () if STAGES[name].children else ("-c", KILLED_AT, "0", "0")
            began = time.monotonic()
            said = self.finish(name, *counting)
            self.seconds[name] = time.monotonic() - began
            self.writes[name] = int(said.split()[-1]) if counting else 0
            self.unbroken[name] = self.made(name)
            self.cells = self.logged() if name == "run" else self.cells
            self.save()
            print(f"unbroken {name}: {self.seconds[name]:.1f} s, {self.writes[name]} writes", flush=True)

    def logged(self) -> int:
        """Cells in MLflow. Raises Broken where one is there twice or incomplete."""
        with closing(
            sqlite3.connect(self.project / "mlflow.db")
        ) as database:  # MLflow's client keeps a removed file open
            rows = database.execute(CELLS).fetchall()
        twice = [name for name, count in Counter(name for name, _, _ in rows).items() if count > 1]
        if twice:
            raise Broken(f"MLflow holds {len(twice)} cells more than once")
        return sum(status == "FINISHED" and bool(completions) for _, status, completions in rows)

    # ---- Kills

    def round(self, most: int, names: Sequence[str]) -> None:
        """Kill one stage a few times, then let it end."""
        chance = random.Random(f"{self.seed}/{self.rounds}")
        weights = [(3 if STAGES[each].gone else 1) * max(self.seconds[each], 1.0) ** -0.5 for each in names]
        name = chance.choices(names, weights)[0]  # short ones and those that go on from something kept more often
        self.open = name
        self.save()
        self.remove(name)
        for _ in range(min(most, chance.randint(2, 5))):
            at_work = self.kill(name, chance)
            self.compare(name, whole=False)
            if not at_work:
                break
        print(f"round {self.rounds}, {name}: {len(self.kills)} kills so far", flush=True)
        self.finish(name)
        if name in ("run", "sync", "repro") and self.logged() != self.cells:
            raise Broken(f"{name}: MLflow holds {self.logged()} of {self.cells} cells")
        self.rounds, self.open = self.rounds + 1, None
        self.save()

    def kill(self, name: str, chance: random.Random) -> bool:
        """Begin a stage and kill it. Whether it was at work then."""
        end = chance.choice(SIGNALS)
        share, whom = chance.random(), chance.choice(("all", "parent", "child"))
        at_write = chance.random() < 0.4 and self.writes.get(name, 0) > 0
        if at_write:
            place = chance.randint(1, self.writes[name])
            running = self.start(STAGES[name], "-c", KILLED_AT, str(place), str(int(end)))
            running.communicate(PATIENCE)
            at_work = running.returncode != 0
            how = f"write {place} of {self.writes[name]}"
        else:
            running = self.start(STAGES[name])
            until = time.monotonic() + share * self.seconds[name]
            while time.monotonic() < until and running.poll() is None:
                time.sleep(0.005)
            at_work = running.poll() is None
            how = f"{share:.3f} of {self.seconds[name]:.1f} s"
            if at_work:
                how += self.signalled(running.pid, end, whom if STAGES[name].children else "parent")
                running.communicate(PATIENCE)
        self.kills.append({"stage": name, "signal": end.name, "how": how, "at_work": at_work})
        self.save()
        return at_work

    def signalled(self, pid: int, end: signal.Signals, whom: str) -> str:
        """Send the signal. Children that outlive their parent are waited for, as a second command would find them."""
        parent = psutil.Process(pid)
        children = parent.children(recursive=True)
        chosen = {"all": [parent, *children], "parent": [parent], "child": children[-1:] or [parent]}[whom]
        for each in chosen:
            try:
                each.send_signal(end)
            except psutil.NoSuchProcess:
                continue
        if whom != "child":
            psutil.wait_procs(children, timeout=PATIENCE)
        return f", {whom}" if children else ""

    def line(self, began: float) -> str:
        """The result in one line."""
        at_work = [kill for kill in self.kills if kill["at_work"]]
        by_stage, by_signal = (Counter(kill[name] for kill in at_work) for name in ("stage", "signal"))
        child = sum("child" in kill["how"] or "all" in kill["how"] for kill in at_work)
        write = sum(kill["how"].startswith("write") for kill in at_work)
        stages = ", ".join(f"{name} {by_stage[name]}" for name in STAGES)
        signals = ", ".join(f"{name} {count}" for name, count in sorted(by_signal.items()))
        return (
            f"soak, seed {self.seed}: {len(self.kills)} kills sent, {len(at_work)} while a process was at work: "
            f"{stages}; {signals}; {write} just before a write, {child} of child processes. {self.rounds} rounds ended "
            f"in the bytes of an unbroken run; MLflow holds {self.cells} cells, each once. "
            f"{time.monotonic() - began:.0f} s"
        )


class Broken(Exception):
    """A kill did harm."""


def opened(folder: Path, seed: int) -> Soak:
    """The soak of a folder, with what was done there."""
    kept = folder / "soak.json"
    if not kept.is_file():
        return Soak(folder, seed)
    soak = Soak(folder, **json.loads(kept.read_text()))
    if soak.seed != seed:
        sys.exit(f"error: {folder} holds a soak with seed {soak.seed}. Name another --folder")
    return soak


def code() -> str:
    """What the copy was made of, in a few digits: another code has another folder."""
    files = sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "conf").rglob("*.yaml"), Path(__file__)])
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def main(argv: Sequence[str]) -> int:
    """Run rounds until so many kills are sent or the time is up. 0: all is well. 1: a kill did harm."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", default=",".join(STAGES), help="those that are killed")
    parser.add_argument("--minutes", type=float, default=30.0, help="of this call; the next one goes on")
    parser.add_argument(
        "--folder", type=Path, help="of the copy and the list of kills; default: in the temporary folder"
    )
    given = parser.parse_args(argv)
    names = given.stages.split(",")
    if unknown := [name for name in names if name not in STAGES]:
        parser.error(f"no stage is named {unknown[0]}. There are: {', '.join(STAGES)}")
    folder = given.folder or Path(tempfile.gettempdir()) / f"emergence-audit-soak-{given.seed}-{code()}"
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    soak = opened(folder.resolve(), given.seed)
    print(f"soak: {soak.folder}", flush=True)
    try:
        if not (soak.folder / "soak.json").is_file():
            soak.copy()
        soak.measure(max(names, key=list(STAGES).index))
        if soak.open:
            soak.finish(soak.open)
            soak.open = None
        while len(soak.kills) < given.kills and time.monotonic() - began < 60 * given.minutes:
            soak.round(given.kills - len(soak.kills), names)
    except Broken as error:
        print(f"soak, seed {given.seed}: round {soak.rounds} broke: {error}\nits kills: {soak.kills[-5:]}")
        return 1
    print(soak.line(began))
    if len(soak.kills) < given.kills:
        print(f"{given.kills - len(soak.kills)} kills are left: the same command goes on")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
