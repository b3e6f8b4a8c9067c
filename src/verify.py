"""Did I get what was published here? A fresh run beside the committed one, or a release beside itself.

Without BUNDLE: completions, scores and tables of data/outputs (after `dvc repro`) against those committed at REVISION;
with --recompute the cells of params.yaml, or those the overrides name, are computed anew in a temporary folder first.
With BUNDLE (made by `make release`): tables recomputed from its scores; its completions scored again; or some of its
completions generated again.

Examples:
  python -m src.verify
  python -m src.verify --recompute token_budget=2048 'tasks=[social_iqa]'
  python -m src.verify dist/emergence-audit-0.1.0.zip --level sample --m 60

Exit code: 0 identical, 3 differs only at near-ties, 4 differs, 1 could not be compared, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import io
import json
import math
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src import cells, claims, collect, config, data, prompts, release, report, run, stats
from src.cells import Answers, Header
from src.config import ROOT, Cell, Run, UserError
from src.engine import Engine, Request, Result
from src.engine.local import NEAR_TIE
from src.frames import write_csv

if TYPE_CHECKING:
    import pandas as pd

IDENTICAL, UNPUBLISHED = "identical", "not published"
NEAR_TIES, DIFFERS = "differs only at near-ties", "differs"
EXIT = {IDENTICAL: 0, NEAR_TIES: 3, DIFFERS: 4}
RANK = (IDENTICAL, UNPUBLISHED, NEAR_TIES, DIFFERS)
HASHES = Path("reports/hashes")
OWN_RUNS = "reports/tables/own_runs.csv"
TABLES = [out for out in report.OUTS if out.startswith("reports/")]
PLACE = ["model", "task", "condition"]
KEY = [*PLACE, "id", "seed"]
TEXTS = {"fingerprint": str, "sha256": str}  # some look like a number
SCORED = ["n", "k", "accuracy", "ci_low", "ci_high"]
LEVELS = ("tables", "scores", "sample")
DIGITS = 16  # of a text's sha256
NUMBER = re.compile(  # a sign, digits, an exponent with a sign; beside a letter or a second point they are text
    r"(?<![\w.])(?:[-+−]|\$-\$)?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+][0-9]{1,3})?(?!\.?\w)"
)
ZERO = {"0", "-0", "+0"}
RELATIVE, ABSOLUTE = 1e-4, 1e-9  # numbers closer than this are the same: the rest is order of summation
UNIT = 1e-3  # one unit of the last digit is rounding where it is no more than this, of one or of the number
EXACT, ROUNDED = {".csv", ".json"}, {".html", ".md", ".svg", ".tex"}  # as computed; rounded to be read
MARGINS = re.compile(r'<table[^>]* id="near_ties".*?</table>', re.DOTALL)  # on the page
LAST_DIGITS = "last digits"
LOGPROB = 1e-4  # log-likelihoods closer than this, absolute or relative, are the same: the rest is order of summation


@dataclass(frozen=True)
class Finding:
    """What was found about one cell, table or step."""

    name: str
    status: str
    notes: tuple[str, ...] = ()


def worst(findings: Sequence[Finding]) -> str:
    """The verdict over all of them; what was never published does not count."""
    found = max((f.status for f in findings), key=RANK.index, default=IDENTICAL)
    return IDENTICAL if found == UNPUBLISHED else found


# ---- what is published -----------------------------------------------------------------------


def text_hash(text: str) -> str:
    """The first DIGITS hex digits of a text's sha256."""
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def hashes(outputs: Path) -> dict[str, pd.DataFrame]:
    """completions (a row per completion) and likelihoods (a row per prompt) of the cells under `outputs`; no text."""
    import pandas as pd

    completed: list[dict[str, Any]] = []
    scored: list[dict[str, Any]] = []
    for path in cells.cell_files(outputs):
        head, answers = cells.read(path)
        place = head.chosen(PLACE)
        completed += [{**place, "fingerprint": head.fingerprint, **row} for a in answers for row in _completions(a)]
        scored += [{**place, "id": a.prompt.id, "logprob": _logprob(a)} for a in answers if a.likelihood]
    return {
        "completions": pd.DataFrame(completed, columns=[*PLACE, "fingerprint", "id", "seed", "sha256", "near_tie"]),
        "likelihoods": pd.DataFrame(scored, columns=[*PLACE, "id", "logprob"]),
    }


