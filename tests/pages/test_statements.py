"""The audit as the page shows it: places on an axis, counts in sentences, ids, and the analyses behind the switches."""

import itertools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.base.verdict import WORDS
from src.pages import statements, switches
from src.pages.choices import COUNTED, by_choice
from src.pages.inline import inlined
from tests.test_report import STATEMENTS, project

NUMBERS = st.floats(-3, 3, allow_nan=False)


def row(value: float | None, **more: Any) -> dict[str, Any]:
    numbers = {"value": value, "low": None, "high": None, "reference": 0.0, "bar": None, "n": 20}
    return {**numbers, "unit": "difference", "interval": "95 %", "item": "a", "word": "depends", **more}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project(tmp_path_factory.mktemp("statements"))


@pytest.fixture(scope="module")
def audit(root: Path) -> statements.Audit:
    found = statements.load(root, {}, ("RQ1", "RQ4"))
    assert found
    return found


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS).map(sorted), min_size=1, max_size=8))
def test_whatever_is_drawn_lies_on_the_strip_in_the_order_of_its_numbers(triples: list[list[float]]) -> None:
    rows = [row(value, low=low, high=high) for low, value, high in triples]
    ends = statements.axis(rows, "difference")
    for each in rows:
        strip = statements.strip_of(each, ends)
        assert strip.low is not None
        assert strip.at is not None
        assert strip.high is not None
        assert 0 <= strip.low <= strip.at <= strip.high <= 100
        assert strip.reference == 50


@given(st.lists(NUMBERS, min_size=1, max_size=8))
def test_the_mirror_image_of_numbers_is_the_mirror_image_of_the_figure(values: list[float]) -> None:
    rows, mirrored = [row(value) for value in values], [row(-value) for value in values]
    ends = statements.axis(rows, "difference")
    assert statements.axis(mirrored, "difference") == ends
    for one, other in zip(rows, mirrored, strict=True):
        at, back = statements.strip_of(one, ends).at, statements.strip_of(other, ends).at
        assert at is not None
        assert back is not None
        assert at + back == pytest.approx(100, abs=0.11)


@given(st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.4]), min_size=2, max_size=12))
def test_no_mark_covers_another(values: list[float]) -> None:
    marks = statements.marks_of([row(value) for value in values], (-1.0, 1.0))
    assert len(marks) == len(values)
    for lane in {mark.lane for mark in marks}:
        places = sorted(mark.at for mark in marks if mark.lane == lane)
        assert all(b - a >= statements.LANE_WIDTH for a, b in itertools.pairwise(places))


def test_a_number_that_is_missing_is_not_drawn() -> None:
    strip = statements.strip_of(row(None), (-1.0, 1.0))
    assert (strip.at, strip.low, strip.text) == (None, None, "no number; no effect at 0")


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"low": -0.1, "high": 0.3}, "+0.200 (95 % from −0.100 to +0.300)"),
        ({"unit": "accuracy", "low": 0.1, "high": 0.3}, "0.200 (95 % from 0.100 to 0.300)"),
        ({"unit": "count", "value": 4}, "4 of 20"),
        ({}, "+0.200"),
    ],
)
def test_a_number_is_said_with_its_interval(more: Mapping[str, Any], text: str) -> None:
    assert statements.value_text({**row(0.2), **more}) == text


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ({"supported": 1}, "1 is supported"),
        ({"supported": 4, "depends": 1, "no number": 2}, "4 are supported, 1 depends on a choice and 2 have no number"),
        ({}, "none has a word"),
    ],
)
def test_counts_read_as_a_sentence(words: Mapping[str, int], text: str) -> None:
    assert statements.said_of_many(words) == text


def test_every_word_has_its_place_in_a_sentence() -> None:
    assert set(statements.IN_SENTENCES) == set(WORDS)


def test_ids_of_statements_are_unique_and_plain(audit: statements.Audit) -> None:
    anchors = [each.anchor for each in audit.statements]
    assert len(set(anchors)) == len(STATEMENTS)
    assert all(re.fullmatch(r"s(-[a-z0-9]+)+", anchor) for anchor in anchors)


def test_claims_about_the_same_tasks_share_a_figure(audit: statements.Audit) -> None:
    assert [[claim.name for claim in group] for group in statements.forests(audit.claims)] == [["tasks"], ["pairs"]]


def test_the_page_holds_the_result_of_every_analysis(root: Path, audit: statements.Audit) -> None:
    data = switches.switches(root, audit)
    anchors = {(claim.name, each.row["item"]): each.anchor for claim in audit.claims for each in claim.statements}
    frame = pd.read_parquet(root / "data/audit/analyses.parquet")
    for each in frame.to_dict("records"):
        claim, taken = data["claims"][each["claim"]], json.loads(each["taken"])
        code = [data["choices"][name].index(taken[name]) for name in claim["choices"]]
        at = claim["analyses"].index(code)
        item = each["item"].replace("_", " ")
        [line] = [line for line in claim["statements"] if line[0] == anchors[each["claim"], item]]
        _, primary, results, why = line
        missing = pd.isna(each["outcome"])
        assert results[at] == ("x" if missing else {1: "+", -1: "-", 0: "0"}[int(each["outcome"])])
        assert (str(at) in why) == missing
        assert (primary == at) == each["primary"]


def test_results_by_choice_count_each_analysis_once_a_choice(root: Path) -> None:
    frame = pd.read_parquet(root / "data/audit/analyses.parquet").query("claim == 'tasks'")
    lines = by_choice(frame)
    for choice in ("bar", "prompt"):
        rows = [each for each in lines if each["choice"] == choice]
        assert len(rows) == 2
        assert sum(each[name] for each in rows for name in (*COUNTED, "none")) == len(frame)
    doubled = pd.concat([frame.assign(counted=True), frame.assign(counted=False)])
    assert by_choice(doubled) == lines


def test_a_figure_of_the_page_has_its_own_ids_and_no_colour_of_its_own() -> None:
    svg = """<?xml version="1.0"?><!DOCTYPE svg><svg width="10pt" height="5pt" viewBox="0 0 10 5"><metadata>x</metadata>
      <defs><clipPath id="p1"><rect/></clipPath></defs><g id="axes_1"><path clip-path="url(#p1)" d="M 1.23456 2"
      style="stroke: #0072b2; fill: #ffffff"/><use href="#p1"/></g></svg>"""
    found = inlined(svg, "figure1", 'a "quoted" <figure>')
    assert 'id="figure1-p1"' in found
    assert "url(#figure1-p1)" in found
    assert 'href="#figure1-p1"' in found
    assert "axes_1" not in found
    assert "metadata" not in found
    assert "stroke: var(--blue); fill: var(--paper)" in found
    assert "M 1.23 2" in found
    assert "&lt;figure&gt;" in found
