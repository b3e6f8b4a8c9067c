"""The rows of the audit: what is counted, how often, and over how many."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from src.base.files import ROOT
from src.base.frames import differences, load_schemas
from src.base.verdict import CONTRADICTED, SUPPORTED, WORDS
from src.judgement.audit import frames, inferences
from src.judgement.claims import Claim, load_claims
from src.judgement.family import Family
from src.judgement.rows import analyses, judged
from src.judgement.scores import Scores
from src.judgement.word import family_word
from tests.judgement.conftest import ALPHA, NO_POOLED

CLAIMS = load_claims(ROOT)
NUMBERS = ["claim", "item", "value", "low", "high", "p_for", "p_against", "n"]
RAW = ["effect", "small", "effect_2", "small_2"]


@pytest.fixture(scope="module")
def found(scores: Scores) -> dict[str, pd.DataFrame]:
    return frames(CLAIMS, scores, NO_POOLED)


@pytest.fixture(scope="module")
def families(scores: Scores) -> dict[str, list[Family]]:
    return {claim.name: claim.families(scores) for claim in CLAIMS}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_a_claim_has_one_rule_for_each_item_and_each_family_other_choices(families, claim: Claim):
    rules = [item for family in families[claim.name] if family.rule for item in family.items]
    assert rules
    assert len(rules) == len(set(rules))
    taken = [(tuple(family.taken.items()), item) for family in families[claim.name] for item in family.items]
    assert len(taken) == len(set(taken))
    assert {item for _, item in taken} == set(rules)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_the_denominator_is_the_number_of_rows_with_a_p_value(families, claim: Claim):
    """Null rows are in no family: 21 tests are 21, not 22. An item that is judged on two sides has two tests."""
    for family in families[claim.name]:
        known = family.each(ALPHA)[["p_for", "p_against"]].notna().any(axis=1)
        sides = 2 if family.rows["effect_2"].notna().any() else 1
        assert family.tests == sides * known.sum()
        assert not known[family.rows["reason"].notna()].any()


@pytest.mark.slow
def test_the_counts_of_a_row_are_those_of_its_analyses(found):
    audit, every = found["audit"].set_index(["claim", "item"]), found["analyses"]
    assert audit.index.is_unique
    assert (every.groupby(["claim", "item"])["primary"].sum() == 1).all()
    counted = every[every["counted"] & every["outcome"].notna()]
    by = counted.groupby(["claim", "item"])["outcome"]
    many = by.size().reindex(audit.index, fill_value=0)
    assert (audit["holds_in"] + audit["opposite_in"] + audit["neither_in"] == audit["analyses"]).all()
    assert (audit["analyses"] == many).all()
    assert (audit["holds_in"] == (by.agg(lambda each: (each == 1).sum())).reindex(audit.index, fill_value=0)).all()
    assert (audit["opposite_in"] == (by.agg(lambda each: (each == -1).sum())).reindex(audit.index, fill_value=0)).all()


def uncorrected(families: dict[str, list[Family]]) -> pd.DataFrame:
    """By claim, item and choices: the correction, and the p values before it; none where a claim is about some item."""
    return pd.DataFrame([
        {"claim": claim, "item": item, "taken": json.dumps(dict(family.taken)), "correction": family.correction,
         **(dict.fromkeys(RAW, np.nan) if family.some else family.rows.loc[item, RAW].astype(float))}
        for claim, each in families.items() for family in each for item in family.items
    ])  # fmt: skip


@pytest.mark.slow
def test_no_analysis_is_counted_twice(found, families):
    """Two that have the same numbers, the same p before correction and the same correction are one analysis."""
    every = found["analyses"].merge(uncorrected(families), on=["claim", "item", "taken"], validate="one_to_one")
    every = every[every["outcome"].notna()]
    numbers = [*NUMBERS[2:], *RAW]
    same = every[[*NUMBERS[:2], "correction", *numbers]].astype(dict.fromkeys(numbers, float))
    counted = every["counted"].astype(bool)
    assert 0 < counted.sum() < len(every)
    assert not same[counted].duplicated().any()
    assert (same.drop_duplicates().index == every.index[counted]).all()  # each that is left out is a later twin


@pytest.mark.slow
def test_the_frames_are_declared_and_every_row_says_why(found):
    schemas = load_schemas(ROOT)
    for name, frame in found.items():
        assert [each for each in differences(schemas[name], frame) if "pooled" not in each] == []
    audit = found["audit"]
    assert set(audit["word"]) <= set(WORDS)
    for column in ("statement", "why", "rule", "place", "said"):
        assert audit[column].str.len().min() > 0
    unnamed = audit["word"].isin(["not comparable", "no number"])
    assert audit.loc[unnamed, "reason"].notna().all()
    assert not audit["why"].str.contains("[{}]|nan|None", regex=True).any()


@pytest.mark.slow
def test_an_undetermined_row_says_what_its_n_would_have_found(found):
    audit = found["audit"]
    told = audit[(audit["word"] == "undetermined") & audit["detectable_of"].fillna("").ne("")]
    assert told["matters"].notna().all()
    assert told["detectable"].notna().mean() > 0.8  # elsewhere no effect is found with 80 % power


@pytest.mark.slow
def test_a_p_is_no_interval_and_a_recount_has_no_sampling_interval(found):
    audit = found["audit"]
    counts = audit[audit["claim"].str.endswith("_count")]
    assert counts[["low", "high", "p_for", "p_against"]].isna().all(axis=None)
    interval = audit.dropna(subset=["low", "high", "value"])
    assert (interval["low"] <= interval["value"] + 1e-9).all()
    assert (interval["value"] <= interval["high"] + 1e-9).all()
    assert audit.loc[audit["unit"] == "correlation", ["low", "high"]].notna().all(axis=None)
    assert not (audit.loc[audit["unit"] == "correlation", "p_for"] == 0).any()


@pytest.mark.parametrize("name", ["figure2_tasks", "table2_above", "table2_emergent"])
def test_had_the_paper_said_the_opposite_every_word_would_be_mirrored(scores: Scores, name: str):
    (claim,) = [each for each in CLAIMS if each.name == name]
    families = claim.families(scores)
    said_otherwise = [replace(each, rows=each.rows.assign(up=~each.rows["up"].astype(bool))) for each in families]
    found, mirrored = (analyses(each, scores.alpha) for each in (families, said_otherwise))
    for item in next(family.items for family in families if family.rule):
        one, other = (judged([row for row in each if row["item"] == item]) for each in (found, mirrored))
        assert other["word"] == {SUPPORTED: CONTRADICTED, CONTRADICTED: SUPPORTED}.get(one["word"], one["word"])
        assert (other["holds_in"], other["opposite_in"]) == (one["opposite_in"], one["holds_in"])
        assert other["neither_in"] == one["neither_in"]


def test_inferences_count_the_rows_of_a_family_once():
    rows = pd.read_csv(ROOT / "reports/tables/audit.csv", keep_default_na=False)
    found = inferences(rows)
    assert found["inference"].is_unique
    assert found["rows"].sum() == len(rows)
    for each in found.itertuples():
        words = list(rows.loc[rows["inference"] == each.inference, "word"])
        assert each.word == family_word(words)
        known = each.supported + each.contradicted + each.depends + each.undetermined + each.not_comparable
        assert known + words.count("no number") == each.rows


def test_the_tracked_audit_is_whole():
    """reports/tables/audit.csv: words that are known, counts that add up, a number of tests where one corrects."""
    rows = pd.read_csv(ROOT / "reports/tables/audit.csv")
    assert set(rows["claim"]) == {claim.name for claim in CLAIMS}
    assert set(rows["word"]) <= set(WORDS)
    assert (rows["holds_in"] + rows["opposite_in"] + rows["neither_in"] == rows["analyses"]).all()
    assert rows[["statement", "why", "rule", "place"]].notna().all(axis=None)
    corrected = rows["correction"] != "none"
    assert rows.loc[corrected, "correction"].str.fullmatch(r"Holm over \d+ .+").all()
    for name in ("table2_above", "table4_manual"):  # each task of these is a row
        over = rows[rows["claim"] == name]
        assert set(over["correction"].str.extract(r"(\d+)")[0].dropna().astype(int)) == {over["p_for"].notna().sum()}
