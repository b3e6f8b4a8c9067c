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
import hashlib
import io
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src import cells, collect, config, report, run, stats
from src.cells import Answers
from src.config import ROOT, Run, UserError

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
SCORED = ["n", "k", "accuracy", "ci_low", "ci_high"]
DIGITS = 16  # of a text's sha256
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

    said: list[dict[str, Any]] = []
    scored: list[dict[str, Any]] = []
    for path in sorted(outputs.glob("*/*.jsonl")):
        head, answers = cells.read(path)
        place = {name: head[name] for name in PLACE}
        said += [{**place, "fingerprint": head["fingerprint"], **row} for a in answers for row in _said(a)]
        scored += [{**place, "id": a.prompt.id, "logprob": _logprob(a)} for a in answers if a.likelihood]
    return {
        "completions": pd.DataFrame(said, columns=[*PLACE, "fingerprint", "id", "seed", "sha256", "near_tie"]),
        "likelihoods": pd.DataFrame(scored, columns=[*PLACE, "id", "logprob"]),
    }


def _said(answers: Answers) -> Iterator[dict[str, Any]]:
    for seed, said in sorted(answers.completions.items()):
        yield {"id": answers.prompt.id, "seed": seed, "sha256": text_hash(said.text), "near_tie": said.near_tie}


def _logprob(answers: Answers) -> str:
    return " ".join(f"{value:.8g}" for value in answers.likelihood.logprob) if answers.likelihood else ""


def publish(outputs: Path, folder: Path) -> None:
    """Write `hashes` as csv files. Raises UserError where there is no cell."""
    found = hashes(outputs)
    if found["completions"].empty:
        raise UserError(f"{outputs} holds no cell. Make them: dvc repro infer")
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in found.items():
        part = folder / f"{name}.part"
        frame.to_csv(part, index=False, float_format="%.6g", lineterminator="\n")
        part.replace(folder / f"{name}.csv")


def committed(revision: str, path: str) -> pd.DataFrame:
    """A csv file as a revision holds it. Raises UserError where it does not."""
    import pandas as pd

    return pd.read_csv(io.StringIO(_git("show", f"{revision}:{path}")))


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise UserError("git is not installed, and what was published is read out of git") from error
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["git failed"])[0]
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
    """By fingerprint: every score that differs in six digits. Both: rows of reports/tables/own_runs.csv."""
    columns = ["fingerprint", "metric", *SCORED]
    both = published[columns].merge(fresh[columns], on=columns[:2], how="inner", suffixes=("_published", ""))
    found: dict[str, list[str]] = {}
    for row in both.to_dict("records"):
        for name in SCORED:
            before, after = (f"{row[key]:.6g}" for key in (f"{name}_published", name))
            if before != after:
                found.setdefault(row["fingerprint"], []).append(f"{row['metric']} {name}: {before} -> {after}")
    return found


def own_runs(scores: pd.DataFrame) -> pd.DataFrame:
    """The statistics of some scores: rows of reports/tables/own_runs.csv, unrounded."""
    setting = stats.read_setting(ROOT)
    return stats.complete(stats.own_rows(scores, setting), setting)


def compare(
    published: Mapping[str, pd.DataFrame], fresh: Mapping[str, pd.DataFrame], moved: Mapping[str, Sequence[str]]
) -> tuple[list[Finding], float | None]:
    """(a finding per cell, the largest log-likelihood difference in nats)."""
    rows = judged(published["completions"], fresh["completions"])
    gaps = log_likelihood_difference(published["likelihoods"], fresh["likelihoods"])
    findings = []
    for place, part in rows.groupby(PLACE, sort=True):
        mine = gaps[(gaps[PLACE] == place).all(axis=1)]
        fingerprints = set(part["fingerprint"].dropna()) & set(part["fingerprint_published"].dropna())
        findings.append(cell_finding(part, mine, [note for f in sorted(fingerprints) for note in moved.get(f, ())]))
    return findings, float(gaps["difference"].max()) if len(gaps) else None


def table_findings(revision: str, cells_verdict: str) -> list[Finding]:
    """A finding per file of the report. Where completions differ at near-ties, so may what is made of them."""
    tracked = _git("ls-tree", "-r", "--name-only", revision, "--", *TABLES).splitlines()
    changed = set(_git("diff", "--name-only", revision, "--", *TABLES).splitlines())
    status = NEAR_TIES if cells_verdict == NEAR_TIES else DIFFERS
    return [Finding(path, status if path in changed else IDENTICAL) for path in tracked]


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
    return run.run_all(apart)


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


# ---- saying it -------------------------------------------------------------------------------------


def say(found: Sequence[Finding], tables: Sequence[Finding], largest: float | None) -> int:
    """Print a line per cell and per table that is not as published, and the verdict; its exit code."""
    for finding in [*found, *(t for t in tables if t.status != IDENTICAL)]:
        print(f"{finding.status:26}{finding.name}", *finding.notes, sep="\n    ")
    print(_count("cells", found))
    if largest is not None:
        print(f"log-likelihoods: largest difference {largest:.2g}")
    if tables:
        print(_count("tables, figures and pages", tables))
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
    found.add_argument("--against", default="HEAD", metavar="REVISION", help="commit that holds what was published")
    found.add_argument("--recompute", action="store_true", help="compute the cells anew, in a temporary folder")
    found.add_argument("--publish", action="store_true", help=f"write {HASHES} of {collect.OUTPUTS} (a DVC stage)")
    return found


def execute(given: argparse.Namespace) -> int:
    """The exit code of what the command line asks for. Raises UserError."""
    overrides = [word for word in given.words if "=" in word]
    if given.publish:
        publish(ROOT / collect.OUTPUTS, ROOT / HASHES)
        return 0
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