def _completions(answers: Answers) -> Iterator[dict[str, Any]]:
    for seed, one in sorted(answers.completions.items()):
        yield {"id": answers.prompt.id, "seed": seed, "sha256": text_hash(one.text), "near_tie": one.near_tie}


def _logprob(answers: Answers) -> str:
    return " ".join(f"{value:.8g}" for value in answers.likelihood.logprob) if answers.likelihood else ""


def publish(outputs: Path, folder: Path) -> None:
    """Write `hashes` as csv files. Raises UserError where there is no cell.

    A log-likelihood that stands there already and is the same (see LOGPROB) stays as it is written, and so does the
    margin of a near-tie whose completion is the same: what another machine's order of summation does is no change.
    """
    import pandas as pd

    found = hashes(outputs)
    if found["completions"].empty:
        raise UserError(f"{outputs} holds no cell. Make them: dvc repro infer")
    with contextlib.suppress(OSError, ValueError, KeyError):  # none there, or damaged (a merge): written anew
        before = pd.read_csv(folder / "likelihoods.csv", dtype={"logprob": str}, keep_default_na=False)
        found["likelihoods"] = settled(before, found["likelihoods"])
    with contextlib.suppress(OSError, ValueError, KeyError):
        before = pd.read_csv(folder / "completions.csv", dtype=TEXTS)
        found["completions"] = settled_margins(before, found["completions"])
    for name, frame in found.items():
        write_csv(frame, folder / f"{name}.csv")


def settled(before: pd.DataFrame, now: pd.DataFrame) -> pd.DataFrame:
    """The log-likelihoods `now`, those that are the same as `before` as they were written then."""
    same = log_likelihood_difference(before, now).query("same").drop(columns=["difference", "same"])
    kept = now.merge(same.merge(before), on=[*PLACE, "id"], how="left", suffixes=("", "_before"))
    return now.assign(logprob=kept["logprob_before"].fillna(kept["logprob"]).to_numpy())


def settled_margins(before: pd.DataFrame, now: pd.DataFrame) -> pd.DataFrame:
    """The completions `now`; where one is the same and near a tie then and now, with the margin of then."""
    names = [*KEY, "fingerprint", "sha256"]
    then = now.merge(before[[*names, "near_tie"]], on=names, how="left", suffixes=("", "_before"))
    then = then["near_tie_before"].set_axis(now.index).astype(float)
    return now.assign(near_tie=now["near_tie"].astype(float).mask(now["near_tie"].notna() & then.notna(), then))


def committed(revision: str, path: str) -> pd.DataFrame:
    """A csv file as a revision holds it. Raises UserError where it does not."""
    import pandas as pd

    return pd.read_csv(io.BytesIO(_git("show", f"{revision}:{path}")), dtype=TEXTS)


def _git(*words: str) -> bytes:
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise UserError("git is not installed, and what was published is read out of git") from error
    if done.returncode:
        said = (done.stderr.decode(errors="replace").strip().splitlines() or ["git failed"])[0]
        raise UserError(f"What was published cannot be read: {said}. Name a commit that holds it: --against <revision>")
    return done.stdout


# ---- two runs side by side ---------------------------------------------------------------------


def judged(published: pd.DataFrame, fresh: pd.DataFrame) -> pd.DataFrame:
    """A row per completion of either: KEY, fingerprint and fingerprint_published, margin, status.

    A completion that differs is a near-tie where either side had a decision closer than the engine's NEAR_TIE.
    """
    import numpy as np

    both = published.merge(fresh, on=KEY, how="outer", suffixes=("_published", ""), indicator="side")
    both["margin"] = both[["near_tie_published", "near_tie"]].astype(float).min(axis=1)
    same = (both["side"] == "both") & (both["sha256_published"] == both["sha256"])
    close = (both["side"] == "both") & both["margin"].notna()
    both["status"] = np.select([same, close], [IDENTICAL, NEAR_TIES], DIFFERS)
    return both


