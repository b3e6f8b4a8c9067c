"""Did I get what was published here? A fresh run beside the committed one, a release or the store beside itself.

Without BUNDLE: completions, scores and tables of data/outputs (after `dvc repro`) against those committed at REVISION;
with --recompute the cells of params.yaml, or those the overrides name, are computed anew in a temporary folder first.
With BUNDLE (made by `make release`): tables recomputed from its scores; its completions scored again; or some of its
completions generated again.
With --reference: the cells of a finished `make laptop` or `make pair` against data/reference/laptop.csv or pair.csv.
With --store: some records of the example store (data/store, or FOLDER), drawn by --seed, are computed again. Looked at
are those that the cells of params.yaml, or of the overrides, name. --drop removes the wrong ones, so that the next run
computes them again.

Examples:
  python -m src.verify
  python -m src.verify --recompute token_budget=2048 'tasks=[social_iqa]'
  python -m src.verify dist/mine.zip --level sample --m 60
  python -m src.verify --reference pair
  python -m src.verify --store --m 200

Exit code: 0 identical, 3 differs only at near-ties, 4 differs, 1 could not be compared, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from src import audit, collect, release, report, run, stats
from src.base import git, grid
from src.base.cli import explained
from src.base.errors import UserError
from src.base.files import ROOT
from src.base.schema import Cell, Run
from src.cell import stored
from src.cell.compare import OWN_RUNS, compare, differing_scores, moved_scores, reference_findings
from src.cell.file import path_of, write_cell
from src.cell.finding import DIFFERS, EXIT, IDENTICAL, NEAR_TIES, RANK, Finding, worst
from src.cell.hashes import HASHES, KEY, PLACE, TEXTS, hashes, publish
from src.cell.last_digits import LAST_DIGITS, difference, file_difference
from src.cell.ledger import DONE, Entry
from src.cell.regenerated import Sample, regenerated
from src.cell.released import rebuilt_cells
from src.engine import start
from src.engine.job import Request
from src.lab.moved import uri_of
from src.pages.tables import load_tables, rows_of, to_csv
from src.question import examples, prompts
from src.statistics import own, rows

if TYPE_CHECKING:
    import pandas as pd

TABLES = [out for out in report.OUTS if out.startswith("reports/")]
LEVELS = ("tables", "scores", "sample")


def committed(revision: str, path: str) -> pd.DataFrame:
    """A csv file as a revision holds it. Raises UserError where it does not."""
    import pandas as pd

    return pd.read_csv(io.BytesIO(git_output("show", f"{revision}:./{path}")), dtype=TEXTS)


def git_output(*words: str) -> bytes:
    """What git prints. Raises UserError where it fails."""
    try:
        git.tracked(ROOT)
    except UserError as error:
        raise UserError(f"What was published is read out of git. {error}") from error
    try:
        return git.git(*words, root=ROOT)
    except UserError as error:
        raise UserError(
            f"What was published cannot be read: {error}. Name a commit that holds it: --against <revision>"
        ) from error


def own_runs(scores: pd.DataFrame) -> pd.DataFrame:
    """The statistics of some scores: rows of reports/tables/own_runs.csv, unrounded."""
    setting = stats.read_setting(ROOT)
    return rows.complete(own.own_rows(scores, setting), setting)


def table_findings(revision: str, cells_verdict: str) -> list[Finding]:
    """A finding per file of the report. Where completions differ at near-ties, files made of them may differ too."""
    tracked = git_output("ls-tree", "-r", "--name-only", revision, "--", *TABLES).decode().splitlines()
    changed = set(git_output("diff", "--name-only", "--relative", revision, "--", *TABLES).decode().splitlines())
    findings = {path: Finding(path, IDENTICAL) for path in tracked}
    here = (path for out in TABLES for path in ([ROOT / out, *(ROOT / out).rglob("*")]) if path.is_file())
    added = sorted({path.relative_to(ROOT).as_posix() for path in here} - set(tracked))
    findings |= {path: Finding(path, DIFFERS, ("not published",)) for path in added}
    for path in sorted(changed & set(tracked), reverse=True):  # a drawing (svg) before its picture (png)
        findings[path] = changed_file(revision, path, cells_verdict, findings.get(str(Path(path).with_suffix(".svg"))))
    return list(findings.values())


def changed_file(revision: str, path: str, cells_verdict: str, drawing: Finding | None) -> Finding:
    """Whether a file with other bytes differs in more than last digits. A png gets the verdict of its svg."""
    if not (ROOT / path).exists():
        return Finding(path, DIFFERS, ("missing here",))
    if path.endswith(".png") and drawing:
        return replace(drawing, name=path, notes=drawing.notes or (LAST_DIGITS,))
    before, after = git_output("show", f"{revision}:./{path}"), (ROOT / path).read_bytes()
    note = file_difference(path, before, after, margins=cells_verdict == IDENTICAL)
    status = NEAR_TIES if cells_verdict == NEAR_TIES else DIFFERS
    return Finding(path, status, (note,)) if note else Finding(path, IDENTICAL, (LAST_DIGITS,))


def fresh_outputs(revision: str) -> tuple[list[Finding], list[Finding], float | None]:
    """(cells, tables, largest log-likelihood difference) of data/outputs, data/scores.parquet and reports/."""
    published, fresh = _published(revision), hashes(ROOT / collect.OUTPUTS)
    if fresh["completions"].empty:
        raise UserError(f"{collect.OUTPUTS} holds no cell. Make them: dvc repro; or: python -m src.verify --recompute")
    scores = _scores(ROOT / collect.SCORES, fresh["completions"])
    cells, largest = compare(published, fresh, moved_scores(committed(revision, OWN_RUNS), own_runs(scores)))
    return cells, table_findings(revision, worst(cells)), largest


def _published(revision: str) -> dict[str, pd.DataFrame]:
    return {name: committed(revision, f"{HASHES}/{name}.csv") for name in ("completions", "likelihoods")}


def _scores(path: Path, fresh: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    if not path.exists():
        raise UserError(f"{path.relative_to(ROOT)} is missing. Make it: dvc repro collect")
    scores = pd.read_parquet(path)
    if set(scores["fingerprint"]) != set(fresh["fingerprint"]):
        raise UserError(f"{path.relative_to(ROOT)} is not of the cells in {collect.OUTPUTS}. Make it: dvc repro")
    return scores


def fresh_reference(revision: str, name: str) -> list[Finding]:
    """A finding per cell of data/<name>/scores.parquet, beside data/reference/<name>.csv of a revision."""
    import pandas as pd

    path = stats.REFERENCE / f"{name}.csv"
    with tempfile.TemporaryDirectory() as folder:
        stats.reference(Path("data") / name / "scores.parquet", Path(folder) / path.name, ROOT)
        published = io.BytesIO(git_output("show", f"{revision}:./{path.as_posix()}"))
        both = [pd.read_csv(each, dtype=str, keep_default_na=False) for each in (published, Path(folder) / path.name)]
    return reference_findings(*both)


def recomputed(revision: str, words: Sequence[str]) -> tuple[list[Finding], list[Finding], float | None]:
    """The cells of params.yaml with these overrides, computed anew. Neither the store nor MLflow is written to.

    A part of a published cell (limit=8, seeds=[105]) is compared with that part, and its scores with nothing.
    """
    published = _published(revision)
    with tempfile.TemporaryDirectory() as folder:
        runs = [anew(asked, Path(folder)) for asked in runs_of(words)]
        failed = [finding for asked in runs for finding in _not_done(asked)]
        outputs = Path(folder) / "outputs"
        fresh = hashes(outputs)
        published = {name: asked_for(frame, fresh[name]) for name, frame in published.items()}
        whole = set(published["completions"]["fingerprint"]) & set(fresh["completions"]["fingerprint"])
        moved = moved_scores(committed(revision, OWN_RUNS), own_runs(collect.collect(outputs))) if whole else {}
    cells, largest = compare(published, fresh, moved)
    return [*cells, *failed], [], largest


def runs_of(words: Sequence[str]) -> list[Run]:
    """A Run per model of params.yaml, or of the one that +model=... names."""
    models = [] if any(word.startswith("+model=") for word in words) else grid.params()["models"]
    return [grid.composed_run([f"+model={name}", *words]) for name in models] or [grid.composed_run(words)]


def anew(asked: Run, folder: Path) -> list[Entry]:
    """Every cell of a Run into `folder`, by the code that makes DVC's outputs."""
    apart = replace(
        asked, store=folder / "store", out=folder / "outputs" / asked.model.name,
        tracking={"uri": uri_of(folder / "runs.db"), "experiment": "verify"},
    )  # fmt: skip
    return [outcome.entry for outcome in run.run_all(apart, apart.cells, check=lambda: None)]


