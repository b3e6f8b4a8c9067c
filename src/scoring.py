"""(completion, prompt) -> Score: what a completion picked, or why nothing; what a likelihood picked.

Rules: Lu et al. (ACL 2024), "Scores". Each defect of the released code is a switch of `Compat`; the default mends it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rapidfuzz.distance import Levenshtein

from src.config import Compat, UserError
from src.engine import Completion, Likelihood
from src.prompts import LETTERS, Prompt, without_full_stop

Reason = Literal["empty", "no_option", "voided"]
TIE = 1e-6  # nats: what fp32 leaves between two equal sums


@dataclass(frozen=True)
class Rules:
    """By what rules a cell's answers are scored."""

    lettered: bool  # the answer is the option's letter
    compat: Compat
    strip_options: bool = False  # options lose their full stop under `compat.option_full_stop` too


@dataclass(frozen=True)
class Parsed:
    """What a completion says: the index of an option, or why it is none."""

    picked: int | None
    reason: Reason | None = None


@dataclass(frozen=True)
class Nearest:
    """What BERTScore makes of a completion."""

    picked: int  # index of the nearest option
    f1_target: float  # F1 against the gold answer


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


# What is compared with what


def candidates(prompt: Prompt) -> tuple[str, ...]:
    """The answers a completion can pick: the options, or the gold answer alone where the prompt has none."""
    return prompt.options or (prompt.answer,)


def gold(prompt: Prompt) -> int:
    """Index of the gold answer among `candidates`."""
    return prompt.target if prompt.options and prompt.target is not None else 0


def target(prompt: Prompt) -> str:
    """The gold answer as compared: always without its full stop."""
    return without_full_stop(candidates(prompt)[gold(prompt)])


def compared(prompt: Prompt, rules: Rules) -> tuple[str, ...]:
    """The candidates as compared: as published (defect 7) they keep a full stop that the target has lost.

    The options of a few tasks lost it as well (`rules.strip_options`).
    """
    keep = rules.compat.option_full_stop and not rules.strip_options
    return candidates(prompt) if keep else tuple(map(without_full_stop, candidates(prompt)))


def right(picked: int | None, prompt: Prompt, rules: Rules) -> bool:
    """Whether the picked candidate says what the target says. By text, so that a repeated option counts as one."""
    if picked is None:
        return False
    return compared(prompt, rules)[picked].lower() == target(prompt).lower()


def expected(prompt: Prompt, lettered: bool) -> str:
    """The target of the edit distance: `"answer"`, or `(letter)`. The published means fit both to the digit."""
    return f"({LETTERS[gold(prompt)]})" if lettered else f'"{target(prompt)}"'


# Exact match


def written(completion: str, compat: Compat) -> str:
    """The completion as scored: as published (defect 2) it loses leading letters of `unk>`, then of `</s>`."""
    return completion.lstrip("unk>").lstrip("</s>") if compat.strip_letters else completion


def cleaned(text: str) -> str:
    r"""Lower case, less leading commas, then full stops, then spaces, then newlines, once each: "\n x" gives " x"."""
    return text.lower().lstrip(",").lstrip(".").lstrip(" ").lstrip("\n")


def exact_match(completion: str, prompt: Prompt, rules: Rules) -> Parsed:
    """Which candidate the completion picks.

    Both kinds of answer are cleaned alike first: an exemplar answers ` "..."` or ` (a)`, so the space must go.
    """
    text = cleaned(written(completion, rules.compat))
    if not text.strip():
        return Parsed(None, "empty")
    if rules.lettered:
        return match_letter(text, len(candidates(prompt)), rules.compat)
    options = [option.lower() for option in compared(prompt, rules)]
    return match_option(text, options, rules.compat.first_listed)


def match_option(text: str, options: Sequence[str], first: bool) -> Parsed:
    """The option, quoted or bare, that the text starts with; void if one listed after it occurs in the rest.

    first: of several take the first listed, as published; else the longest, so that "100" is no "10".
    text, options: lower case.
    """
    starts = [
        (len(form), i)
        for i, option in enumerate(options)
        for form in (f'"{option}"', option)
        if form and text.startswith(form)
    ]
    if not starts:
        return Parsed(None, "no_option")
    length, picked = min(starts, key=lambda s: (s[1], -s[0])) if first else min(starts, key=lambda s: (-s[0], s[1]))
    voided = any(option and option in text[length:] for option in options[picked + 1 :])
    return Parsed(None, "voided") if voided else Parsed(picked)