def log_likelihood_difference(published: pd.DataFrame, fresh: pd.DataFrame) -> pd.DataFrame:
    """A row per prompt that both have: PLACE, id, difference (largest over its options, nats), same (see LOGPROB)."""
    import numpy as np

    both = published.merge(fresh, on=[*PLACE, "id"], suffixes=("_published", ""))
    pairs = [
        [np.array(text.split(), dtype=float) for text in pair]
        for pair in both[["logprob_published", "logprob"]].itertuples(index=False)
    ]
    alike = [len(a) == len(b) for a, b in pairs]
    gaps = [float(np.abs(a - b).max()) if ok else np.inf for (a, b), ok in zip(pairs, alike, strict=True)]
    near = [ok and np.allclose(b, a, LOGPROB, LOGPROB) for (a, b), ok in zip(pairs, alike, strict=True)]
    return both[[*PLACE, "id"]].assign(difference=gaps, same=near)


def cell_finding(rows: pd.DataFrame, gaps: pd.DataFrame, moved: Sequence[str]) -> Finding:
    """One cell. rows: of `judged`; gaps: of `log_likelihood_difference`; moved: scores that are not the published."""
    name = "/".join(rows.iloc[0][PLACE])
    if rows["sha256_published"].isna().all():
        return Finding(name, UNPUBLISHED)
    if rows["sha256"].isna().all():
        return Finding(name, DIFFERS, ("not run here",))
    status = max(rows["status"], key=RANK.index)
    notes = [_completion_note(row) for row in rows[rows["status"] != IDENTICAL].head(5).to_dict("records")]
    settings = rows[["fingerprint", "fingerprint_published"]].dropna()
    if (settings["fingerprint"] != settings["fingerprint_published"]).any():
        status = DIFFERS
        notes.insert(0, "asked otherwise: prompts, data, weights or settings are not the published ones (fingerprint)")
    for row in gaps[~gaps["same"]].head(3).to_dict("records"):
        status = DIFFERS
        notes.append(f"{row['id']}: log-likelihood differs by {row['difference']:.3g}")
    if moved:
        status = DIFFERS if status == IDENTICAL else status
        notes += moved
    return Finding(name, status, tuple(notes))


def _completion_note(row: Mapping[str, Any]) -> str:
    what = f"margin {row['margin']:.3g}" if row["status"] == NEAR_TIES else _side(row)
    return f"{row['id']}, seed {row['seed']}: {what}"


def _side(row: Mapping[str, Any]) -> str:
    return {"left_only": "not run here", "right_only": "not published", "both": "another text"}[str(row["side"])]


def moved_scores(published: pd.DataFrame, fresh: pd.DataFrame) -> dict[str, list[str]]:
    """By fingerprint: every score that differs (see `same_number`). Both: rows of reports/tables/own_runs.csv."""
    columns = ["fingerprint", "metric", *SCORED]
    both = published[columns].merge(fresh[columns], on=columns[:2], how="inner", suffixes=("_published", ""))
    found: dict[str, list[str]] = {}
    for row in both.to_dict("records"):
        for name in SCORED:
            before, after = (f"{row[key]:.6g}" for key in (f"{name}_published", name))
            if difference(before, after):
                found.setdefault(row["fingerprint"], []).append(f"{row['metric']} {name}: {before} -> {after}")
    return found


def own_runs(scores: pd.DataFrame) -> pd.DataFrame:
    """The statistics of some scores: rows of reports/tables/own_runs.csv, unrounded."""
    setting = stats.read_setting(ROOT)
    return stats.complete(stats.own_rows(scores, setting), setting)


def compare(
    published: Mapping[str, pd.DataFrame], fresh: Mapping[str, pd.DataFrame], moved: Mapping[str, Sequence[str]]
) -> tuple[list[Finding], float | None]:
    """(a finding per cell, the largest log-likelihood difference in nats).

    Raises UserError where no cell of the fresh run was published.
    """
    if published["completions"].empty:
        raise UserError("None of these cells was published. Those that were: " + OWN_RUNS)
    rows = judged(published["completions"], fresh["completions"])
    gaps = log_likelihood_difference(published["likelihoods"], fresh["likelihoods"])
    findings = []
    for place, part in rows.groupby(PLACE, sort=True):
        mine = gaps[(gaps[PLACE] == list(place)).all(axis=1)]
        fingerprints = set(part["fingerprint"].dropna()) & set(part["fingerprint_published"].dropna())
        findings.append(cell_finding(part, mine, [note for f in sorted(fingerprints) for note in moved.get(f, ())]))
    return findings, float(gaps["difference"].max()) if len(gaps) else None


