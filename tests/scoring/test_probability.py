"""The steps from the log-likelihood of the right option to accuracy, by hand and by what must hold for any options."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from src.base.errors import UserError
from src.base.metrics import PROBABILITIES
from src.base.schema import Compat
from src.engine.job import Completion, Likelihood
from src.question.prompts import Prompt
from src.scoring.likelihood import brier, shares
from src.scoring.match import Rules
from src.scoring.score import Score, score_cell

calm = settings(deadline=None)  # the machine may be busy
log_likelihoods = st.lists(st.floats(-1e4, 0), min_size=1, max_size=12)


def scored(logprob: tuple[float, ...] | None, *options: str, target: int | None = 0, lettered: bool = False) -> Score:
    """The score of one prompt with these options and log-likelihoods."""
    texts = tuple(f' "{option}".' for option in options)
    prompt = Prompt("t/0", "t/0", "", "?", options, texts, target, options[target or 0] if options else "x")
    likelihoods = {} if logprob is None else {"t/0": Likelihood(logprob, (1,) * len(logprob))}
    [score] = score_cell(
        [prompt], {"t/0": {1: Completion("", 1, "eos")}}, likelihoods, Rules(lettered, Compat(name="fixed"))
    )
    return score


def test_every_step_by_hand() -> None:
    # probabilities .2, .1 and .1; per character the logs are over 1, 2 and 4
    score = scored((math.log(0.2), math.log(0.1), math.log(0.1)), "a", "bb", "cccc.", target=0)
    assert score.gold_logprob_plain == pytest.approx(math.log(0.2))
    assert score.gold_probability_plain == pytest.approx(0.2)
    assert score.wrong_probability_plain == pytest.approx(0.2)
    assert score.gold_share_plain == pytest.approx(0.5)
    assert score.brier_plain == pytest.approx(0.25 + 2 * 0.0625)
    roots = (0.2, 0.1**0.5, 0.1**0.25)
    assert score.gold_logprob == pytest.approx(math.log(0.2))
    assert score.gold_share == pytest.approx(0.2 / sum(roots))
    assert score.brier == pytest.approx(
        (1 - roots[0] / sum(roots)) ** 2 + (roots[1] / sum(roots)) ** 2 + (roots[2] / sum(roots)) ** 2
    )
    assert (score.likelihood_plain, score.likelihood) == (1, 0)  # the steps part where lengths differ


def test_letters_have_one_character() -> None:
    score = scored((-2.0, -1.0), "a very long option", "no", lettered=True)
    assert score.gold_logprob == score.gold_logprob_plain == -2
    assert (score.gold_share, score.brier) == (score.gold_share_plain, score.brier_plain)


@pytest.mark.parametrize(("logprob", "options", "target"), [(None, ("a", "b"), 0), (None, (), None), ((), (), None)])
def test_what_is_not_scored_is_null(
    logprob: tuple[float, ...] | None, options: tuple[str, ...], target: int | None
) -> None:
    score = scored(logprob, *options, target=target)
    assert [getattr(score, name) for name in PROBABILITIES] == [None] * len(PROBABILITIES)


def test_one_option_has_everything_whatever_its_likelihood() -> None:
    score = scored((-50.0,), "a")
    assert (score.gold_share, score.brier, score.wrong_probability_plain) == (1, 0, 0)


@pytest.mark.parametrize("m", [2, 3, 10])
def test_equal_options_have_equal_shares_and_brier_one_minus_one_over_m(m: int) -> None:
    equal = shares([-7.5] * m)
    assert equal == pytest.approx([1 / m] * m)
    assert brier(equal, 0) == pytest.approx(1 - 1 / m)


def test_brier_runs_from_zero_to_two() -> None:
    assert brier([1, 0, 0], 0) == 0
    assert brier([0, 1, 0], 0) == 2


def test_an_impossible_right_option_has_no_share() -> None:
    score = scored((-math.inf, -1.0), "a", "b")
    assert (score.gold_logprob, score.gold_probability_plain, score.gold_share, score.brier) == (-math.inf, 0, 0, 2)


def test_where_all_are_impossible_the_shares_are_those_of_the_tie() -> None:
    score = scored((-math.inf, -math.inf), "a", "b")
    assert score.gold_share == score.likelihood == 0.5
    assert (score.brier, score.wrong_probability_plain) == (0.5, 0)


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_what_is_no_log_likelihood_is_refused(odd: float) -> None:
    with pytest.raises(UserError, match="run the cell again"):
        shares([-1.0, odd])


@calm
@given(log_likelihoods, st.floats(-1e4, 0))
def test_what_is_added_to_all_options_changes_no_share_and_no_brier(logprob: list[float], constant: float) -> None:
    moved = shares([value + constant for value in logprob])
    assert moved == pytest.approx(shares(logprob), abs=1e-9)
    assert brier(moved, 0) == pytest.approx(brier(shares(logprob), 0), abs=1e-9)


@calm
@given(log_likelihoods)
def test_shares_sum_to_one_and_are_the_softmax(logprob: list[float]) -> None:
    assert math.fsum(shares(logprob)) == pytest.approx(1)
    assert shares(logprob) == pytest.approx(softmax(np.array(logprob)).tolist(), abs=1e-12)


@calm
@given(log_likelihoods, st.data())
def test_the_likeliest_option_has_the_smallest_brier_of_all_golds(logprob: list[float], data: st.DataObject) -> None:
    of = shares(logprob)
    best = of.index(max(of))
    other = data.draw(st.integers(0, len(of) - 1))
    assert brier(of, best) <= brier(of, other) + 1e-12
