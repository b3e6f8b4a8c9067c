"""The audit: a claim is one YAML, every row has a verdict and a reason, and a rule that cannot be computed is named."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from scipy.stats import binom

from src import claims
from src.config import ROOT, UserError

CLAIM = {
    "place": "Table 9", "frame": "data/stats/made.parquet", "item": "task", "paper": "says", "value": "accuracy",
    "rule": "interval above or below chance", "checkable": "chance == chance",
    "if_yes": {"statement": "{task}: above", "follows": "low > chance", "contradicted": "high < chance"},
    "if_no": {"statement": "{task}: not above", "follows": "high < chance", "contradicted": "low > chance"},
    "low": "low", "high": "high", "why": "{accuracy:.2f} against {chance:.2f}", "flip": "more examples",
    "alternatives": {"bare": "accuracy > chance", "wide": "accuracy > chance + 0.3"},
    "grid": {
        "statement": "something is above",
        "factors": {"by": {"bare": "accuracy > chance", "margin": "accuracy > chance + 0.3"}, "of": {"all": "n > 0"}},
        "measured": "Tasks",
        "holds": "count >= 2",
    },
}  # fmt: skip
ROWS = pd.DataFrame(
    {
        "task": ["a", "b", "c", "d", "e"], "n": [10] * 5, "chance": [0.5, 0.5, 0.5, None, 0.5],
        "accuracy": [0.9, 0.6, 0.1, 0.9, 0.9], "low": [0.7, 0.4, 0.0, 0.7, 0.7], "high": [1.0, 0.8, 0.2, 1.0, 1.0],
        "says": pd.array([True, True, True, True, None], dtype="boolean"),
    }
)  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("conf/claim", "data/stats", "data/published"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / claims.TABLES, tmp_path / claims.TABLES)
    ROWS.to_parquet(tmp_path / "data/stats/made.parquet")
    return tmp_path


def write(root: Path, **changes: object) -> None:
    (root / "conf/claim/made.yaml").write_text(yaml.safe_dump({**CLAIM, **changes}))


def test_one_yaml_is_a_claim_with_a_verdict_a_reason_and_a_curve(root: Path):
    write(root)
    rows, curves = claims.audit(root, 0.05)
    assert list(rows["verdict"]) == [
        "follows",
        "within noise",
        "contradicted",
        "cannot be checked",
        "cannot be checked",
    ]
    assert rows["why"][0] == "0.90 against 0.50"
    assert rows["why"][4] == "the paper gives no verdict here"
    assert rows["statement"][4] == "e: no verdict"  # nothing is put into the paper's mouth
    assert list(zip(rows["holds_in"][:3], rows["analyses"][:3], strict=True)) == [(2, 2), (1, 2), (0, 2)]
    assert list(curves["count"]) == [3, 2]
    assert list(curves["holds"]) == [True, True]


def test_a_curve_can_measure_the_rows_it_takes_in_more_ways_than_one(root: Path):
    measures = {
        "mean": {"value": "accuracy.mean()", "sure": "gain.max() > 0"},
        "least": {"value": "accuracy.min()", "sure": "low.min() > 0.6"},
    }
    grid = {**CLAIM["grid"], "measures": measures, "holds": "value > 0.5 and sure"}
    write(root, derive={"gain": "accuracy - chance"}, grid=grid)
    curves = claims.audit(root, 0.05)[1]
    assert list(curves["analysis"]) == [
        f"by: {by}; of: all; measure: {measure}" for by in ("bare", "margin") for measure in ("least", "mean")
    ]
    assert list(curves["value"].round(3)) == [0.6, 0.8, 0.9, 0.9]  # of a, b and e; of a and e
    assert list(curves["holds"]) == [False, True, True, True]


def test_where_the_paper_says_no_the_other_side_judges(root: Path):
    write(root, paper="not says")
    assert list(claims.audit(root, 0.05)[0]["verdict"][:3]) == ["contradicted", "within noise", "follows"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"value": "acuracy"}, "acuracy"),
        ({"where": "task == 'z'"}, "no row"),
        ({"statment": "x"}, "statment"),
        ({"if_yes": {"statement": "x", "follows": "low >"}}, "contradicted"),
        ({"low": "low >"}, "low >"),
    ],
)
def test_an_odd_claim_is_named(root: Path, change: dict[str, object], said: str):
    write(root, **change)
    with pytest.raises(UserError, match=said) as error:
        claims.audit(root, 0.05)
    assert "conf/claim/made.yaml" in str(error.value)


def test_every_claim_of_the_project_speaks_of_a_place_and_a_rule():
    found = claims.load_claims(ROOT)
    assert {"table2_above", "table2_predictable", "table2_emergent", "table4_manual"} <= {c.name for c in found}
    assert all(c.place and c.rule and c.flip for c in found)


def test_k_needed_is_the_first_count_whose_tail_is_small_enough():
    k = int(claims.k_needed(80, 1 / 3, 22, 0.05))
    assert binom.sf(k - 1, 80, 1 / 3) < 0.05 / 22 <= binom.sf(k - 2, 80, 1 / 3)


def test_the_interval_of_a_difference_is_newcombes():
    """Newcombe (1998), Statistics in Medicine 17:873, table II, method 10: 9/10 against 3/10."""
    assert claims.difference_low([9], [3], 10)[0] == pytest.approx(0.1705, abs=5e-5)
    assert claims.difference_high([9], [3], 10)[0] == pytest.approx(0.8090, abs=5e-5)


def test_the_tracked_audit_has_no_empty_row():
    rows = pd.read_csv(ROOT / "reports/tables/audit.csv")
    assert len(rows) > 100
    assert set(rows["verdict"]) <= set(claims.VERDICTS)
    assert rows["why"].str.len().min() > 0
    assert rows["statement"].str.len().min() > 0
