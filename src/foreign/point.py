"""One point of a scale series that others measured: a model's score on a task, without its examples."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from src.base import metrics
from src.base.metrics import BY_LIKELIHOOD, BY_TEXT

NAN = float("nan")
GRADED: Mapping[str, str] = {
    "multiple_choice_grade": BY_LIKELIHOOD,
    "acc": BY_LIKELIHOOD,
    "acc_norm": BY_LIKELIHOOD,
    **dict.fromkeys(metrics.LIKELIHOODS, BY_LIKELIHOOD),
    "exact_str_match": BY_TEXT,
    "case_insensitive_str_match": BY_TEXT,
    "numeric_match_with_0_1_relative_error": BY_TEXT,
    metrics.EXACT: BY_TEXT,
    metrics.BERT: BY_TEXT,
}
"""The metrics that are known to be a share of right answers (BIG-bench's, lm-evaluation-harness's and ours)."""
TUNED = re.compile(
    r"(?<![a-z])(instruct\w*|chat|tuned|sft|rlhf|flan|vicuna|t0(p|pp)?|it|text-davinci-00\d)(?![a-z])", re.IGNORECASE
)
"""What in the name of a model or family says that it was tuned to follow instructions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A model's score on a task by one metric. All numbers are as the file has them, a share where it is one."""

    family: str  # the models of one family make a series
    model: str
    size: float  # along the axis; NaN where it is not known
    axis: str  # what `size` counts, e.g. parameters
    tuned: bool
    task: str
    metric: str
    preferred: bool | None  # whether it is the task's main metric; None where the file does not say
    shots: int | None
    score: float
    half_unit: float  # half of the last digit that the score is printed with
    n: int | None  # examples; None where the file does not say
    seeds: int = 1  # the score is a mean over these
    chance: float = NAN
    chance_from: str = ""  # who says what chance is
    accuracy: bool = True  # whether the score is a share of right answers

    @property
    def key(self) -> tuple[object, ...]:
        """What two scores may not share."""
        return (self.family, self.model, self.task, self.shots, self.metric)

    @property
    def words(self) -> str:
        """The point in a sentence."""
        shots = "" if self.shots is None else f", {self.shots}-shot"
        return f"{self.model} on {self.task} ({self.metric}{shots})"


def half_unit(text: str) -> float:
    """Half of the last digit of a printed number: .0005 of "0.585"."""
    try:
        exponent = Decimal(text).as_tuple().exponent
    except InvalidOperation:
        return NAN
    return 0.5 * 10.0**exponent if isinstance(exponent, int) else NAN


def says_tuned(family: str, model: str) -> bool:
    """Whether a name says that a model was tuned to follow instructions."""
    return bool(TUNED.search(f"{family} {model}"))


@dataclass(frozen=True)
class Said:
    """What a user says of a file that the file does not say itself."""

    axis: str | None = None  # the field or column that holds the sizes
    family: str | None = None  # the family of all models
    percent: bool = False  # whether all scores are per cent
    accuracies: tuple[str, ...] = ()  # further metrics that are shares of right answers
