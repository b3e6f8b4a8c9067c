"""The paper's claims as data: every conf/claim/*.yaml becomes rows of the audit and of its specification curves.

`python -m src.audit` is a DVC stage. A claim names a frame of the statistics and the rows that it speaks of. It says
what the paper says there, and by which rule our numbers follow or contradict it. Where neither holds, the claim is
within noise. Where there is no number, it cannot be checked. The rules stand in the YAML, written before their verdicts
are read.
"""

from __future__ import annotations

import itertools
import json
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from src.base.cli import command, stage
from src.base.errors import UserError
from src.base.files import ROOT, whole
from src.base.frames import as_declared, read_frame, read_yaml
from src.base.grid import params
from src.base.verdict import CONTRADICTED, FOLLOWS, NOISE, UNCHECKED, verdict_counts

if TYPE_CHECKING:
    import pandas as pd


OUT = Path("data/audit")
TABLES = Path("data/published/tables.yaml")
COLUMNS = (
    "claim", "item", "statement", "place", "value", "low", "high", "p", "rule", "verdict", "why", "flip", "holds_in",
    "analyses", "criterion", "fingerprint",
)  # fmt: skip

CURVE_COLUMNS = ("claim", "statement", "measured", "analysis", "taken", "count", "value", "holds")


@dataclass(frozen=True)
class Side:
    """What our numbers must be where the paper says yes (or no). Expressions over the frame's columns."""

    statement: str
    follows: str
    contradicted: str


@dataclass(frozen=True)
class Grid:
    """Defensible analyses of one claim: every way to take one condition of each factor, and one measure.

    A measure names `value` and whatever else `holds` asks for, each an expression over the rows that are taken; without
    measures the value is their count. The rows are the claim's, unless the grid names another `frame`.
    """

    statement: str
    factors: Mapping[str, Mapping[str, str]]
    holds: str  # over count and what the measure names
    measured: str  # what the value is, for the figure's axis
    measures: Mapping[str, Mapping[str, str]] | None = None
    frame: str | None = None
    derive: Mapping[str, str] | None = None  # columns of that frame's rows


@dataclass(frozen=True)
class Claim:
    """conf/claim/<name>.yaml. Expressions are pandas', with @alpha, @<claim>_<key> of tables.yaml and TOOLS.

    Where its rows have a column `criterion`, that is the row of table questions beside which the verdict stands.
    """

    name: str
    place: str  # where the paper says it
    frame: str
    rule: str  # in words
    if_yes: Side
    value: str
    why: str  # a template over the row's columns
    flip: str  # what would change the verdict, a template
    if_no: Side | None = None
    where: str | None = None
    item: str | None = None  # column that names a row
    paper: str = "True"  # what the paper says: true, false or nothing
    low: str | None = None
    high: str | None = None
    p: str | None = None  # the p value that the rule asks for, where it asks for one
    checkable: str | None = None  # where our numbers can say anything at all
    derive: Mapping[str, str] | None = None
    summary: Mapping[str, str] | None = None  # one row out of all: column -> expression
    alternatives: Mapping[str, str] | None = None  # other analyses: the verdict they give, to set beside the paper's
    grid: Grid | None = None


def only(values: Any, where: Any) -> Any:
    """The value in the one row where a condition holds."""
    return values[where].item()


def holm(p: Any) -> Any:
    """p values under Holm over the rows that have one."""
    from src.statistics.tests import adjust

    return adjust(p, "holm")


def k_needed(n: Any, chance: Any, tests: int, alpha: float) -> Any:
    """Smallest number right whose binomial tail at chance is below alpha / tests (Bonferroni)."""
    from scipy.stats import binom

    return binom.isf(alpha / tests, n, chance) + 1


def spearman_p(x: Any, y: Any) -> float:
    """Two-sided p of Spearman's rank correlation (scipy), pairs with a missing value left out; of fewer than 3, NaN."""
    from scipy.stats import spearmanr

    pairs = int((x.notna() & y.notna()).sum())
    return float(spearmanr(x, y, nan_policy="omit").pvalue) if pairs > 2 else np.nan


def difference_low(k1: Any, k2: Any, n: int) -> Any:
    """Lower end of Newcombe's 95 % interval of k1/n - k2/n."""
    from src.statistics.tests import newcombe

    return newcombe(k1, n, k2, n)[0]


def difference_high(k1: Any, k2: Any, n: int) -> Any:
    """Upper end of Newcombe's 95 % interval of k1/n - k2/n."""
    from src.statistics.tests import newcombe

    return newcombe(k1, n, k2, n)[1]


def wilson_low(k: Any, n: Any) -> Any:
    """Lower end of the Wilson 95 % interval."""
    from src.statistics.tests import wilson

    return wilson(k, n)[0]