def table_findings(revision: str, cells_verdict: str) -> list[Finding]:
    """A finding per file of the report. Where completions differ at near-ties, so may what is made of them."""
    tracked = _git("ls-tree", "-r", "--name-only", revision, "--", *TABLES).decode().splitlines()
    changed = set(_git("diff", "--name-only", revision, "--", *TABLES).decode().splitlines())
    found = {path: Finding(path, IDENTICAL) for path in tracked}
    for path in sorted(changed & set(tracked), reverse=True):  # a drawing (svg) before its picture (png)
        found[path] = changed_file(revision, path, cells_verdict, found.get(str(Path(path).with_suffix(".svg"))))
    return list(found.values())


def changed_file(revision: str, path: str, cells_verdict: str, drawing: Finding | None) -> Finding:
    """Whether a file whose bytes are not the published ones is another. A picture is what its drawing is."""
    if not (ROOT / path).exists():
        return Finding(path, DIFFERS, ("missing here",))
    if path.endswith(".png") and drawing:
        return replace(drawing, name=path, notes=drawing.notes or (LAST_DIGITS,))
    before, after = _git("show", f"{revision}:{path}"), (ROOT / path).read_bytes()
    note = file_difference(path, before, after, margins=cells_verdict == IDENTICAL)
    status = NEAR_TIES if cells_verdict == NEAR_TIES else DIFFERS
    return Finding(path, status, (note,)) if note else Finding(path, IDENTICAL, (LAST_DIGITS,))


# ---- two texts side by side ----------------------------------------------------------------------


def file_difference(path: str, before: bytes, after: bytes, margins: bool = False) -> str:
    """The first difference of two files that is more than last digits; empty where there is none.

    margins: those in the table of near-ties are the same where both are below NEAR_TIE.
    """
    suffix, whole = Path(path).suffix, Path(path).stem == "near_ties"
    if before == after or suffix not in EXACT | ROUNDED:
        return "" if before == after else "other bytes"
    try:
        texts = before.decode(), after.decode()
    except UnicodeDecodeError:
        return "other bytes"
    spans = [(0, len(texts[0]))] if whole else [found.span() for found in MARGINS.finditer(texts[0])]
    return difference(*texts, suffix in ROUNDED, spans if margins else ())


def difference(before: str, after: str, rounded: bool = False, margins: Sequence[tuple[int, int]] = ()) -> str:
    """The first difference of two texts, with its line: between the numbers any, of a number see `same_number`.

    margins: (start, end) of the parts of `before` whose numbers are margins of near-ties.
    """
    pairs = zip(NUMBER.finditer(before), NUMBER.finditer(after), strict=False)
    at = (0, 0)
    for a, b in pairs:
        if before[at[0] : a.start()] != after[at[1] : b.start()]:
            break
        near = any(start <= a.start() < end for start, end in margins)
        if not (same_number(a[0], b[0], rounded) or (near and same_margin(a[0], b[0]))):
            return f"line {_line(before, a.start())}: {a[0]} -> {b[0]}"
        at = a.end(), b.end()
    rest = before[at[0] :], after[at[1] :]
    if rest[0] == rest[1]:
        return ""
    same = next((i for i, (a, b) in enumerate(zip(*rest, strict=False)) if a != b), min(map(len, rest)))
    return f"line {_line(before, at[0] + same)}: another text"


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def same_number(before: str, after: str, rounded: bool = False) -> bool:
    """Whether two matches of NUMBER are one number: whole ones as text, others within RELATIVE or ABSOLUTE.

    rounded: also where they are one unit of the last digit apart, if that is no more than UNIT.
    """
    if before == after or {before, after} <= ZERO:
        return True
    pair = [Decimal(text.replace("$-$", "-").replace("−", "-")) for text in (before, after)]
    (a, b), exponents = map(float, pair), [int(each.as_tuple().exponent) for each in pair]
    if exponents == [0, 0] or not math.isfinite(a - b):
        return False
    gap, size, unit = abs(a - b), max(abs(a), abs(b)), float(f"1e{min(exponents)}")
    as_printed = rounded and unit <= UNIT * max(1, size) and gap <= 1.000001 * unit
    return as_printed or gap <= max(RELATIVE * size, ABSOLUTE)


