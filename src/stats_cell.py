"""One cell against chance and against content-free answering. Definitions and rules: docs/statistics.md.

Counts may be scalars or arrays of equal length; null is NaN. Everything is pure; what draws takes a seed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import special, stats
from statsmodels.stats.proportion import proportion_confint, proportion_effectsize

from src import names

Array = Any
"""A numpy array; its shape stands in the docstring."""
NAN = float("nan")


# ---- the examples behind a cell ----------------------------------------------------------------------


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


def items(rows: Sequence[dict[str, Any]]) -> Items:
    """Examples as dicts (fields of src.data.Example) -> Items; exemplars only tell siblings and option counts."""
    test = [row for row in rows if row["exemplar"] is None]
    shown = [row for row in rows if row["exemplar"] is not None]
    contexts = {row["group"] for row in shown}
    options = tuple(tuple(row["options"]) for row in test)
    target = [-1 if row["target"] is None else row["target"] for row in test]
    content = Counter((row["input"], tuple(row["options"])) for row in test)
    return Items(
        ids=tuple(row["id"] for row in test),
        n_options=np.array([len(each) for each in options], dtype=int),
        target=np.array(target, dtype=int),
        label=tuple(each[t] if t >= 0 else "" for each, t in zip(options, target, strict=True)),
        option_set=tuple(tuple(sorted(each)) for each in options),
        options=options,
        group=tuple(row["group"] for row in test),
        sibling=np.array([row["group"] in contexts for row in test], dtype=bool),
        duplicates=sum(content.values()) - len(content),
        exemplar_options=tuple(len(row["options"]) for row in shown),
    )


def binomial_tail(k: Any, n: Any, chance: Any) -> Any:
    """P(X >= k) of a binomial; NaN where `chance` is."""
    return stats.binom.sf(np.asarray(k) - 1, n, chance)


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


# ---- against chance ----------------------------------------------------------------------


def tail(k: Any, guess: Array) -> Any:
    """P(X >= k) for a sum of independent draws with probabilities `guess` (n,); k: a count or an array of counts.

    Read off the mirrored distribution, P(n - X <= n - k): scipy takes Poisson-binomial survival as 1 - cdf, which
    loses every digit of a small p.
    """
    n = len(guess)
    if np.ptp(guess) == 0:
        return stats.binom.sf(np.asarray(k) - 1, n, guess[0])
    return stats.poisson_binom.cdf(n - np.asarray(k), 1 - guess)


def tails(k: Sequence[float], guess: Sequence[Array | None], more: float = 0.0) -> Array:
    """`tail` of each row, against `guess` + `more`; NaN where `guess` is None. Rows that share a guess go together."""
    out, rows = np.full(len(k), NAN), defaultdict[int, list[int]](list)
    for i, each in enumerate(guess):
        rows[id(each)].append(i)
    for index in rows.values():
        each = guess[index[0]]
        if each is not None:
            out[index] = tail(np.asarray(k)[index], np.minimum(each + more, 1))
    return out


def wilson(k: Any, n: Any) -> tuple[Any, Any]:
    """Wilson 95 % interval of a share (statsmodels)."""
    low, high = proportion_confint(k, n, alpha=0.05, method="wilson")
    return low, high


def newcombe(k1: Any, n1: Any, k2: Any, n2: Any) -> tuple[Array, Array]:
    """Newcombe's 95 % interval of k1/n1 - k2/n2, independent samples (statsmodels); arguments of one shape (rows,)."""
    from statsmodels.stats.proportion import confint_proportions_2indep as interval

    columns = np.broadcast_arrays(*map(np.asarray, (k1, n1, k2, n2)))
    ends = np.array([interval(*row, method="newcomb") for row in zip(*columns, strict=True)], dtype=float)
    return ends[:, 0], ends[:, 1]


def cohen_h(accuracy: Any, chance: Any) -> Any:
    """2 asin sqrt(accuracy) - 2 asin sqrt(chance) (statsmodels)."""
    return proportion_effectsize(np.asarray(accuracy, dtype=float), np.asarray(chance, dtype=float))