def wilson_high(k: Any, n: Any) -> Any:
    """Upper end of the Wilson 95 % interval."""
    from src.statistics.tests import wilson

    return wilson(k, n)[1]


TOOLS = {
    f.__name__: f for f in (only, holm, k_needed, spearman_p, difference_low, difference_high, wilson_low, wilson_high)
}


def load_claims(root: Path) -> list[Claim]:
    """Every conf/claim/*.yaml. Raises UserError that names the file and the key where one is odd."""
    claims = []
    for path in sorted((root / "conf/claim").glob("*.yaml")):
        given = dict(read_yaml(path))
        try:
            sides: dict[str, Any] = {key: Side(**given.pop(key)) for key in ("if_yes", "if_no") if key in given}
            grid = Grid(**given.pop("grid")) if "grid" in given else None
            claims.append(Claim(name=path.stem, grid=grid, **sides, **given))
        except TypeError as error:
            known = ", ".join(f.name for f in fields(Claim) if f.name != "name")
            raise UserError(f"conf/claim/{path.name}: {error}. A claim has: {known}") from error
    return claims


def vocabulary(root: Path, alpha: float) -> dict[str, Any]:
    """What expressions can name with @ beside TOOLS: alpha, and each count of tables.yaml as <claim>_<key>."""
    stated = read_yaml(root / TABLES)["claims"]
    flat = {f"{n}_{k}": v for n, values in stated.items() if isinstance(values, Mapping) for k, v in values.items()}
    lists = {name: value for name, value in stated.items() if not isinstance(value, Mapping)}
    return {**TOOLS, **flat, **lists, "alpha": alpha}


def evaluated(claim: Claim, rows: pd.DataFrame, expression: str, words: Mapping[str, Any]) -> Any:
    """An expression over the rows. Raises UserError that names claim and expression where it does not compute."""
    try:
        return rows.eval(expression, engine="python", local_dict=dict(words))
    except Exception as error:  # pandas raises whatever its parser or the columns' types raise
        raise UserError(
            f"conf/claim/{claim.name}.yaml: {expression!r} does not compute: {error}. "
            f"Columns: {', '.join(map(str, rows.columns))}"
        ) from error


def _column(claim: Claim, rows: pd.DataFrame, expression: str | None, words: Mapping[str, Any]) -> pd.Series:
    import pandas as pd

    value = np.nan if expression is None else evaluated(claim, rows, expression, words)
    return pd.Series(value, index=rows.index)


def _true(claim: Claim, rows: pd.DataFrame, expression: str | None, words: Mapping[str, Any]) -> pd.Series:
    """Where an expression is true; missing is not."""
    return _column(claim, rows, expression, words).astype("boolean").fillna(False).astype(bool)


def derived(
    claim: Claim, rows: pd.DataFrame, columns: Mapping[str, str] | None, words: Mapping[str, Any]
) -> pd.DataFrame:
    """The rows with further columns, each an expression over those before it."""
    for name, expression in (columns or {}).items():
        rows = rows.assign(**{name: evaluated(claim, rows, expression, words)})
    return rows


def rows_of(root: Path, claim: Claim, words: Mapping[str, Any]) -> pd.DataFrame:
    """The rows a claim speaks of. Raises UserError where there are none."""
    import pandas as pd

    rows = read_frame(root, claim.frame)
    if claim.where:
        rows = rows[_true(claim, rows, claim.where, words)].reset_index(drop=True)
    rows = derived(claim, rows, claim.derive, words)
    if rows.empty:
        raise UserError(f"conf/claim/{claim.name}.yaml: no row of {claim.frame} meets {claim.where!r}")
    if claim.summary:
        rows = pd.DataFrame([{name: evaluated(claim, rows, e, words) for name, e in claim.summary.items()}])
    return rows


class _Printer(string.Formatter):
    """str.format for a row: a missing number prints as a dash."""

    def format_field(self, value: Any, spec: str) -> str:
        if value is None or value != value:
            return "–"
        return str(super().format_field(value, spec))


def written(template: str, row: Mapping[str, Any]) -> str:
    """A template with the row's values in it."""
    return str(_Printer().vformat(template, (), {k: None if _missing(v) else v for k, v in row.items()}))


def _missing(value: Any) -> bool:
    import pandas as pd

    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