def _not_done(entries: Sequence[Entry]) -> list[Finding]:
    return [
        Finding(f"{e.model}/{e.task}/{e.condition}", DIFFERS, (e.reason or e.status,))
        for e in entries if e.status != DONE
    ]  # fmt: skip


def asked_for(published: pd.DataFrame, fresh: pd.DataFrame) -> pd.DataFrame:
    """The published rows that a fresh run was asked for. A cell of which it has a part loses its fingerprint."""
    asked = published.merge(fresh[[name for name in KEY if name in published]])
    if "fingerprint" not in asked:
        return asked
    before, after = (frame.groupby(PLACE)["id"].transform("size") for frame in (published, fresh))
    sizes = published[PLACE].assign(before=before).drop_duplicates()
    sizes = sizes.merge(fresh[PLACE].assign(after=after).drop_duplicates())
    part = sizes.loc[sizes["before"] != sizes["after"], PLACE].assign(part=True)
    is_part = asked[PLACE].merge(part, how="left")["part"].notna().to_numpy()
    return asked.assign(fingerprint=asked["fingerprint"].mask(is_part))


def recomputed_tables(root: Path) -> dict[str, str]:
    """The csv of every table that the scores, data/published and data/reference under `root` lead to, by name.

    Writes data/stats and data/audit there. What data/fidelity holds is taken as it is.
    """
    stats.run(root)
    setting = stats.read_setting(root)
    if not audit.unprepared(setting):
        audit.write(audit.audit_frames(root, setting), root)
    tables = [t for t in load_tables(root) if "*" in t.frame or (root / t.frame.partition("#")[0]).exists()]
    return {t.name: to_csv(rows_of(root, t), t) for t in tables if not t.quotes_data}