def match_letter(text: str, n_options: int, compat: Compat) -> Parsed:
    """The `(x)` the text starts with, if x is among the shown letters; void if another shown letter follows.

    As published (defect 3), any (a), (b) or (c) voids, the same one again included, and nothing else does.
    text: lower case.
    """
    shown = [f"({letter})" for letter in LETTERS[:n_options]]
    picked = next((i for i, letter in enumerate(shown) if text.startswith(letter)), None)
    if picked is None:
        return Parsed(None, "no_option")
    voiding = ["(a)", "(b)", "(c)"] if compat.void_abc_only else [s for s in shown if s != shown[picked]]
    return Parsed(None, "voided") if any(letter in text[3:] for letter in voiding) else Parsed(picked)


# BERTScore


class BertScorer:
    """F1 of bert-score 0.3.13 (no idf, no rescaling): its matching, with an encoder that works under transformers 5.

    There an empty text raises, and a byte-level tokenizer silently loses the space put before a text, which changes
    its first token. Both are mended. bert-score also pads a batch with similarities of 0, which beat negative ones,
    so that its scores depend on the batch (by .01 with a small encoder); here each distinct token sequence is
    embedded once, beside others of its own length, and matched alone: equal to bert-score at a batch size of 1.
    """

    def __init__(self, folder: Path, num_layers: int, batch: int = 64) -> None:
        """Load layers 1 to `num_layers` of the encoder (BERT, RoBERTa) in `folder`. Raises UserError if there is none.

        Not by bert-score's own loader, which takes every path with "t5" in it for a T5.
        """
        import torch
        from transformers import AutoModel, AutoTokenizer, GPT2Tokenizer, RobertaTokenizer
        from transformers.utils.logging import disable_progress_bar

        if not (folder / "config.json").is_file():
            raise UserError(f"No encoder for BERTScore in {folder}. Fetch it (`dvc repro`), or name another scorer.")
        disable_progress_bar()
        model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True).eval()
        if not 0 < num_layers <= len(model.encoder.layer):
            raise UserError(f"num_layers={num_layers}: the encoder in {folder} has {len(model.encoder.layer)} layers.")
        model.encoder.layer = model.encoder.layer[:num_layers]
        self.model = model.to("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.gap = " " if isinstance(self.tokenizer, GPT2Tokenizer | RobertaTokenizer) else ""
        self.max_length = min(self.tokenizer.model_max_length, model.config.max_position_embeddings)
        self.batch = batch

    def token_ids(self, text: str) -> tuple[int, ...]:
        """Token ids with special tokens; a blank text has nothing else."""
        text = text.strip()
        text = self.gap + text if text else ""
        return tuple(self.tokenizer.encode(text, truncation=True, max_length=self.max_length))

    def embed(self, sequences: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], Any]:
        """Hidden states (tokens, dimension) of each distinct sequence of token ids."""
        import torch

        states: dict[tuple[int, ...], Any] = {}
        with torch.inference_mode():
            for rows in batches(sorted(set(sequences), key=lambda ids: (len(ids), ids)), self.batch):
                hidden = self.model(torch.tensor(rows, device=self.model.device))[0].cpu()
                states.update(zip(rows, hidden, strict=True))
        return states

    def f1(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """F1 of each (candidate, reference), shape (pairs,). 0 where either is blank."""
        ids = {text: self.token_ids(text) for pair in pairs for text in pair}
        states = self.embed(ids.values())
        special = {self.tokenizer.cls_token_id, self.tokenizer.sep_token_id}
        weights = {row: tuple(float(token not in special) for token in row) for row in states}
        score = {
            (a, b): matched_f1(states[a], states[b], weights[a], weights[b])
            for a, b in dict.fromkeys((ids[a], ids[b]) for a, b in pairs)
        }
        f1: np.ndarray = np.array([score[ids[a], ids[b]] for a, b in pairs], dtype=float)
        return f1


def batches(rows: Sequence[tuple[int, ...]], size: int) -> list[list[tuple[int, ...]]]:
    """Runs of rows of one length, at most `size` each. Rows come sorted by length."""
    runs: list[list[tuple[int, ...]]] = []
    for row in rows:
        if not runs or len(runs[-1]) == size or len(runs[-1][0]) != len(row):
            runs.append([])
        runs[-1].append(row)
    return runs


def matched_f1(candidate: Any, reference: Any, weight: Sequence[float], reference_weight: Sequence[float]) -> float:
    """F1 of bert-score's greedy matching (Zhang et al., 2020). Special tokens can be matched but weigh 0.

    candidate, reference: tensors (tokens, dimension); the weights: one a token.
    """
    import torch
    from bert_score.utils import greedy_cos_idf

    if not (any(weight) and any(reference_weight)):
        return 0.0  # what bert-score makes of an empty text, without its warning
    stacks = [
        (states[None].clone(), torch.ones(1, len(states)), torch.tensor([weights]))  # it divides in place
        for states, weights in ((reference, reference_weight), (candidate, weight))
    ]
    return float(greedy_cos_idf(*stacks[0], *stacks[1])[2])


def bertscore(completions: Sequence[str], prompts: Sequence[Prompt], bert: BertScorer, rules: Rules) -> list[Nearest]:
    """The option nearest to each completion (of equals the first), and the completion's F1 to the gold answer.

    Quoted options against the raw completion. prompts: one to each completion; each has options.
    """
    pairs: list[tuple[str, str]] = []
    starts: list[int] = []
    for text, prompt in zip(completions, prompts, strict=True):
        starts.append(len(pairs))
        pairs += [(text, f'"{option}"') for option in (*compared(prompt, rules), target(prompt))]
    return [
        Nearest(int(np.argmax(f1[:-1])), float(f1[-1]))
        for f1 in np.split(bert.f1(pairs), starts[1:])
        if len(f1)  # no completions: one empty part
    ]


# Likelihood

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
    stated = ["x" if lettered else without_full_stop(option) for option in prompt.options]
    picked = {how: pick(likelihood.logprob, likelihood.n_tokens, stated, how) for how in NORMS}
    return {
        "likelihood": share(picked["per_character"], prompt.target),
        "likelihood_plain": share(picked["plain"], prompt.target),
        "likelihood_token": share(picked["per_token"], prompt.target),
        "likelihood_picked": min(picked["per_character"]),
    }


# A cell


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
    """What BERTScore makes of each completion whose prompt has options, by (prompt id, seed); {} of lettered ones."""
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


# What a scorer allows


def guess(prompt: Prompt, rules: Rules) -> Fraction | None:
    """Probability that the scorer gives a uniform chooser the point; None without options.

    1/m, but 0 where not even the gold option is scored right.
    """
    m = len(prompt.options)
    if m == 0:
        return None
    return Fraction(1 if rules.lettered else sum(right(i, prompt, rules) for i in range(m)), m)


def mean(values: Sequence[Fraction | None]) -> float | None:
    """Exact mean; None if any value is missing or there is none."""
    known = [value for value in values if value is not None]
    return float(sum(known, Fraction()) / len(known)) if known and len(known) == len(values) else None


def chance(prompts: Sequence[Prompt]) -> float | None:
    """Mean of 1/m over the prompts (m options); None when any prompt has none."""
    return mean([Fraction(1, len(p.options)) if p.options else None for p in prompts])


def chance_scored(prompts: Sequence[Prompt], rules: Rules) -> float | None:
    """The score a uniform chooser gets under this scorer; None when any prompt has no options."""
    return mean([guess(p, rules) for p in prompts])


def ceiling(prompts: Sequence[Prompt], rules: Rules) -> float | None:
    """The share 0-1 of prompts that can be scored right; None without prompts."""
    return mean([Fraction(rules.lettered or right(gold(p), p, rules)) for p in prompts])
