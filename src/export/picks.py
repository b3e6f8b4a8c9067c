"""Which option a log-likelihood picks, as src/scoring counts it. The scores hold the credit alone."""

from __future__ import annotations

from src.export.parts import Item, Part
from src.question.prompts import without_full_stop
from src.scoring.likelihood import pick, scaled

NORMS = {"likelihood": "per_character", "likelihood_plain": "plain", "likelihood_token": "per_token"}
"""By metric: what the log-likelihood of an option is divided by before the largest is picked."""


def tied(part: Part, item: Item, metric: str) -> list[int]:
    """The likeliest options by a metric of log-likelihoods: several where they tie, none where they are unknown."""
    likelihood = item.answers.likelihood
    if likelihood is None:
        return []
    return sorted(pick(likelihood.logprob, likelihood.n_tokens, stated(part, item), NORMS[metric]))


def first(part: Part, item: Item, metric: str) -> int | None:
    """The likeliest option, the first of equals without any tolerance: as lm-evaluation-harness takes it."""
    likelihood = item.answers.likelihood
    if likelihood is None:
        return None
    values = scaled(likelihood.logprob, likelihood.n_tokens, stated(part, item), NORMS[metric])
    return values.index(max(values))


def stated(part: Part, item: Item) -> list[str]:
    """What each continuation states, whose characters count: the option without its full stop, or its letter."""
    return ["x" if part.head.lettered else without_full_stop(option) for option in item.answers.prompt.options]
