"""The audit: a claim is one YAML, every row has a verdict and a reason, and a rule that cannot be computed is named."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from scipy.stats import binom

from src.audit import (
    TABLES,
    audit_frames,
    audit_rows,
    difference_high,
    difference_low,
    k_needed,
    load_claims,
    rows_of,
    vocabulary,
)
from src.base.errors import UserError
from src.base.files import ROOT
from src.base.verdict import VERDICTS

CLAIM = {
    "place": "Table 9", "frame": "data/stats/made.parquet", "item": "task", "paper": "says", "value": "accuracy",
    "rule": "interval above or below chance", "checkable": "chance == chance",
    "if_yes": {"statement": "{task}: above", "follows": "low > chance", "contradicted": "high < chance"},
    "if_no": {"statement": "{task}: not above", "follows": "high < chance", "contradicted": "low > chance"},
    "low": "low", "high": "high", "p": "low / 2", "why": "{accuracy:.2f} against {chance:.2f}", "flip": "more examples",
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
    shutil.copy(ROOT / TABLES, tmp_path / TABLES)
    ROWS.to_parquet(tmp_path / "data/stats/made.parquet")
    return tmp_path


def write(root: Path, **changes: object) -> None:
    (root / "conf/claim/made.yaml").write_text(yaml.safe_dump({**CLAIM, **changes}))


def test_one_yaml_is_a_claim_with_a_verdict_a_reason_and_a_curve(root: Path):
    write(root)
    rows, curves = audit_frames(root, 0.05)
    assert list(rows["verdict"]) == [
        "follows",
        "within noise",
        "contradicted",
        "cannot be checked",
        "cannot be checked",
    ]
    assert rows["why"][0] == "0.90 against 0.50"
    assert list(rows["p"]) == [0.35, 0.2, 0.0, 0.35, 0.35]
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
    curves = audit_frames(root, 0.05)[1]
    assert list(curves["analysis"]) == [
        f"by: {by}; of: all; measure: {measure}" for by in ("bare", "margin") for measure in ("least", "mean")
    ]
    assert list(curves["value"].round(3)) == [0.6, 0.8, 0.9, 0.9]  # of a, b and e; of a and e
    assert list(curves["holds"]) == [False, True, True, True]


def test_a_curve_can_read_another_frame_than_its_claim(root: Path):
    pd.DataFrame({"k": [1, 2, 3]}).to_parquet(root / "data/stats/other.parquet")
    factors = {"by": {"all": "twice > 0", "more": "twice > 2"}}
    write(
        root,
        grid={**CLAIM["grid"], "frame": "data/stats/other.parquet", "derive": {"twice": "2 * k"}, "factors": factors},
    )
    assert list(audit_frames(root, 0.05)[1]["count"]) == [3, 2]


def test_a_claim_can_ask_for_single_numbers_of_a_frame(root: Path):
    summary = {"criterion": "'a'", "accuracy": "@only(accuracy, task == 'a')", "low": "@only(low, task == 'b')"}
    sides = {"statement": "a", "follows": "accuracy > low", "contradicted": "accuracy < low"}
    claim = {key: CLAIM[key] for key in ("place", "frame", "rule", "value", "flip")} | {"if_yes": sides, "why": "x"}
    path = root / "conf/claim/single.yaml"
    path.write_text(yaml.safe_dump({**claim, "summary": summary}))
    row = audit_frames(root, 0.05)[0].iloc[0]
    assert (row["verdict"], row["criterion"], row["value"]) == ("follows", "a", 0.9)
    path.write_text(yaml.safe_dump({**claim, "summary": {**summary, "low": "@only(low, n == 10)"}}))
    with pytest.raises(UserError, match="@only"):
        audit_frames(root, 0.05)


def test_where_the_paper_says_no_the_other_side_judges(root: Path):
    write(root, paper="not says")
    assert list(audit_frames(root, 0.05)[0]["verdict"][:3]) == ["contradicted", "within noise", "follows"]


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
        audit_frames(root, 0.05)
    assert "conf/claim/made.yaml" in str(error.value)


def test_every_claim_of_the_project_speaks_of_a_place_and_a_rule():
    found = load_claims(ROOT)
    assert {"table2_above", "table2_predictable", "table2_emergent", "table4_manual"} <= {c.name for c in found}
    assert all(c.place and c.rule and c.flip for c in found)


QUESTIONS = {
    "RQ1": [("emergent", {"value": 0, "n": 21}), ("emergent_by_margin", {"value": 3}),
            ("absence_supported", {"value": 11})],
    "RQ2": [("kappa", {"value": 0.5, "p": 0.01, "n": 20, "detectable": 0.7}),
            ("percentile_among_placebo_pairs", {"value": 96}),
            ("kappa_few_minus_zero", {"value": 0.2, "low": 0.1, "high": 0.3})],
    "RQ3": [("memorisable_with_skill", {"value": 0.5, "p": 0.01, "n": 21}), ("formal_tasks", {"value": 3})],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "change", "verdict"),
    [
        ("rq1_count", {}, "within noise"),
        ("rq1_count", {"emergent": {"value": 1}}, "follows"),
        ("rq1_count", {"absence_supported": {"value": 21}}, "contradicted"),
        ("rq2_overlap", {}, "follows"),
        ("rq2_overlap", {"kappa": {"p": 0.06}}, "within noise"),
        ("rq2_overlap", {"percentile_among_placebo_pairs": {"value": 94}}, "within noise"),
        ("rq2_overlap", {"kappa_few_minus_zero": {"low": -0.1}}, "within noise"),
        ("rq2_overlap", {"kappa": {"value": 0.0, "p": 0.6}}, "contradicted"),
        ("rq3_memorisable", {}, "follows"),
        ("rq3_memorisable", {"memorisable_with_skill": {"p": 0.06}}, "within noise"),
        ("rq3_memorisable", {"memorisable_with_skill": {"value": -0.1, "p": 0.6}}, "contradicted"),
    ],
)
def test_the_questions_are_judged_by_the_documented_rules(root: Path, name: str, change: dict, verdict: str):
    columns = dict.fromkeys(("value", "low", "high", "p", "n", "detectable"))
    rows = [
        {"question": question, "criterion": criterion, **columns, **numbers, **change.get(criterion, {})}
        for question, many in QUESTIONS.items() for criterion, numbers in many
    ]  # fmt: skip
    assert one_verdict(root, "questions", pd.DataFrame(rows), name) == verdict


@pytest.mark.parametrize(
    ("mean", "t_p_holm", "tost_p", "verdict"),
    [
        (0.2, 0.01, 0.9, "follows"),
        (0.2, 0.06, 0.9, "within noise"),
        (0.0, 0.9, 0.01, "contradicted"),
        (-0.2, 0.01, 0.9, "contradicted"),
        (-0.2, 0.06, 0.9, "within noise"),
    ],
)
def test_a_pair_is_judged_under_holm_in_both_directions(
    root: Path, mean: float, t_p_holm: float, tost_p: float, verdict: str
):
    row = {"pair": "a against b, closed", "base": "a", "tuned": "b", "prompt": "closed", "n_tasks": 22, "bf10": 1.0,
           "mean_diff": mean, "median_diff": mean, "ci_low": mean - 0.1, "ci_high": mean + 0.1, "t_p": t_p_holm / 2,
           "wilcoxon_p": 0.5, "t_p_holm": t_p_holm, "tost_p": tost_p}  # fmt: skip
    assert one_verdict(root, "difference_in_differences", pd.DataFrame([row]), "rq4_gain") == verdict


def one_verdict(root: Path, frame: str, rows: pd.DataFrame, name: str) -> str:
    """The verdict of one of the project's claims on made rows."""
    rows.to_parquet(root / f"data/stats/{frame}.parquet")
    claim = next(each for each in load_claims(ROOT) if each.name == name)
    words = vocabulary(root, 0.05)
    (found,) = audit_rows(claim, rows_of(root, claim, words), words)
    return str(found["verdict"])


