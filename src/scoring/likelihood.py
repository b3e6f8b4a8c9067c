"""The option that a model finds likeliest, by three normalisations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from src.base.errors import UserError
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
    if how not in NORMS:
        raise UserError(f"Unknown normalisation of likelihoods {how!r}. Known: {', '.join(NORMS)}")
    values = [p / NORMS[how](n, o) for p, n, o in zip(logprob, n_tokens, options, strict=True)]
    return frozenset(i for i, value in enumerate(values) if value >= max(values) - TIE)


def share(picked: frozenset[int], target: int) -> float:
    """Credit 0-1: a t-way tie that includes the target scores 1/t."""
    return 1 / len(picked) if target in picked else 0.0


def likelihood_scores(prompt: Prompt, likelihood: Likelihood | None, lettered: bool) -> dict[str, Any]:
    """The likelihood fields of Score.

    Characters are those of what the continuation states: the option without its full stop, or its letter (so that
    per character equals plain where the answer is lettered).
    """
    if likelihood is None or not prompt.options or prompt.target is None:
        return dict.fromkeys(("likelihood", "likelihood_plain", "likelihood_token", "likelihood_picked"))
    stated = ["x" if lettered else prompts.without_full_stop(option) for option in prompt.options]
    picked = {how: pick(likelihood.logprob, likelihood.n_tokens, stated, how) for how in NORMS}
    return {
        "likelihood": share(picked["per_character"], prompt.target),
        "likelihood_plain": share(picked["plain"], prompt.target),
        "likelihood_token": share(picked["per_token"], prompt.target),
        "likelihood_picked": min(picked["per_character"]),
    }