def same_margin(before: str, after: str) -> bool:
    """Whether both are margins of near-ties: below NEAR_TIE they are of the size of the rounding itself."""
    return all(0 <= float(text.replace("$-$", "-").replace("−", "-")) < NEAR_TIE for text in (before, after))


# ---- the fresh run -------------------------------------------------------------------------------


def fresh_outputs(revision: str) -> tuple[list[Finding], list[Finding], float | None]:
    """(cells, tables, largest log-likelihood difference) of data/outputs, data/scores.parquet and reports/."""
    published, fresh = _published(revision), hashes(ROOT / collect.OUTPUTS)
    if fresh["completions"].empty:
        raise UserError(f"{collect.OUTPUTS} holds no cell. Make them: dvc repro; or: python -m src.verify --recompute")
    scores = _scores(ROOT / collect.SCORES, fresh["completions"])
    found, largest = compare(published, fresh, moved_scores(committed(revision, OWN_RUNS), own_runs(scores)))
    return found, table_findings(revision, worst(found)), largest


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


def recomputed(revision: str, words: Sequence[str]) -> tuple[list[Finding], list[Finding], float | None]:
    """The cells of params.yaml with these overrides, computed anew; neither the store nor MLflow learns of it.

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
    found, largest = compare(published, fresh, moved)
    return [*found, *failed], [], largest


def runs_of(words: Sequence[str]) -> list[Run]:
    """A Run per model of params.yaml, or of the one that +model=... names."""
    models = [] if any(word.startswith("+model=") for word in words) else config.params()["models"]
    return [config.composed_run([f"+model={name}", *words]) for name in models] or [config.composed_run(words)]


def anew(asked: Run, folder: Path) -> list[run.Entry]:
    """Every cell of a Run into `folder`, by the code that makes DVC's outputs."""
    apart = replace(
        asked, store=folder / "store", out=folder / "outputs" / asked.model.name,
        tracking={"uri": f"sqlite:///{folder / 'runs.db'}", "experiment": "verify"},
    )  # fmt: skip
    return [outcome.entry for outcome in run.run_all(apart, apart.cells, check=lambda: None)]


def _not_done(entries: Sequence[run.Entry]) -> list[Finding]:
    return [
        Finding(f"{e.model}/{e.task}/{e.condition}", DIFFERS, (e.reason or e.status,))
        for e in entries if e.status != run.DONE
    ]  # fmt: skip


def asked_for(published: pd.DataFrame, fresh: pd.DataFrame) -> pd.DataFrame:
    """The published rows that a fresh run was asked for; of a cell it has a part of, without the fingerprint."""
    kept = published.merge(fresh[[name for name in KEY if name in published]])
    if "fingerprint" not in kept:
        return kept
    before, after = (frame.groupby(PLACE)["id"].transform("size") for frame in (published, fresh))
    sizes = published[PLACE].assign(before=before).drop_duplicates()
    sizes = sizes.merge(fresh[PLACE].assign(after=after).drop_duplicates())
    part = sizes.loc[sizes["before"] != sizes["after"], PLACE].assign(part=True)
    is_part = kept[PLACE].merge(part, how="left")["part"].notna().to_numpy()
    return kept.assign(fingerprint=kept["fingerprint"].mask(is_part))


# ---- a release -------------------------------------------------------------------------------------


