"""Two runs of the same cells side by side: identical, near-ties, or different."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from src.base.errors import UserError
from src.cell.finding import DIFFERS, IDENTICAL, NEAR_TIES, RANK, UNPUBLISHED, Finding
from src.cell.hashes import KEY, PLACE, log_likelihood_difference
from src.cell.last_digits import LAST_DIGITS, difference

if TYPE_CHECKING:
    import pandas as pd

OWN_RUNS = "reports/tables/own_runs.csv"
SCORED = ["n", "k", "accuracy", "ci_low", "ci_high"]


def judged(published: pd.DataFrame, fresh: pd.DataFrame) -> pd.DataFrame:
    """A row per completion of either run: KEY, fingerprint, fingerprint_published, margin, status.

    A completion that differs is a near-tie where either side had a decision closer than the engine's NEAR_TIE.
    """
    import numpy as np

    both = published.merge(fresh, on=KEY, how="outer", suffixes=("_published", ""), indicator="side")
    both["margin"] = both[["near_tie_published", "near_tie"]].astype(float).min(axis=1)
    same = (both["side"] == "both") & (both["sha256_published"] == both["sha256"])
    close = (both["side"] == "both") & both["margin"].notna()
    both["status"] = np.select([same, close], [IDENTICAL, NEAR_TIES], DIFFERS)
    return both


def cell_finding(rows: pd.DataFrame, gaps: pd.DataFrame, moved: Sequence[str]) -> Finding:
    """The finding on one cell. rows: from `judged`. gaps: from `log_likelihood_difference`. moved: notes on scores."""
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
    moved: dict[str, list[str]] = {}
    for row in both.to_dict("records"):
        for name in SCORED:
            before, after = (f"{row[key]:.6g}" for key in (f"{name}_published", name))
            if difference(before, after):
                moved.setdefault(row["fingerprint"], []).append(f"{row['metric']} {name}: {before} -> {after}")
    return moved


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


def reference_findings(published: pd.DataFrame, fresh: pd.DataFrame) -> list[Finding]:
    """A finding per cell of two frames of cell scores, every value as its text.

    The columns are those of data/reference/laptop.csv or pair.csv. They hold a hash of a cell's completions and not one
    of each, so that a cell with another text differs, whether or not it was a near-tie.
    """
    key = ["model", "task", "condition"]
    sides = [
        dict(iter(frame.set_index([*key, "metric"]).groupby(level=key, sort=True))) for frame in (published, fresh)
    ]
    findings = []
    for place in sorted({*sides[0], *sides[1]}):
        before, after = (side.get(place) for side in sides)
        if before is None or after is None:
            missing = "not published" if before is None else "not run here"
            findings.append(Finding("/".join(place), DIFFERS, (missing,)))
            continue
        texts = [side.sort_index().to_csv(index=False) for side in (before, after)]
        note = difference(*texts)
        if note and (before["completions_sha256"].iloc[0] != after["completions_sha256"].iloc[0]):
            note = "other completions"
        same = () if texts[0] == texts[1] else (LAST_DIGITS,)
        findings.append(Finding("/".join(place), DIFFERS if note else IDENTICAL, (note,) if note else same))
    return findings


def differing_scores(published: pd.DataFrame, fresh: pd.DataFrame) -> list[str]:
    """A note for each column in which the scores of two cells differ. Floats may differ by 1e-5."""
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
