"""The option that a model finds likeliest, by three normalisations, and the probability of each option."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from src.base.errors import UserError
from src.base.metrics import PROBABILITIES
from src.engine.job import Likelihood
from src.question import prompts
from src.question.prompts import Prompt

TIE = 1e-6  # nats: what fp32 leaves between two equal sums

NORMS: dict[str, Callable[[int, str], int]] = {  # (tokens, option) -> what log p is divided by
    "plain": lambda tokens, option: 1,
    "per_token": lambda tokens, option: max(tokens, 1),
    "per_character": lambda tokens, option: max(len(option), 1),
}


def pick(logprob: Sequence[float], n_tokens: Sequence[int], options: Sequence[str], how: str) -> frozenset[int]:
    """Indices of the likeliest options; more than one if they tie (within 1e-6 nats, per unit of `how`).

    logprob: nats, n_tokens, options: one an option. how: plain | per_token | per_character. Raises UserError else.
    """
    values = scaled(logprob, n_tokens, options, how)
    return frozenset(i for i, value in enumerate(values) if value >= max(values) - TIE)


def scaled(logprob: Sequence[float], n_tokens: Sequence[int], options: Sequence[str], how: str) -> list[float]:
    """Log-likelihoods over what `how` divides by, one an option. Raises UserError for an unknown `how`."""
    if how not in NORMS:
        raise UserError(f"Unknown normalisation of likelihoods {how!r}. Known: {', '.join(NORMS)}")
    return [p / NORMS[how](n, o) for p, n, o in zip(logprob, n_tokens, options, strict=True)]


def share(picked: frozenset[int], target: int) -> float:
    """Credit 0-1: a t-way tie that includes the target scores 1/t."""
    return 1 / len(picked) if target in picked else 0.0


FIELDS = ("likelihood", "likelihood_plain", "likelihood_token", "likelihood_picked", *PROBABILITIES)
"""The fields of Score that come from log-likelihoods."""


def likelihood_scores(prompt: Prompt, likelihood: Likelihood | None, lettered: bool) -> dict[str, Any]:
    """The likelihood fields of Score (FIELDS); each is None where the options are not scored.

    Characters are those of what the continuation states: the option without its full stop, or its letter (so that
    per character equals plain where the answer is lettered).
    """
    if likelihood is None or not prompt.options or prompt.target is None:
        return dict.fromkeys(FIELDS)
    stated = ["x" if lettered else prompts.without_full_stop(option) for option in prompt.options]
    picked = {how: pick(likelihood.logprob, likelihood.n_tokens, stated, how) for how in NORMS}
    per_character = scaled(likelihood.logprob, likelihood.n_tokens, stated, "per_character")
    return {
        "likelihood": share(picked["per_character"], prompt.target),
        "likelihood_plain": share(picked["plain"], prompt.target),
        "likelihood_token": share(picked["per_token"], prompt.target),
        "likelihood_picked": min(picked["per_character"]),
        **probability_scores(likelihood.logprob, per_character, prompt.target),
    }


def probability_scores(logprob: Sequence[float], per_character: Sequence[float], target: int) -> dict[str, float]:
    """The steps between the log-likelihood of the gold option and accuracy: the fields PROBABILITIES of Score.

    logprob: nats, the sum over an option's tokens; per_character: the same over its number of characters. `*_plain` is
    by the sum, as Schaeffer et al. (2024, arXiv 2406.04391) have it: the log-likelihood of the right choice, its
    probability, the probability of the wrong choices together, the share of the right one in all that falls on the
    options shown, and the Brier score. The others are by log-likelihood per character, as the metric `likelihood`
    picks. Their shares are those of geometric means per character. They are the probability of no text.

    What lies outside the options shown lowers `gold_probability_plain` and moves no share. The probabilities of options
    of which one begins another do not exclude each other, so they may sum to more than 1.
    """
    plain, by_character = shares(logprob), shares(per_character)
    wrong = [p for i, p in enumerate(logprob) if i != target]
    return {
        "gold_logprob_plain": logprob[target],
        "gold_probability_plain": math.exp(logprob[target]),
        "wrong_probability_plain": math.fsum(map(math.exp, wrong)),
        "gold_share_plain": plain[target],
        "brier_plain": brier(plain, target),
        "gold_logprob": per_character[target],
        "gold_share": by_character[target],
        "brier": brier(by_character, target),
    }


def shares(values: Sequence[float]) -> list[float]:
    """Softmax of log-likelihoods (nats): the share 0-1 of each option in what all options have. They sum to 1.

    The largest is taken off first, so that no sum is too long for an exponential. Where every option is impossible
    (-inf) all have the same share, as `pick` calls them tied. Raises UserError for what is no log-likelihood.
    """
    if any(math.isnan(value) or value == math.inf for value in values):
        raise UserError(f"No log-likelihoods: {list(values)}. The engine gave them: run the cell again")
    top = max(values)
    if top == -math.inf:
        return [1 / len(values)] * len(values)
    weights = [math.exp(value - top) for value in values]
    return [weight / math.fsum(weights) for weight in weights]


def brier(probabilities: Sequence[float], target: int) -> float:
    """Brier's score of a forecast over m options: sum of squares of (probability - 1 for the gold option, 0 else).

    0 is best, 2 is worst, 1 - 1/m is that of equal probabilities (Brier 1950, Monthly Weather Review 78, 1).
    """
    return math.fsum((p - (i == target)) ** 2 for i, p in enumerate(probabilities))
