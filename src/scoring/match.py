"""Which option a completion picks, or why none (Lu et al., ACL 2024, Scores)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from src.base.schema import Compat
from src.question import prompts
from src.question.prompts import LETTERS, Prompt


@dataclass(frozen=True)
class Rules:
    """By what rules a cell's answers are scored."""

    lettered: bool  # the answer is the option's letter
    compat: Compat
    strip_options: bool = False  # options lose their full stop under `compat.option_full_stop` too


Reason = Literal["empty", "no_option", "voided"]


@dataclass(frozen=True)
class Parsed:
    """What a completion says: the index of an option, or why it is none."""

    picked: int | None
    reason: Reason | None = None


# What is compared with what


def candidates(prompt: Prompt) -> tuple[str, ...]:
    """The answers a completion can pick: the options, or the gold answer alone where the prompt has none."""
    return prompt.options or (prompt.answer,)


def gold(prompt: Prompt) -> int:
    """Index of the gold answer among `candidates`."""
    return prompt.target if prompt.options and prompt.target is not None else 0


def target(prompt: Prompt) -> str:
    """The gold answer as compared: always without its full stop."""
    return prompts.without_full_stop(candidates(prompt)[gold(prompt)])


def compared(prompt: Prompt, rules: Rules) -> tuple[str, ...]:
    """The candidates as compared: as published (defect 7) they keep a full stop that the target has lost.

    The options of a few tasks lost it as well (`rules.strip_options`).
    """
    keep = rules.compat.option_full_stop and not rules.strip_options
    return candidates(prompt) if keep else tuple(map(prompts.without_full_stop, candidates(prompt)))


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
    r"""Lower case. Leading commas, full stops, spaces and newlines go, in that order, once: "\n x" gives " x"."""
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

    If several fit, `first` takes the first listed, as published. Otherwise the longest counts: "100" is no "10".
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

    As published (defect 3), any (a), (b) or (c) voids, even a repeat of the answer. No other letter does.
    text: lower case.
    """
    shown = [f"({letter})" for letter in LETTERS[:n_options]]
    picked = next((i for i, letter in enumerate(shown) if text.startswith(letter)), None)
    if picked is None:
        return Parsed(None, "no_option")
    voiding = ["(a)", "(b)", "(c)"] if compat.void_abc_only else [s for s in shown if s != shown[picked]]
    return Parsed(None, "voided") if any(letter in text[3:] for letter in voiding) else Parsed(picked)