def log10_bayes_factor(k: Any, n: Any, chance: Any) -> Any:
    """log10 of the one-sided Bayes factor of "accuracy uniform on (chance, 1)" against "accuracy = chance"."""
    k, n, chance = (np.asarray(value, dtype=float) for value in (k, n, chance))
    with np.errstate(divide="ignore", invalid="ignore"):
        marginal = special.betaln(k + 1, n - k + 1) + np.log(special.betaincc(k + 1, n - k + 1, chance))
        null = np.log1p(-chance) + special.xlogy(k, chance) + special.xlog1py(n - k, -chance)
        return (marginal - null) / np.log(10)


def bayes_factor(k: Any, n: Any, chance: Any) -> Any:
    """BF10 of statistics.md; infinite where it exceeds 1e308."""
    with np.errstate(over="ignore"):
        return np.power(10.0, log10_bayes_factor(k, n, chance))


def min_detectable(n: Any, chance: Any, alpha: Any, power: float = 0.8) -> Any:
    """Smallest accuracy that the exact binomial test at `alpha` finds above `chance` with the given power.

    NaN where even n of n is not significant. P(X >= k | a) is the regularised incomplete beta I_a(k, n - k + 1).
    """
    critical = stats.binom.isf(alpha, n, chance) + 1
    return np.where(critical <= n, special.betaincinv(critical, np.maximum(n - critical + 1, 1), power), NAN)


def power_at(n: int, chance: float, accuracy: float, alpha: float) -> float:
    """Power of the exact binomial test of `chance` where the true accuracy is `accuracy`."""
    return float(stats.binom.sf(stats.binom.isf(alpha, n, chance), n, accuracy))


def design_effect_tail(k: int, n: int, chance: float, mean_group: float, icc: float) -> float:
    """Binomial tail at the effective n of clustered examples: n / (1 + (mean group size - 1) icc)."""
    effective = round(n / (1 + (mean_group - 1) * icc))
    return float(stats.binom.sf(round(k / n * effective) - 1, effective, chance))


def p_groups(score: Array, guess: Array, group: Sequence[str]) -> float:
    """One-sided p that accuracy lies above chance, by groups: D_g = sum(y - guess), t = sum D / sqrt(sum D^2)."""
    sums = pd.Series(np.asarray(score) - np.asarray(guess)).groupby(np.asarray(group)).sum().to_numpy()
    if len(sums) < 2 or not (sums**2).sum():
        return NAN
    return float(stats.t.sf(sums.sum() / np.sqrt((sums**2).sum()), len(sums) - 1))


def adjust(p: Any, method: str) -> Array:
    """Holm ("holm") or Benjamini-Hochberg ("fdr_bh") over the values that are not null; null stays null."""
    import pingouin as pg  # statsmodels' does the same, and collects garbage at each call

    values = np.asarray(p, dtype=float)
    out, there = np.full(values.shape, NAN), ~np.isnan(values)
    if there.any():
        out[there] = pg.multicomp(values[there], method=method)[1]
    return out


