"""The analyses of the audit as compact JSON: what the page needs to show a result under other choices."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.base.frames import read_frame
from src.base.verdict import BOTH, HOLDS, NEITHER, OPPOSITE
from src.pages.choices import by_choice, levels_of
from src.pages.statements import FOLDER, Audit
from src.pages.tables import is_missing

if TYPE_CHECKING:
    import pandas as pd

OUTCOMES = {HOLDS: "+", NEITHER: "0", OPPOSITE: "-", BOTH: "2"}
NO_RESULT, NOT_MADE = "x", "."
FILE = f"{FOLDER}/analyses.parquet"


def switches(root: Path, audit: Audit | None) -> dict[str, Any]:
    """{choices, reasons, claims}: by claim its choices, its analyses, and one line of results for each statement.

    choices: by name its levels, all claims together; those that most claims make first. An analysis is a list of
    level numbers, in the order of the claim's choices. A statement is [anchor, number of the rule's own analysis, one
    character of results for each analysis, {analysis: reason}]. Characters: + holds, - the opposite holds, 0 neither,
    2 both, x no result, . not made. Analyses that do not count, for they are no other than an earlier one, are among
    them.
    """
    if audit is None:
        return {"choices": {}, "reasons": [], "claims": {}}
    frame = read_frame(root, FILE)
    frame = frame.assign(item=frame["item"].fillna(""), taken=[json.loads(each) for each in frame["taken"]])
    used = Counter(choice for _, rows in frame.groupby("claim") for choice in levels_of(rows["taken"]))
    choices = dict(sorted(levels_of(frame["taken"]).items(), key=lambda pair: -used[pair[0]]))
    reasons = sorted({str(each) for each in frame["reason"].dropna()})
    by_claim = dict(list(frame.groupby("claim", sort=False)))
    claims = {
        claim.name: _claim(
            by_claim[claim.name], {str(s.row["item"] or ""): s.anchor for s in claim.statements}, choices, reasons
        )
        for claim in audit.claims
        if claim.name in by_claim
    }
    return {"choices": choices, "reasons": [each.replace("_", " ") for each in reasons], "claims": claims}


def _claim(
    rows: pd.DataFrame, anchors: Mapping[str, str], choices: Mapping[str, Sequence[str]], reasons: Sequence[str]
) -> dict[str, Any]:
    names = list(levels_of(rows["taken"]))
    codes = [
        tuple(choices[name].index(str(each[name])) if name in each else -1 for name in names) for each in rows["taken"]
    ]
    analyses = sorted(set(codes))
    number = {code: place for place, code in enumerate(analyses)}
    lines = []
    for item, part in rows.assign(number=[number[code] for code in codes]).groupby("item", sort=False):
        anchor = anchors.get(str(item).replace("_", " "))
        if anchor is not None:
            lines.append([anchor, *_results(part, len(analyses), reasons)])
    return {"choices": names, "analyses": [list(code) for code in analyses], "statements": lines}


def _results(rows: pd.DataFrame, analyses: int, reasons: Sequence[str]) -> tuple[int | None, str, dict[str, int]]:
    results, why, primary = [NOT_MADE] * analyses, {}, None
    for row in rows.to_dict("records"):
        at = row["number"]
        missing = is_missing(row["outcome"])
        results[at] = NO_RESULT if missing else OUTCOMES[int(row["outcome"])]
        if missing and not is_missing(row["reason"]):
            why[str(at)] = reasons.index(str(row["reason"]))
        primary = at if row["primary"] else primary
    return primary, "".join(results), why


def results_by_choice(root: Path, audit: Audit | None) -> dict[str, list[dict[str, Any]]]:
    """By claim what `by_choice` gives; a claim without another analysis is left out."""
    if audit is None:
        return {}
    found = {str(name): by_choice(rows) for name, rows in read_frame(root, FILE).groupby("claim", sort=False)}
    return {name: rows for name, rows in found.items() if rows}