def check_tables(root: Path) -> list[Finding]:
    """A finding per table of a release, which says whether the release's scores lead to it."""
    released = {path.stem: path.read_text(encoding="utf-8") for path in sorted((root / "reports/tables").glob("*.csv"))}
    made = recomputed_tables(root)
    return [compared_table(name, text, made.get(name, "")) for name, text in released.items()]


def compared_table(name: str, kept: str, made: str) -> Finding:
    """A table of a release beside the one that its scores lead to."""
    note = difference(kept, made) or (LAST_DIGITS if kept != made else "")
    status = IDENTICAL if note in ("", LAST_DIGITS) else DIFFERS
    return Finding(f"table {name}", status, (note,) if note else ())


def check_scores(root: Path, words: Sequence[str]) -> list[Finding]:
    """A finding per cell of a release, which says whether its completions lead to its scores. Needs no weights."""
    import pandas as pd

    every = rebuilt_cells(root, words)
    sound = [each for each in every if not each.faults]
    for each in sound:
        folder = root / "data/outputs" / each.head.model
        write_cell(path_of(folder, each.head.task, each.head.condition), each.head, each.answers)
    fresh = collect.collect(root / "data/outputs") if sound else pd.DataFrame(columns=PLACE)
    published = pd.read_parquet(root / collect.SCORES)
    findings = [Finding(each.name, DIFFERS, each.faults) for each in every if each.faults]
    for each in sound:
        parts = (frame[(frame[PLACE] == each.name.split("/")).all(axis=1)] for frame in (published, fresh))
        notes = differing_scores(*parts)
        findings.append(Finding(each.name, DIFFERS if notes else IDENTICAL, tuple(notes)))
    scored = {"/".join(place) for place in published[PLACE].itertuples(index=False)}
    lost = sorted(scored - {each.name for each in every})
    return [*findings, *(Finding(name, DIFFERS, ("scores without completions",)) for name in lost)]