def recomputed_tables(root: Path) -> dict[str, str]:
    """The csv of every table that the scores, data/published and data/reference under `root` lead to, by name.

    Writes data/stats and data/audit there. What data/fidelity holds is taken as it is.
    """
    stats.run(root)
    audit, curves = claims.audit(root, float(config.params(root / "params.yaml")["alpha"]))
    (root / "data/audit").mkdir(exist_ok=True)
    for name, frame in {"audit": audit, "specifications": curves}.items():
        frame.to_parquet(root / f"data/audit/{name}.parquet", index=False)
    tables = [t for t in report.load_tables(root) if "*" in t.frame or (root / t.frame.partition("#")[0]).exists()]
    return {t.name: report.to_csv(report.rows_of(root, t), t) for t in tables if not t.quotes_data}


def check_tables(root: Path) -> list[Finding]:
    """A finding per table of a release: whether its scores lead to it."""
    kept = {path.stem: path.read_text(encoding="utf-8") for path in sorted((root / "reports/tables").glob("*.csv"))}
    made = recomputed_tables(root)
    return [compared_table(name, text, made.get(name, "")) for name, text in kept.items()]


def compared_table(name: str, kept: str, made: str) -> Finding:
    """A table of a release beside the one that its scores lead to."""
    note = difference(kept, made) or (LAST_DIGITS if kept != made else "")
    status = IDENTICAL if note in ("", LAST_DIGITS) else DIFFERS
    return Finding(f"table {name}", status, (note,) if note else ())


@dataclass(frozen=True)
class Kept:
    """A cell of a release, its prompts rebuilt from the data sets. faults: what does not fit."""

    asked: Run
    cell: Cell
    head: Header
    answers: tuple[Answers, ...]
    faults: tuple[str, ...]

    @property
    def name(self) -> str:
        """model/task/condition."""
        return f"{self.head.model}/{self.cell.name}"


def kept_cells(root: Path, words: Sequence[str]) -> list[Kept]:
    """Every cell of an unpacked release. words: overrides, e.g. where the prepared tasks or the weights are.

    Raises UserError where a data set that it needs is not prepared.
    """
    given = config.params(root / "params.yaml")
    asked = [f"{key}={_word(given[key])}" for key in ("tasks", "conditions", "seeds", "limit", "encoder")]
    paths = cells.cell_files(root / release.CELLS)
    models = sorted({path.parent.name for path in paths})
    runs = {name: config.composed_run([f"+model={name}", *asked, *words]) for name in models}
    return [kept(path, runs[path.parent.name]) for path in paths]