def test_no_pair_and_no_question_has_two_words():
    """What table questions says beside a criterion is what the audit says, once."""
    audit, questions = (pd.read_csv(ROOT / f"reports/tables/{name}.csv") for name in ("audit", "questions"))
    pairs = audit[audit["claim"] == "rq4_gain"].set_index("item")["verdict"]
    judged = questions.dropna(subset=["verdict"]).set_index("criterion")
    assert pairs.index.is_unique
    assert judged.loc[judged["question"] == "RQ4", "verdict"].to_dict() == pairs.to_dict()
    whole = audit[audit["claim"].isin(["rq1_count", "rq2_overlap", "rq3_memorisable"])]["verdict"]
    assert judged.loc[judged["question"] != "RQ4", "verdict"].tolist() == whole.tolist()
    assert not questions["criterion"].duplicated().any()


def test_k_needed_is_the_first_count_whose_tail_is_small_enough():
    k = int(k_needed(80, 1 / 3, 22, 0.05))
    assert binom.sf(k - 1, 80, 1 / 3) < 0.05 / 22 <= binom.sf(k - 2, 80, 1 / 3)


def test_the_interval_of_a_difference_is_newcombes():
    """Newcombe (1998), Statistics in Medicine 17:873, table II, method 10: 9/10 against 3/10."""
    assert difference_low([9], [3], 10)[0] == pytest.approx(0.1705, abs=5e-5)
    assert difference_high([9], [3], 10)[0] == pytest.approx(0.8090, abs=5e-5)


def test_the_tracked_audit_has_no_empty_row():
    rows = pd.read_csv(ROOT / "reports/tables/audit.csv")
    assert len(rows) > 100
    assert set(rows["verdict"]) <= set(VERDICTS)
    assert rows["why"].str.len().min() > 0
    assert rows["statement"].str.len().min() > 0
