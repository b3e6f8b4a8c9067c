"""The word of a claim, what it turns on, and the word of an inference, by the tables of docs/statistics.md."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.base.verdict import (
    BOTH,
    CONTRADICTED,
    DEPENDS,
    HOLDS,
    NEITHER,
    NO_NUMBER,
    NOT_COMPARABLE,
    OPPOSITE,
    SUPPORTED,
    UNDETERMINED,
    WORDS,
)
from src.judgement.word import family_word, shares, turns_on, word_of

OUTCOMES = st.sampled_from([HOLDS, OPPOSITE, NEITHER, BOTH, None])


@pytest.mark.parametrize(
    ("rule", "others", "word"),
    [
        (HOLDS, [], SUPPORTED),
        (HOLDS, [HOLDS, NEITHER, None], SUPPORTED),
        (HOLDS, [OPPOSITE], DEPENDS),
        (HOLDS, [BOTH], DEPENDS),
        (OPPOSITE, [NEITHER], CONTRADICTED),
        (OPPOSITE, [HOLDS], DEPENDS),
        (BOTH, [], DEPENDS),
        (NEITHER, [HOLDS, HOLDS], UNDETERMINED),
        (NEITHER, [HOLDS, OPPOSITE], DEPENDS),
        (None, [HOLDS, OPPOSITE], NOT_COMPARABLE),
    ],
)
def test_the_word_by_the_table(rule, others, word):
    assert word_of(rule, others) == word
    assert word_of(rule, others, number=False) == NO_NUMBER


@given(OUTCOMES, st.lists(OUTCOMES, max_size=8), st.randoms())
def test_the_order_of_analyses_and_silent_ones_change_no_word(rule, others, random):
    word = word_of(rule, others)
    shuffled = [*others, None]
    random.shuffle(shuffled)
    assert word_of(rule, shuffled) == word


@given(st.lists(OUTCOMES, max_size=20))
def test_every_analysis_is_counted_once(found):
    many = shares(found)
    assert many.holds + many.opposite + many.neither == many.known
    assert many.known + many.none == len(found)
    assert many.holds == sum(each == HOLDS for each in found)
    assert many.neither == sum(each in (NEITHER, BOTH) for each in found)


LEVEL = st.sampled_from("xyz")


@given(st.lists(st.tuples(LEVEL, LEVEL), min_size=3, max_size=20))
def test_what_a_verdict_turns_on_is_the_choice_that_separates(taken):
    """The result is read off the choice `bar`; no other choice tells it better."""
    gives = {"x": HOLDS, "y": OPPOSITE, "z": NEITHER}
    analyses = [({"bar": bar, "prompt": prompt}, gives[bar]) for bar, prompt in taken]
    turn = turns_on(analyses)
    if len({bar for bar, _ in taken}) == 1:
        assert turn is None
    else:
        assert turn is not None
        assert turn[0] == "bar"
        for bar in {bar for bar, _ in taken}:
            many = sum(each == bar for each, _ in taken)
            counts = {"x": (many, 0), "y": (0, many), "z": (0, 0)}[bar]
            assert f"{bar}: holds in {counts[0]}, opposite in {counts[1]} of {many}" in turn[1]


def test_analyses_without_a_result_separate_nothing():
    assert turns_on([({"bar": "x"}, HOLDS), ({"bar": "y"}, None)]) is None
    assert turns_on([]) is None


@pytest.mark.parametrize(
    ("words", "word"),
    [
        ([SUPPORTED], SUPPORTED),
        ([SUPPORTED, SUPPORTED, CONTRADICTED], DEPENDS),
        ([SUPPORTED, CONTRADICTED], DEPENDS),
        ([SUPPORTED, DEPENDS], DEPENDS),
        ([SUPPORTED, UNDETERMINED, UNDETERMINED], SUPPORTED),
        ([CONTRADICTED, NOT_COMPARABLE, NOT_COMPARABLE], CONTRADICTED),
        ([SUPPORTED, UNDETERMINED, CONTRADICTED], DEPENDS),
        ([NO_NUMBER, SUPPORTED], SUPPORTED),
        ([NO_NUMBER], NO_NUMBER),
        ([DEPENDS, NOT_COMPARABLE, UNDETERMINED], DEPENDS),
        ([NOT_COMPARABLE, NOT_COMPARABLE, UNDETERMINED], NOT_COMPARABLE),
        ([NOT_COMPARABLE, UNDETERMINED, UNDETERMINED], UNDETERMINED),
        ([NO_NUMBER, NO_NUMBER, NOT_COMPARABLE], NOT_COMPARABLE),
    ],
)
def test_the_word_of_an_inference_by_the_table(words, word):
    assert family_word(words) == word


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=12))
def test_an_inference_mirrors_where_its_rows_do(words):
    swap = {SUPPORTED: CONTRADICTED, CONTRADICTED: SUPPORTED}
    word = family_word(words)
    assert family_word([swap.get(each, each) for each in words]) == swap.get(word, word)