def against_chance(rows: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """Columns of one row against chance. In: n, k, accuracy, tested (the chance level tested against), m_tests."""
    n, k, tested = (rows[name].to_numpy(dtype=float) for name in ("n", "k", "tested"))
    accuracy = rows["accuracy"].to_numpy(dtype=float)
    low, high = wilson(k, n)
    below = pd.array(accuracy > tested, dtype="boolean")
    below[np.isnan(tested)] = pd.NA
    return pd.DataFrame(
        {
            "ci_low": low,
            "ci_high": high,
            "diff": accuracy - tested,
            "cohen_h": cohen_h(np.where(np.isnan(k), NAN, accuracy), tested),
            "bf10": bayes_factor(k, n, tested),
            "log10_bf10": log10_bayes_factor(k, n, tested),
            "min_detectable": min_detectable(n, tested, alpha),
            "min_detectable_bonferroni": min_detectable(n, tested, alpha / rows["m_tests"].to_numpy(dtype=float)),
            "above_raw": below,
        },
        index=rows.index,
    )


# ---- against content-free answering -----------------------------------------------------------------------------


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


def content_free(stratum: Array, picked: Array, gold: Array, seed: int, draws: int = 2000) -> tuple[float, float]:
    """(p_content, kappa): are picks matched to their examples better than the same picks shuffled among examples?

    stratum, gold: (n,); picked: (seeds, n), -1 unparsed. p = (1 + #{O* >= O}) / (draws + 1) with O the number right,
    mean over seeds, and O* after permuting examples within strata; kappa = (O - mean O*) / (n - mean O*).
    """
    rng, n = np.random.default_rng(seed), len(gold)
    right = float((picked == gold).mean(axis=0).sum())
    shuffled = np.zeros(draws)
    for each in np.unique(stratum):
        (index,) = np.nonzero(stratum == each)
        order = rng.permuted(np.tile(index.astype(np.int32), (draws, 1)), axis=1)
        shuffled += np.mean([(row[order] == gold[index]).sum(axis=1) for row in picked], axis=0)
    mean = float(shuffled.mean())
    kappa = (right - mean) / (n - mean) if n > mean else NAN
    return float((1 + (shuffled >= right - 1e-9).sum()) / (draws + 1)), kappa


# ---- unparsed answers, seeds ----------------------------------------------------------------------


def unparsed_views(score: float, unparsed: float, guess_of_unparsed: float, n: int) -> dict[str, float]:
    """Accuracy without unparsed answers, with a guess credited for each, and its bounds. All arguments are sums."""
    return {
        "accuracy_parsed": score / (n - unparsed) if n > unparsed else NAN,
        "accuracy_guess_credited": (score + guess_of_unparsed) / n,
        "low_bound": score / n,
        "high_bound": (score + unparsed) / n,
    }


def seed_se(scores: Array) -> float:
    """Standard error from seeds; scores (seeds, n): sqrt(s2 / (S n)), s2 the mean over examples of their variance."""
    seeds, n = scores.shape
    return float(np.sqrt(scores.var(axis=0, ddof=1).mean() / (seeds * n))) if seeds > 1 else NAN


def sign_flip(sums: Array, seed: int, flips: int = 100_000) -> float:
    """Two-sided p of group sums (G,) under random signs: all 2^G up to 20 groups, else seeded flips (scipy)."""
    sums = sums[sums != 0]
    if len(sums) < 2:  # both signs of one sum are as far from 0
        return 1.0
    exact = len(sums) <= 20
    result = stats.permutation_test(
        (sums,),
        lambda x, axis: x.sum(axis=axis),
        permutation_type="samples",
        n_resamples=np.inf if exact else flips,
        vectorized=True,
        batch=1000,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def gate_string(flags: dict[str, Array], size: int) -> list[str]:
    """';'-joined names of the gates raised in each of `size` rows; "" where none is."""
    return [";".join(name for name, raised in flags.items() if raised[i]) for i in range(size)]


def row_gates(rows: pd.DataFrame) -> dict[str, Array]:
    """Gates that a row of counts shows by itself. In: metric, n, accuracy, k, exact_match, bertscore_accuracy, ..."""
    forced = rows["metric"].isin([names.BERT, *names.LIKELIHOODS]).to_numpy()
    accuracy, exact, nearest = (rows[c].to_numpy(dtype=float) for c in ("accuracy", names.EXACT, names.BERT))
    tested = rows["tested"].to_numpy(dtype=float)
    near = (rows["ci_low"].to_numpy(dtype=float) <= tested) & (tested <= rows["ci_high"].to_numpy(dtype=float))
    with np.errstate(invalid="ignore"):
        return {
            names.GATE_ZERO: forced & (accuracy == 0) & (rows["n"].to_numpy() >= 100),
            names.GATE_EXACT_ABOVE: exact - nearest > 0.05,
            names.GATE_EXACT_ZERO: (exact == 0) & (rows["metric"] == names.BERT).to_numpy() & near,
            names.GATE_UNPARSED: rows["unparsed"].to_numpy(dtype=float) / rows["n"].to_numpy() > 0.2,
            names.GATE_TIES: rows["ties"].to_numpy(dtype=float) > 0.05,
        }