def check_sample(root: Path, words: Sequence[str], m: int, seed: int) -> list[Finding]:
    """m completions of a release, drawn by `seed`, generated again with the weights.

    Raises UserError where weights or settings are not those of the release.
    """
    every = rebuilt_cells(root, words)
    faults = [Finding(each.name, DIFFERS, each.faults) for each in every if each.faults]
    pool = [(i, n, s) for i, each in enumerate(every) for n, a in enumerate(each.answers) for s in a.completions]
    sample = random.Random(seed).sample(pool, min(m, len(pool)))
    engine = functools.cache(lambda name: start.engine_of(next(e.run for e in every if e.run.model.name == name)))
    wrong, near, notes = 0, 0, []
    for i in sorted({i for i, _, _ in sample}):
        chosen: dict[int, tuple[int, ...]] = {}
        for n, s in sorted((n, s) for j, n, s in sample if j == i):
            chosen[n] = (*chosen.get(n, ()), s)
        for status, note in regenerated(every[i], engine(every[i].run.model.name), chosen):
            wrong, near = wrong + (status == DIFFERS), near + (status == NEAR_TIES)
            notes += [note] if note else []
    return [*faults, Sample(len(sample), len(pool), wrong, near, tuple(notes)).finding()]


def check(bundle: Path, level: str, words: Sequence[str], m: int, seed: int) -> list[Finding]:
    """The findings of one level on a release, its checksums first. Raises UserError for what is no release."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        changed = release.unpacked(bundle, root)
        checksums = Finding("checksums", DIFFERS if changed else IDENTICAL, tuple(changed))
        if changed:  # no need to look further
            return [checksums]
        if level == "tables":
            return [checksums, *check_tables(root)]
        if level == "scores":
            return [checksums, *check_scores(root, words)]
        return [checksums, *check_sample(root, words, m, seed)]


def check_store(folder: Path | None, words: Sequence[str], m: int, seed: int, drop: bool) -> Finding:
    """m records of an example store, drawn by `seed`, computed again. drop: the wrong ones are removed.

    folder: by default the store of the runs that `words` name. Raises UserError where there is nothing to compare.
    """
    runs = runs_of(words)
    folder = folder or runs[0].store
    store, damaged = stored.opened(folder)
    if not len(store):
        raise UserError(f"{folder} holds no whole record. Name a store: python -m src.verify --store FOLDER")
    asked: list[stored.Asked] = []
    skipped = [note for each in runs for note in _ask(each, asked)]
    done = stored.checked(store, asked, m, seed)
    if done is None:
        why = "; ".join(skipped[:3]) or "name the run that made them: +model=... suite=..."
        raise UserError(f"none of the {len(store):,} records of {folder} could be compared ({why})")
    notes = [*damaged, *(f"skipped: {each}" for each in skipped)]
    if done.wrong:
        cells = ", ".join(dict.fromkeys(done.wrong.values()))
        notes.append(f"what was made of wrong records is wrong too; run these cells again: {cells}")
        remedy = "the same command with --drop removes them, and the next run computes them again"
        if drop:
            store.drop(done.wrong)
            remedy = "removed from the store: the next run computes them again"
        rest = f"; there may be more: --m {done.sample.population} looks at every record"
        notes.append(remedy + (rest if done.sample.m < done.sample.population else ""))
    return done.finding(*notes)


def _ask(each: Run, asked: list[stored.Asked]) -> list[str]:
    """Adds what the cells of a run ask to `asked`. Returns a note for the model, or the cells, that cannot be asked."""
    if each.serving.kind != "local":
        return [f"{each.model.name}: a server answers it, which costs and need not say the same again"]
    skipped = []
    try:
        engine = start.engine_of(each)
    except UserError as error:
        return [f"{each.model.name}: {str(error).removeprefix(f'{each.model.name}: ')}"]
    for cell in each.cells:
        try:
            requests = _requests(each, cell)
        except UserError as error:
            skipped.append(f"{each.model.name}/{cell.name}: {error}")
        else:
            asked.append(stored.Asked(f"{each.model.name}/{cell.name}", engine, requests))
    return skipped


def _requests(each: Run, cell: Cell) -> tuple[Request, ...]:
    shots, tests, _ = examples.load(cell.task.name, each.data)
    earlier = grid.tasks_before(each, cell) if each.compat.template_leak else ()
    return tuple(run.wanted(each, prompts.ask(tests, shots, cell.task, cell.condition, each.limit, earlier)))


def say(
    findings: Sequence[Finding], tables: Sequence[Finding] = (), largest: float | None = None, what: str = "cells"
) -> int:
    """Print a line per cell and per table that is not as published, and the verdict; its exit code."""
    for finding in [*findings, *(t for t in tables if t.status != IDENTICAL)]:
        print(f"{finding.status:26}{finding.name}", *finding.notes, sep="\n    ")
    print(_count(what, findings))
    if largest is not None:
        print(f"log-likelihoods: largest difference {largest:.2g}")
    if tables:
        print(_count("tables, figures and pages", tables))
    moved = sum(LAST_DIGITS in f.notes for f in [*findings, *tables])
    if moved:
        print(f"{moved} file{' differs' if moved == 1 else 's differ'} in last digits")
    verdict = worst([*findings, *tables])
    print(f"verdict: {verdict}")
    return EXIT[verdict]


def _count(what: str, findings: Sequence[Finding]) -> str:
    counts = {status: sum(f.status == status for f in findings) for status in RANK}
    return f"{len(findings)} {what}: " + ", ".join(f"{n} {status}" for status, n in counts.items() if n)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="python -m src.verify", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument(
        "words",
        nargs="*",
        metavar="BUNDLE | FOLDER | key=value",
        help="a release; with --store a store; overrides as for src.run",
    )
    arguments.add_argument("--level", choices=LEVELS, default=LEVELS[0], help="how deep to look into BUNDLE")
    arguments.add_argument("--m", type=int, default=60, help="completions or records to compute again (60)")
    arguments.add_argument("--seed", type=int, default=0, help="which ones (0)")
    arguments.add_argument("--store", action="store_true", help="compute records of the example store again")
    arguments.add_argument("--drop", action="store_true", help="with --store: remove the wrong records that are found")
    arguments.add_argument("--against", default="HEAD", metavar="REVISION", help="commit that holds what was published")
    arguments.add_argument("--recompute", action="store_true", help="compute the cells anew, in a temporary folder")
    arguments.add_argument(
        "--reference", choices=["laptop", "pair"], help="compare that suite's cells with the committed"
    )
    arguments.add_argument("--publish", action="store_true", help=f"write {HASHES} of {collect.OUTPUTS} (a DVC stage)")
    return arguments


def execute(given: argparse.Namespace) -> int:
    """The exit code of what the command line asks for. Raises UserError."""
    overrides = [word for word in given.words if "=" in word]
    bundles = [Path(word) for word in given.words if "=" not in word]
    if given.store:
        if len(bundles) > 1 or given.recompute or given.publish or given.m < 1:
            raise UserError("--store takes one FOLDER, no --recompute and no --publish, and --m of 1 or more")
        if missing := [each for each in bundles if not each.is_dir()]:
            raise UserError(f"{missing[0]} is no folder. Name a store, e.g. data/store")
        found = check_store(bundles[0] if bundles else None, overrides, given.m, given.seed, given.drop)
        return say([found], what="checks")
    if given.drop:
        raise UserError("--drop removes wrong records of a store: python -m src.verify --store --drop")
    if given.reference:
        if given.words or given.recompute or given.publish:
            raise UserError("--reference takes no BUNDLE, no override, no --recompute and no --publish")
        return say(fresh_reference(given.against, given.reference))
    if given.publish:
        publish(ROOT / collect.OUTPUTS, ROOT / HASHES)
        return 0
    if bundles:
        if len(bundles) > 1 or given.recompute or given.m < 1:
            raise UserError("one BUNDLE at a time, without --recompute, and --m of 1 or more")
        return say(check(bundles[0], given.level, overrides, given.m, given.seed), what="checks")
    if overrides and not given.recompute:
        raise UserError(f"{overrides[0]} asks for another run. Compute it: python -m src.verify --recompute ...")
    if given.recompute:
        return say(*recomputed(given.against, overrides))
    return say(*fresh_outputs(given.against))


def main() -> None:
    """`python -m src.verify`. A user's mistake is one line on stderr and exit code 1."""
    given = parser().parse_intermixed_args()
    with contextlib.chdir(ROOT):
        sys.exit(explained("verify", lambda: execute(given)))


if __name__ == "__main__":
    main()
