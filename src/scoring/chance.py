"""What a scorer allows: the score of a uniform guesser, and the largest score there can be."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from src.question.prompts import Prompt
from src.scoring.match import Rules, gold, right


def guess(prompt: Prompt, rules: Rules) -> Fraction | None:
    """Probability that the scorer calls a uniform guess right. None without options.

    It is 1/m, but 0 where not even the gold option is scored right.
    """
    m = len(prompt.options)
    if m == 0:
        return None
    return Fraction(1 if rules.lettered else sum(right(i, prompt, rules) for i in range(m)), m)


def mean(values: Sequence[Fraction | None]) -> float | None:
    """Exact mean. None where a value is missing or there is none."""
    known = [value for value in values if value is not None]
    return float(sum(known, Fraction()) / len(known)) if known and len(known) == len(values) else None


def chance(prompts: Sequence[Prompt]) -> float | None:
    """Mean of 1/m over prompts of m options. None where a prompt has no options."""
    return mean([Fraction(1, len(p.options)) if p.options else None for p in prompts])


def chance_scored(prompts: Sequence[Prompt], rules: Rules) -> float | None:
    """The score that uniform guessing gets under this scorer. None where a prompt has no options."""
    return mean([guess(p, rules) for p in prompts])


def ceiling(prompts: Sequence[Prompt], rules: Rules) -> float | None:
    """The share 0-1 of prompts that can be scored right; None without prompts."""
    return mean([Fraction(rules.lettered or right(gold(p), p, rules)) for p in prompts])
