"""Both sides of a claim take the same tests, the same correction over the same rows, and mirror each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from src.base.verdict import BOTH, CONTRADICTED, HOLDS, NEITHER, OPPOSITE, SUPPORTED
from src.judgement import family
from src.judgement.family import (
    CORRECTIONS,
    HOLM,
    NONE,
    Family,
    alike,
    claimed,
    corrected,
    frame_of,
    outcomes,
)
from src.judgement.word import word_of
from tests.judgement.conftest import ALPHA

NAN = float("nan")
P = st.one_of(st.floats(0, 1), st.floats(0, 0.06), st.just(NAN))
OUTCOMES = st.sampled_from([HOLDS, OPPOSITE, NEITHER, BOTH, None])
MIRRORED = {HOLDS: OPPOSITE, OPPOSITE: HOLDS, NEITHER: NEITHER, BOTH: BOTH, None: None}
METHODS = st.sampled_from([*CORRECTIONS.values(), NONE])


@st.composite
def arrays(draw: Any, *, up: bool | None = None) -> dict[str, np.ndarray]:
    """Rows of a family as arrays."""
    n = draw(st.integers(1, 6))
    many = {name: draw(st.lists(P, min_size=n, max_size=n)) for name in ("effect", "small", "effect_2", "small_2")}
    bools = {name: draw(st.lists(st.booleans(), min_size=n, max_size=n)) for name in ("up", "excluded")}
    signs = draw(st.lists(st.sampled_from([-1.0, 1.0]), min_size=n, max_size=n))
    out = {name: np.array(each) for name, each in {**many, **bools, "sign": signs}.items()}
    return out if up is None else out | {"up": np.full(n, up)}


def found(p_for: np.ndarray, p_against: np.ndarray) -> list[int | None]:
    return [None if each is pd.NA else int(each) for each in outcomes(p_for, p_against, ALPHA)]


@given(arrays(up=True))
def test_the_opposite_of_an_effect_is_the_mirrored_effect_or_one_too_small(rows):
    mirrored = {**rows, "sign": -rows["sign"]}
    upwards, against = claimed(rows)
    downwards, against_downwards = claimed(mirrored)
    assert_array_equal(against, np.fmin(rows["small"], downwards))
    assert_array_equal(against_downwards, np.fmin(rows["small"], upwards))


@given(arrays())
def test_no_effect_is_opposed_by_an_effect_in_either_direction_under_one_p(rows):
    rows = {**rows, "up": np.zeros(len(rows["up"]), dtype=bool)}
    mirrored = {**rows, "sign": -rows["sign"]}
    for one, other in zip(claimed(rows), claimed(mirrored), strict=True):
        assert_array_equal(one, other)
    sides = [claimed({**each, "up": ~each["up"]})[0] for each in (rows, mirrored)]
    assert_array_equal(claimed(rows)[1], np.fmin(*sides))


@given(arrays())
def test_results_mirror_where_p_for_and_p_against_change_places(rows):
    p_for, p_against = rows["effect"], rows["small"]
    assert found(p_against, p_for) == [MIRRORED[each] for each in found(p_for, p_against)]


@given(OUTCOMES, st.lists(OUTCOMES, max_size=8))
def test_words_mirror_where_results_do(rule, others):
    swap = {SUPPORTED: CONTRADICTED, CONTRADICTED: SUPPORTED}
    word = word_of(rule, others)
    assert word_of(MIRRORED[rule], [MIRRORED[each] for each in others]) == swap.get(word, word)


@given(arrays())
def test_agreement_does_not_know_left_from_right(rows):
    swapped = {**rows, "effect": rows["effect_2"], "effect_2": rows["effect"]}
    swapped |= {"small": rows["small_2"], "small_2": rows["small"]}
    for method in (NONE, *CORRECTIONS.values()):
        for one, other in zip(alike(corrected(rows, method)), alike(corrected(swapped, method)), strict=True):
            assert_array_equal(one, other)


@given(arrays())
def test_where_one_side_is_complemented_agreement_is_disagreement(rows):
    complemented = {**rows, "effect_2": rows["small_2"], "small_2": rows["effect_2"]}
    same, other = alike(rows)
    assert_array_equal(alike(complemented)[0], other)
    assert_array_equal(alike(complemented)[1], same)
    flipped = alike({**rows, "up": ~rows["up"]})
    assert_array_equal(flipped[0], other)
    assert_array_equal(flipped[1], same)


@given(arrays(), METHODS)
def test_the_correction_is_the_same_on_both_sides(rows, method):
    """Where effects and their absence have each other's p, each gets the other's after correction, too."""
    swapped = {**rows, "effect": rows["small"], "small": rows["effect"]}
    swapped |= {"effect_2": rows["small_2"], "small_2": rows["effect_2"]}
    one, other = corrected(rows, method), corrected(swapped, method)
    for name, twin in (("effect", "small"), ("effect_2", "small_2")):
        assert_array_equal(one[name], other[twin])
        assert_array_equal(one[twin], other[name])


@given(arrays())
def test_holm_is_as_strict_for_a_lone_p_as_the_number_of_tests_says(rows):
    """The least p of each side is multiplied by the number that the row prints."""
    many = family.tested(rows).sum()
    for pair in (("effect", "effect_2"), ("small", "small_2")):
        raw = np.where(rows["excluded"], NAN, np.array([rows[name] for name in pair]))
        holm = np.array([corrected(rows, HOLM)[name] for name in pair])
        assert_array_equal(np.isnan(raw), np.isnan(holm))
        if not np.isnan(raw).all():
            assert np.nanmin(holm) == pytest.approx(min(1.0, many * np.nanmin(raw)))


@given(arrays(), METHODS)
def test_an_item_that_cannot_be_compared_is_in_no_family(rows, method):
    """The p of the others are those of a family without it."""
    here = ~rows["excluded"]
    alone = corrected({name: values[here] for name, values in rows.items()}, method)
    whole = corrected(rows, method)
    for name in ("effect", "small", "effect_2", "small_2"):
        assert_array_equal(whole[name][here], alone[name])
        assert np.isnan(whole[name][~here]).all()


def test_one_missing_p_supports_nothing():
    assert found(np.array([NAN, 0.01, NAN, 0.5]), np.array([0.5, NAN, 0.01, NAN])) == [0, 1, -1, 0]
    assert found(np.array([NAN]), np.array([NAN])) == [None]


def test_a_row_with_a_reason_gives_no_result_however_small_its_p():
    rows = {"a": {"small": 0.001, "reason": "a rejected line"}, "b": {"small": 0.001}, "c": {"small": 0.4}}
    outcome = Family({}, frame_of(rows), HOLM).result(ALPHA)["outcome"]
    assert pd.isna(outcome["a"])
    assert list(outcome[["b", "c"]]) == [OPPOSITE, NEITHER]


@pytest.mark.parametrize("sides", [("effect", "effect_2"), ("small", "small_2")])
def test_one_of_two_ways_to_agree_takes_twice_its_p(sides):
    """Both sides have p = .02 of one way: together .04. At .03 it is .06, which shows nothing."""
    rows = {str(p): {name: p if name in sides else 0.9 for name in ("effect", "small", "effect_2", "small_2")}
            for p in (0.02, 0.03)}  # fmt: skip
    found = Family({}, frame_of(rows), judged=alike).result(ALPHA)
    assert found["p_for"].tolist() == pytest.approx([0.04, 0.06])
    assert list(found["outcome"]) == [HOLDS, NEITHER]


@pytest.mark.parametrize(
    ("p", "result"),
    [
        ([(0.001, 0.9), (0.9, 0.9)], HOLDS),
        ([(0.9, 0.001), (0.9, 0.001)], OPPOSITE),
        ([(0.9, 0.001), (0.9, 0.9)], NEITHER),
        ([(0.9, 0.04), (0.9, 0.03)], OPPOSITE),  # the largest p, uncorrected
        ([(0.04, 0.9), (0.9, 0.9)], NEITHER),  # one of two suffices, so Holm corrects
    ],
)
def test_that_some_item_is_so_is_opposed_by_all_items_shown_not_to_be(p, result):
    rows = frame_of({str(i): {"effect": effect, "small": small} for i, (effect, small) in enumerate(p)})
    assert Family({}, rows, HOLM, some=True).result(ALPHA)["outcome"][""] == result
