"""A task's test items as arrays, and what follows from the items alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from src.question.examples import Example

NAN = float("nan")

Array: TypeAlias = npt.NDArray[Any]
"""An array of numbers or of bools. Its shape stands in the docstring."""


@dataclass(frozen=True, eq=False)
class Items:
    """A task's test items, all arrays of shape (n,). `exemplar_options`: option counts of the few-shot exemplars."""

    ids: tuple[str, ...]
    n_options: Array  # int; 0 where the item has none
    target: Array  # int position of the gold option; -1 unknown
    label: tuple[str, ...]  # text of the gold option; "" unknown
    option_set: tuple[tuple[str, ...], ...]  # the options, sorted
    options: tuple[tuple[str, ...], ...]  # the options, in the order of the file
    group: tuple[str, ...]  # shared context
    sibling: Array  # bool: shares its context with an exemplar
    duplicates: int  # items whose input and options occur before
    exemplar_options: tuple[int, ...]

    @property
    def known(self) -> bool:
        """Whether every item has options and a gold position."""
        return len(self.ids) > 0 and bool((self.n_options > 0).all() and (self.target >= 0).all())


def items_of(examples: Sequence[Example]) -> Items:
    """The Items of a task's examples. Its exemplars only tell which items are siblings, and the option counts."""
    tests = [each for each in examples if each.exemplar is None]
    exemplars = [each for each in examples if each.exemplar is not None]
    contexts = {each.group for each in exemplars}
    target = [-1 if each.target is None else each.target for each in tests]
    content = Counter((each.input, each.options) for each in tests)
    return Items(
        ids=tuple(each.id for each in tests),
        n_options=np.array([len(each.options) for each in tests], dtype=int),
        target=np.array(target, dtype=int),
        label=tuple(each.options[t] if t >= 0 else "" for each, t in zip(tests, target, strict=True)),
        option_set=tuple(tuple(sorted(each.options)) for each in tests),
        options=tuple(each.options for each in tests),
        group=tuple(each.group for each in tests),
        sibling=np.array([each.group in contexts for each in tests], dtype=bool),
        duplicates=sum(content.values()) - len(content),
        exemplar_options=tuple(len(each.options) for each in exemplars),
    )


def scorable(these: Items, stops_stripped: bool) -> Array:
    """(n,) bool: items the published scorer can score right.

    Its targets lose their full stop, its options keep theirs unless `stops_stripped` (protocol.md, defect 7).
    """
    return np.array([stops_stripped or not label.endswith(".") for label in these.label], dtype=bool)


def fit_length(guess: Array, n: int, left_in: Sequence[float] = ()) -> Array:
    """Guess probabilities for `n` examples where the published n differs from the item set.

    With the exemplars left in, theirs are added; where items are missing, those easiest to guess are kept, and where
    there are unknown extra items, the mean stands for them: both keep the test conservative.
    """
    if n == len(guess) + len(left_in):
        return np.concatenate([guess, np.asarray(left_in, dtype=float)])
    if n <= len(guess):
        return np.sort(guess)[::-1][:n]
    return np.concatenate([guess, np.full(n - len(guess), guess.mean())])


def policy_hits(these: Items) -> Array:
    """(policies, n) bool: what each constant position and each repeated label would get right."""
    positions = [these.target == j for j in range(int(these.n_options.max()))]
    counts: dict[str, int] = Counter(filter(None, these.label))
    labels = [np.array([each == label for each in these.label]) for label, c in sorted(counts.items()) if c > 1]
    return np.array(positions + labels, dtype=bool)


def trivial(these: Items) -> float:
    """Accuracy of the best content-free constant policy on these items, never below chance."""
    return float(max(policy_hits(these).mean(axis=1).max(), (1 / these.n_options).mean()))


def trivial_cv(these: Items, seed: int, splits: int = 200, folds: int = 10) -> float:
    """Ten-fold estimate: the policy is chosen on nine tenths and scored on the last; mean of seeded splits."""
    hits = np.unique(policy_hits(these), axis=0).astype(float)
    n, rng = hits.shape[1], np.random.default_rng(seed)
    right = 0.0
    for _ in range(splits):
        fold = np.eye(folds)[rng.permutation(n) % folds]
        inside = hits @ fold
        best = (inside.sum(axis=1, keepdims=True) - inside).argmax(axis=0)
        right += inside[best, np.arange(folds)].sum()
    return float(right / (splits * n))


def gold_skew_p(these: Items, seed: int, draws: int = 20_000) -> float:
    """Simulated P(largest share of a position >= the observed one) if gold positions were uniform."""
    rng, width = np.random.default_rng(seed), int(these.n_options.max())
    counts: Array = np.zeros((draws, width), dtype=int)
    for m, n in sorted(Counter(these.n_options.tolist()).items()):
        counts[:, :m] += rng.multinomial(n, np.full(m, 1 / m), size=draws)
    observed = np.bincount(these.target).max()
    return float((1 + (counts.max(axis=1) >= observed).sum()) / (draws + 1))


def constant_counts(these: Items) -> set[int]:
    """How many items each constant policy gets right."""
    return set(policy_hits(these).sum(axis=1).tolist())


def content_codes(these: Items, picked: Array) -> tuple[Array, Array, Array]:
    """(stratum, pick, gold) codes for `content_free`; `picked` (seeds, n) holds positions, -1 for unparsed.

    In a label task (most items share one set of options) a pick is the label and strata are option sets; elsewhere a
    pick is the position and strata are option counts.
    """
    shared = Counter(these.option_set).most_common(1)[0][1]
    if 2 * shared <= len(these.ids) or not all(these.label):
        return these.n_options, picked, these.target
    code = {label: i for i, label in enumerate(sorted({label for each in these.option_set for label in each}))}
    sets = {each: i for i, each in enumerate(sorted(set(these.option_set)))}
    table = np.array(
        [[code[o] for o in each] + [-1] * (int(these.n_options.max()) + 1 - len(each)) for each in these.options]
    )
    index = np.arange(len(these.ids))
    return np.array([sets[each] for each in these.option_set]), table[index, picked], table[index, these.target]