def _word(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else "null" if value is None else str(value)


def kept(path: Path, asked: Run) -> Kept:
    """One cell of a release. Raises UserError where it is none, or its data set is not prepared."""
    try:
        first, *rows = (json.loads(line) for line in path.open(encoding="utf-8"))
        head = cells.header_of(first)
        cell = next(c for c in asked.cells if (c.task.name, c.condition.name) == (head.task, head.condition))
        shots, tests, data_sha256 = data.load(cell.task.name, asked.data)
        earlier = run.before(asked, cell) if asked.compat.template_leak else ()
        by_id = {p.id: p for p in prompts.ask(tests, shots, cell.task, cell.condition, asked.limit, earlier)}
        answers = tuple(cells.answers_of(by_id[row["id"]], row) for row in rows)
        wanted = [row["prompt_sha256"] for row in rows]
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise UserError(f"{path.name} is no cell of this release's grid ({type(error).__name__}: {error})") from error
    other = [a.prompt.id for a, sha256 in zip(answers, wanted, strict=True) if release.prompt_sha256(a) != sha256]
    faults = [] if data_sha256 == head.data_sha256 else [f"{cell.task.name}: prepared data differ from the release's"]
    faults += [f"{other[0]}: another prompt than was asked ({len(other)} of {len(answers)})"] if other else []
    again = cells.digests(answers)[1]
    faults += ["completions are not those of completions_sha256"] if again != head.completions_sha256 else []
    return Kept(asked, cell, head, answers, tuple(faults))


def check_scores(root: Path, words: Sequence[str]) -> list[Finding]:
    """A finding per cell of a release: whether its completions lead to its scores. No weights are needed."""
    import pandas as pd

    every = kept_cells(root, words)
    sound = [each for each in every if not each.faults]
    for each in sound:
        folder = root / "data/outputs" / each.head.model
        cells.write(cells.path_of(folder, each.head.task, each.head.condition), each.head, each.answers)
    fresh = collect.collect(root / "data/outputs") if sound else pd.DataFrame(columns=PLACE)
    published = pd.read_parquet(root / collect.SCORES)
    found = [Finding(each.name, DIFFERS, each.faults) for each in every if each.faults]
    for each in sound:
        parts = (frame[(frame[PLACE] == each.name.split("/")).all(axis=1)] for frame in (published, fresh))
        notes = differing_scores(*parts)
        found.append(Finding(each.name, DIFFERS if notes else IDENTICAL, tuple(notes)))
    scored = {"/".join(place) for place in published[PLACE].itertuples(index=False)}
    lost = sorted(scored - {each.name for each in every})
    return [*found, *(Finding(name, DIFFERS, ("scores without completions",)) for name in lost)]


def differing_scores(published: pd.DataFrame, fresh: pd.DataFrame) -> list[str]:
    """A line per column of two cells' scores that differs; BERTScore to 1e-5, the rest exactly."""
    import numpy as np

    key = ["example_id", "variant", "seed"]
    if len(published) != len(fresh) or set(published) != set(fresh):
        return [f"{len(published)} scores for {len(fresh)} completions"]
    pair = [frame.assign(variant=frame["variant"].astype("string")).sort_values(key) for frame in (published, fresh)]
    notes = []
    for name in published.columns:
        before, after = (frame[name].astype(object).where(frame[name].notna(), None).tolist() for frame in pair)
        same = [_same(a, b, np.isclose) for a, b in zip(before, after, strict=True)]
        if not all(same):
            at = same.index(False)
            notes.append(f"{pair[0].iloc[at]['example_id']}: {name} is {before[at]}, its completion gives {after[at]}")
    return notes


def _same(a: Any, b: Any, near: Any) -> bool:
    return bool(near(a, b, 1e-5, 1e-5)) if isinstance(a, float) and isinstance(b, float) else a == b


@dataclass(frozen=True)
class Sample:
    """Completions generated again. wrong: differ outside near-ties, in text or in their prompt's log-likelihoods."""

    m: int
    population: int
    wrong: int
    near: int
    notes: tuple[str, ...]

    @property
    def bound(self) -> float:
        """Upper 95 % confidence bound on the share of wrong ones, a fraction: one-sided Clopper-Pearson."""
        from scipy import stats as distributions

        test = distributions.binomtest(self.wrong, self.m, alternative="less")
        return float(test.proportion_ci(0.95, method="exact").high)

    def finding(self) -> Finding:
        """What it says about the release."""
        status = DIFFERS if self.wrong else NEAR_TIES if self.near else IDENTICAL
        said = (
            f"{self.m} of {self.population:,} completions generated again: {self.wrong} wrong, {self.near} differ at "
            f"near-ties; with 95 % confidence less than {100 * self.bound:.1f} % of all are wrong (Clopper-Pearson)"
        )
        return Finding("sample", status, (said, *self.notes))


def check_sample(root: Path, words: Sequence[str], m: int, seed: int) -> list[Finding]:
    """m completions of a release, drawn by `seed`, generated again with the weights.

    Raises UserError where weights or settings are not those of the release.
    """
    every = kept_cells(root, words)
    faults = [Finding(each.name, DIFFERS, each.faults) for each in every if each.faults]
    pool = [(i, n, s) for i, each in enumerate(every) for n, a in enumerate(each.answers) for s in a.completions]
    drawn = random.Random(seed).sample(pool, min(m, len(pool)))
    engine = functools.cache(lambda name: run.engine_of(next(e.asked for e in every if e.asked.model.name == name)))
    wrong, near, notes = 0, 0, []
    for i in sorted({i for i, _, _ in drawn}):
        chosen: dict[int, tuple[int, ...]] = {}
        for n, s in sorted((n, s) for j, n, s in drawn if j == i):
            chosen[n] = (*chosen.get(n, ()), s)
        for status, note in regenerated(every[i], engine(every[i].asked.model.name), chosen):
            wrong, near = wrong + (status == DIFFERS), near + (status == NEAR_TIES)
            notes += [note] if note else []
    return [*faults, Sample(len(drawn), len(pool), wrong, near, tuple(notes)).finding()]


def regenerated(each: Kept, engine: Engine, chosen: Mapping[int, tuple[int, ...]]) -> Iterator[tuple[str, str]]:
    """(status, note) for each chosen completion; chosen: seeds by position of the prompt in the cell.

    Raises UserError where the engine would not ask for the same.
    """
    head = each.head
    settings = (each.asked, each.cell, engine.describe(), head.prompts_sha256, head.data_sha256)
    if config.fingerprint(*settings) != head.fingerprint:
        raise UserError(
            f"{each.name}: these are not the weights or the settings of the release (fingerprint). Weights in a "
            "folder: model.path=/that/folder; settings: conf and params.yaml of the release's commit"
        )
    asked = [(each.answers[n], seeds) for n, seeds in chosen.items()]
    requests = [Request(a.prompt, seeds, a.likelihood is not None) for a, seeds in asked]
    made = {result.prompt_id: result for batch in engine.run(requests) for result in batch}
    for answers, seeds in asked:
        for seed in seeds:
            yield again(answers, made[answers.prompt.id], seed)


def again(answers: Answers, made: Result, seed: int) -> tuple[str, str]:
    """(status, note) of one completion and its prompt's log-likelihoods beside those generated again."""
    import numpy as np

    where, said, now = f"{answers.prompt.id}, seed {seed}", answers.completions[seed], made.completions[seed]
    margins = [c.near_tie for c in (said, now) if c.near_tie is not None]
    scored = (answers.likelihood, made.likelihood)
    if scored[0] and scored[1] and not np.allclose(scored[1].logprob, scored[0].logprob, LOGPROB, LOGPROB):
        return DIFFERS, f"{where}: log-likelihoods differ"
    if said.text == now.text:
        return IDENTICAL, ""
    return (NEAR_TIES, f"{where}: margin {min(margins):.3g}") if margins else (DIFFERS, f"{where}: another text")


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


# ---- saying it -------------------------------------------------------------------------------------


def say(
    found: Sequence[Finding], tables: Sequence[Finding] = (), largest: float | None = None, what: str = "cells"
) -> int:
    """Print a line per cell and per table that is not as published, and the verdict; its exit code."""
    for finding in [*found, *(t for t in tables if t.status != IDENTICAL)]:
        print(f"{finding.status:26}{finding.name}", *finding.notes, sep="\n    ")
    print(_count(what, found))
    if largest is not None:
        print(f"log-likelihoods: largest difference {largest:.2g}")
    if tables:
        print(_count("tables, figures and pages", tables))
    moved = sum(LAST_DIGITS in f.notes for f in [*found, *tables])
    if moved:
        print(f"{moved} file{' differs' if moved == 1 else 's differ'} in last digits")
    verdict = worst([*found, *tables])
    print(f"verdict: {verdict}")
    return EXIT[verdict]


def _count(what: str, found: Sequence[Finding]) -> str:
    counts = {status: sum(f.status == status for f in found) for status in RANK}
    return f"{len(found)} {what}: " + ", ".join(f"{n} {status}" for status, n in counts.items() if n)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="python -m src.verify", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("words", nargs="*", metavar="BUNDLE | key=value", help="a release; overrides as for src.run")
    found.add_argument("--level", choices=LEVELS, default=LEVELS[0], help="how deep to look into BUNDLE")
    found.add_argument("--m", type=int, default=60, help="level sample: completions to generate again (60)")
    found.add_argument("--seed", type=int, default=0, help="level sample: which ones (0)")
    found.add_argument("--against", default="HEAD", metavar="REVISION", help="commit that holds what was published")
    found.add_argument("--recompute", action="store_true", help="compute the cells anew, in a temporary folder")
    found.add_argument("--publish", action="store_true", help=f"write {HASHES} of {collect.OUTPUTS} (a DVC stage)")
    return found


def execute(given: argparse.Namespace) -> int:
    """The exit code of what the command line asks for. Raises UserError."""
    overrides = [word for word in given.words if "=" in word]
    bundles = [Path(word) for word in given.words if "=" not in word]
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
        sys.exit(run.explained(lambda: execute(given)))


if __name__ == "__main__":
    main()
