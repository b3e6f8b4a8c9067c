"""All scores of a cell: one Score for each example and seed.

Each defect of the released code is a switch of `Compat`. The default mends it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rapidfuzz.distance import Levenshtein

from src.base.errors import UserError
from src.engine.job import Completion, Likelihood
from src.question.prompts import Prompt
from src.scoring.bertscore import BertScorer, Nearest, bertscore
from src.scoring.likelihood import likelihood_scores
from src.scoring.match import Rules, exact_match, expected, gold, right, written


@dataclass(frozen=True)
class Score:
    """All scores of one example and one seed. What does not apply is None."""

    example_id: str
    group: str
    seed: int
    n_options: int  # 0 where the prompt has none
    target: int | None  # index of the gold option; None without options
    picked: int | None  # by exact match; without options 0 stands for the gold answer
    reason: str | None  # why nothing was picked: "empty" | "no_option" | "voided"
    exact_match: float  # 0 or 1; unparsed counts as 0
    unparsed: bool
    bertscore_picked: int | None
    bertscore_accuracy: float | None  # 0 or 1
    bertscore_f1: float | None  # against the gold answer
    edit_distance: float  # characters
    likelihood: float | None  # share 0-1, per character; the same for every seed, as the next three
    likelihood_plain: float | None  # share 0-1, sum of log p
    likelihood_token: float | None  # share 0-1, per token
    likelihood_picked: int | None  # the first of the likeliest per character
    # of the options' log-likelihoods, before one is picked (likelihood.probability_scores); the same for every seed
    gold_logprob_plain: float | None  # nats, the sum over tokens of the gold option
    gold_probability_plain: float | None  # 0-1, the exponential of that
    wrong_probability_plain: float | None  # the same of the other options together; less is better
    gold_share_plain: float | None  # 0-1, softmax over the options
    brier_plain: float | None  # 0-2, of that softmax; less is better
    gold_logprob: float | None  # nats per character; more is better, as of the next
    gold_share: float | None  # 0-1, softmax over the options of log p per character
    brier: float | None  # 0-2, of that softmax; less is better


def score_cell(
    prompts: Sequence[Prompt],
    completions: Mapping[str, Mapping[int, Completion]],
    likelihoods: Mapping[str, Likelihood],
    rules: Rules,
    bert: BertScorer | None = None,
) -> list[Score]:
    """Scores of every prompt (in their order) and seed (ascending). Raises UserError for a prompt never completed.

    completions: by prompt id, then seed; likelihoods: by prompt id, may be empty. bert: used for answers in words
    where options are known.
    """
    rows = [(prompt, seed, each.text) for prompt in prompts for seed, each in by_seed(prompt, completions)]
    near = nearest(rows, bert, rules)
    likelihood = {p.id: likelihood_scores(p, likelihoods.get(p.id), rules.lettered) for p in prompts}
    return [
        score(prompt, seed, text, near.get((prompt.id, seed)), likelihood[prompt.id], rules)
        for prompt, seed, text in rows
    ]


def by_seed(prompt: Prompt, completions: Mapping[str, Mapping[int, Completion]]) -> list[tuple[int, Completion]]:
    """A prompt's completions by ascending seed."""
    if not completions.get(prompt.id):
        raise UserError(f"No completion of {prompt.id}: the run is not whole. Run the cell again, it resumes.")
    return sorted(completions[prompt.id].items())


def nearest(
    rows: Sequence[tuple[Prompt, int, str]], bert: BertScorer | None, rules: Rules
) -> dict[tuple[str, int], Nearest]:
    """BERTScore's nearest option for each completion whose prompt has options, by (prompt id, seed). {} if lettered."""
    rows = [row for row in rows if row[0].options]
    if bert is None or rules.lettered or not rows:
        return {}
    texts = [written(text, rules.compat) for _, _, text in rows]
    picks = bertscore(texts, [prompt for prompt, _, _ in rows], bert, rules)
    return {(prompt.id, seed): near for (prompt, seed, _), near in zip(rows, picks, strict=True)}


def score(
    prompt: Prompt,
    seed: int,
    completion: str,
    near: Nearest | None,
    likelihood: Mapping[str, Any],
    rules: Rules,
) -> Score:
    """One Score. likelihood: the fields `likelihood_scores` gives."""
    parsed = exact_match(completion, prompt, rules)
    # a letter names its option whatever became of a full stop
    exact = parsed.picked == gold(prompt) if rules.lettered else right(parsed.picked, prompt, rules)
    stated = expected(prompt, rules.lettered)
    return Score(
        example_id=prompt.id,
        group=prompt.group,
        seed=seed,
        n_options=len(prompt.options),
        target=prompt.target if prompt.options else None,
        picked=parsed.picked,
        reason=parsed.reason,
        exact_match=float(exact),
        unparsed=parsed.picked is None,
        bertscore_picked=near.picked if near else None,
        bertscore_accuracy=float(right(near.picked, prompt, rules)) if near else None,
        bertscore_f1=near.f1_target if near else None,
        edit_distance=float(Levenshtein.distance(stated, written(completion, rules.compat))),
        **likelihood,
    )