def audit_rows(claim: Claim, rows: pd.DataFrame, words: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One row of the audit (COLUMNS) for each row the claim speaks of."""
    said = _column(claim, rows, claim.paper, words).astype("boolean")
    checkable = _true(claim, rows, claim.checkable, words) if claim.checkable else said.notna()
    numbers = {key: _column(claim, rows, getattr(claim, key), words) for key in ("value", "low", "high", "p")}
    sides = {True: claim.if_yes, False: claim.if_no or claim.if_yes}
    found = {
        paper: (_true(claim, rows, side.follows, words), _true(claim, rows, side.contradicted, words))
        for paper, side in sides.items()
    }
    others = {name: _column(claim, rows, e, words).astype("boolean") for name, e in (claim.alternatives or {}).items()}
    for i, row in enumerate(rows.to_dict("records")):
        known = bool(checkable[i]) and not _missing(said[i])
        side = sides[bool(said[i])] if not _missing(said[i]) else claim.if_yes
        follows, contradicted = (bool(each[i]) for each in found[bool(said[i])]) if known else (False, False)
        verdict = UNCHECKED if not known else FOLLOWS if follows else CONTRADICTED if contradicted else NOISE
        judged = [bool(o[i]) == bool(said[i]) for o in others.values() if not _missing(o[i])] if known else []
        unsaid = _missing(said[i])
        silent = "the paper gives no verdict here" if unsaid else "no chance level, or no line that fits, to judge by"
        yield {
            "claim": claim.name,
            "item": str(row[claim.item]) if claim.item else "",
            "statement": f"{row[claim.item]}: no verdict" if unsaid and claim.item else written(side.statement, row),
            "place": claim.place,
            **{key: None if _missing(values[i]) else float(values[i]) for key, values in numbers.items()},
            "rule": claim.rule,
            "verdict": verdict,
            "why": written(claim.why, row) if known else silent,
            "flip": written(claim.flip, row) if known else "",
            "holds_in": sum(judged) if judged else None,
            "analyses": len(judged) or None,
            "criterion": row.get("criterion"),
            "fingerprint": row.get("fingerprint"),
        }


def curve_rows(root: Path, claim: Claim, words: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One row (CURVE_COLUMNS) for each analysis of the claim's grid: what it gives, and whether the claim holds."""
    if claim.grid is None:
        return
    frame, columns = (claim.grid.frame, claim.grid.derive) if claim.grid.frame else (claim.frame, claim.derive)
    rows = derived(claim, read_frame(root, frame), columns, words)
    masks = {
        factor: {name: _true(claim, rows, expression, words) for name, expression in ways.items()}
        for factor, ways in claim.grid.factors.items()
    }
    for chosen in itertools.product(*masks.values()):
        taken = dict(zip(masks, chosen, strict=True))
        meets = np.logical_and.reduce([masks[factor][way] for factor, way in taken.items()])
        for measure, found in measured(claim, rows[meets], words):
            way = taken | ({"measure": measure} if measure else {})
            yield {
                "claim": claim.name,
                "statement": claim.grid.statement,
                "measured": claim.grid.measured,
                "analysis": "; ".join(f"{factor}: {name}" for factor, name in way.items()),
                "taken": json.dumps(way),
                "count": int(meets.sum()),
                "value": float(found["value"].iloc[0]),
                "holds": bool(_true(claim, found, claim.grid.holds, words).iloc[0]),
            }


def measured(claim: Claim, rows: pd.DataFrame, words: Mapping[str, Any]) -> Iterator[tuple[str, pd.DataFrame]]:
    """(measure, one row of count, value and what else it names) for each measure of the claim's grid."""
    import pandas as pd

    assert claim.grid is not None
    for measure, named in (claim.grid.measures or {"": {}}).items():
        found = {key: evaluated(claim, rows, expression, words) for key, expression in named.items()}
        yield measure, pd.DataFrame([{"count": len(rows), "value": len(rows), **found}])


def audit_frames(root: Path, alpha: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(audit, specification curves) of all claims. Raises UserError where a claim is odd."""
    import pandas as pd

    words = vocabulary(root, alpha)
    claims = load_claims(root)
    found = [row for claim in claims for row in audit_rows(claim, rows_of(root, claim, words), words)]
    curves = [row for claim in claims for row in curve_rows(root, claim, words)]
    return pd.DataFrame(found, columns=list(COLUMNS)), pd.DataFrame(curves, columns=list(CURVE_COLUMNS))


def main() -> None:
    """`python -m src.audit`: data/stats + conf/claim -> data/audit."""
    command("audit", __doc__, "", "&& dvc repro report").parse_args()
    with stage("audit"):
        rows, curves = audit_frames(ROOT, float(params()["alpha"]))
        for name, frame in {"audit": rows, "specifications": curves}.items():
            with whole(OUT / f"{name}.parquet") as part:
                as_declared(name, frame).to_parquet(part, index=False)
    print(
        f"{len(rows)} claims: "
        + ", ".join(f"{n} {verdict}" for verdict, n in verdict_counts(list(rows["verdict"])).items())
    )


if __name__ == "__main__":
    main()
