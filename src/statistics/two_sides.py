"""Two sets of scores of the same items: a row a task, and what all of them say together (docs/statistics.md)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize, stats
from statsmodels.stats.multitest import multipletests

from src.statistics.items import NAN, Array
from src.statistics.own import group_bootstrap
from src.statistics.pairing import Pairing
from src.statistics.tests import OUTSIDE_95, sign_flip

ALL_ITEMS, TASK_MEANS = "all items", "mean over tasks"
"""The two rows over all tasks: these tasks as they are, and tasks as a sample of others."""
POWER = 0.8
EXACT_TO, FEWEST, MOST, SIGNS = 20, 9_999, 99_999, 10**8
"""All flips of up to so many groups. Of more groups between FEWEST and MOST flips, so that about SIGNS are drawn."""


@dataclass(frozen=True)
class Scores:
    """What both sides got for the same items of one task."""

    task: str  # how its row is called
    shared: str  # rows that ask the same items, for example in two settings, have the same word here
    a: Array  # (n,) scores of the first side, means over repeats
    b: Array  # (n,) of the second, in the same order
    group: tuple[str, ...]  # (n,) items that share this are one cluster


def side_by_side(tasks: Sequence[Scores], alpha: float, seed: int) -> pd.DataFrame:
    """A row a task, and behind them, where there are several, ALL_ITEMS and TASK_MEANS. b minus a throughout.

    Holm's correction is over the tasks. `detectable` is the difference found with 80 % power at alpha / tasks, which is
    what the first step of Holm asks for.
    """
    rows = [_row(each.task, each, alpha, len(tasks), seed) for each in tasks]
    holm = multipletests([row["p"] for row in rows], method="holm")[1]
    rows = [{**row, "p_holm": p} for row, p in zip(rows, holm, strict=True)]
    if len(tasks) > 1:
        rows += [{**_row(each.task, each, alpha, 1, seed), "p_holm": NAN} for each in (pooled(tasks), means(tasks))]
    return pd.DataFrame(rows)


def pooled(tasks: Sequence[Scores]) -> Scores:
    """The items of all tasks as one. An item that several rows ask is one group; groups of two tasks never are."""
    a, b = (np.concatenate([getattr(each, side) for each in tasks]) for side in ("a", "b"))
    return Scores(ALL_ITEMS, "", a, b, tuple(f"{each.shared}/{g}" for each in tasks for g in each.group))


def means(tasks: Sequence[Scores]) -> Scores:
    """The tasks as items: each by its mean, whatever its size."""
    a, b = (np.array([getattr(each, side).mean() for each in tasks]) for side in ("a", "b"))
    return Scores(TASK_MEANS, "", a, b, tuple(each.shared for each in tasks))


def _row(name: str, these: Scores, alpha: float, tests: int, seed: int) -> dict[str, Any]:
    """Everything about one pair of columns. tests: how many tests share alpha."""
    difference = these.b - these.a
    both = np.concatenate([these.a, these.b])
    binary, groups = bool(np.isin(both, (0, 1)).all()), len(set(these.group))
    mcnemar = binary and groups == len(difference) and name != TASK_MEANS
    by = _mcnemar if mcnemar else _sign_flip
    return {
        "task": name,
        "n": len(difference),
        "groups": groups,
        "accuracy_a": float(these.a.mean()),
        "accuracy_b": float(these.b.mean()),
        "mean_diff": float(difference.mean()),
        "a_better": int((difference < 0).sum()),
        "b_better": int((difference > 0).sum()),
        **by(these, alpha, tests, seed),
    }


def _mcnemar(these: Scores, alpha: float, tests: int, seed: int) -> dict[str, Any]:
    """Exact McNemar, and the interval of Tango's score test."""
    n, difference = len(these.a), these.b - these.a
    pair = Pairing(n, int((difference > 0).sum()), int((difference < 0).sum()))
    low, high = pair.interval(OUTSIDE_95)
    share = (pair.b + pair.c) / n
    return {
        "ci_low": low,
        "ci_high": high,
        "test": "mcnemar",
        "p": pair.mcnemar_p(),
        "detectable": mcnemar_detectable(n, share, alpha / tests),
    }


def _sign_flip(these: Scores, alpha: float, tests: int, seed: int) -> dict[str, Any]:
    """Sign-flips of the sums of groups, and a percentile bootstrap of groups.

    No interval with so few groups that flips cannot reach p < .05, nor where none differs: a bootstrap of these would
    be too narrow.
    """
    difference, group = pd.Series(these.b - these.a), pd.Series(these.group)
    sums = difference.groupby(group).sum().to_numpy(dtype=float)
    sums = np.where(np.abs(sums) > 1e-12, sums, 0.0)  # noise of means over repeats is no difference
    enough = can_reach(len(sums), OUTSIDE_95) and sums.any()
    low, high = group_bootstrap(difference, group, seed) if enough else (NAN, NAN)
    p = sign_flip if len(sums) <= EXACT_TO else many_flips
    return {
        "ci_low": low,
        "ci_high": high,
        "test": "sign_flip",
        "p": p(sums, seed),
        "detectable": group_detectable(sums, len(difference), alpha / tests),
    }


def many_flips(sums: Array, seed: int) -> float:
    """Two-sided p of group sums (G,) under seeded random signs, the observed ones among them.

    It is the test of `sign_flip`, whose 100,000 flips by scipy take minutes with thousands of groups.
    """
    rng, observed, as_far = np.random.default_rng(seed), abs(sums.sum()) - 1e-9, 0
    flips = int(np.clip(SIGNS // len(sums), FEWEST, MOST))
    at_once = max(1, 10_000_000 // len(sums))
    for first in range(0, flips, at_once):
        many = min(at_once, flips - first)
        signs = np.unpackbits(np.frombuffer(rng.bytes(many * -(-len(sums) // 8)), np.uint8).reshape(many, -1), axis=1)
        as_far += int((np.abs(2.0 * (signs[:, : len(sums)] @ sums) - sums.sum()) >= observed).sum())
    return (1 + as_far) / (flips + 1)


def can_reach(groups: int, alpha: float) -> bool:
    """Whether flipping the signs of so many sums can give p below alpha at all."""
    return 2.0 ** (1 - groups) <= alpha


def mcnemar_power(n: int, share: float, difference: float, alpha: float) -> float:
    """Power of exact McNemar with n items, `share` of which the sides judge differently, at a true difference.

    The share is at least the difference: it cannot be had with fewer.
    """
    share = min(max(share, difference), 1.0)
    low, high = (int(stats.binom.ppf(tail, n, share)) for tail in (1e-9, 1 - 1e-9))
    m = np.arange(low, high + 1)  # items on which the sides differ
    critical = stats.binom.ppf(alpha / 2, m, 0.5)
    critical = np.where(stats.binom.cdf(critical, m, 0.5) > alpha / 2, critical - 1, critical)
    better = min((share + difference) / (2 * share), 1.0)
    rejects = stats.binom.cdf(critical, m, better) + stats.binom.sf(m - critical - 1, m, better)
    return float((stats.binom.pmf(m, n, share) * np.where(critical >= 0, rejects, 0.0)).sum())


def mcnemar_detectable(n: int, share: float, alpha: float, power: float = POWER) -> float:
    """The smallest difference that exact McNemar finds with this power; NaN where not even 1 is found.

    share: of the items, those that the sides judge differently, as observed.
    """
    if mcnemar_power(n, share, 1.0, alpha) < power:
        return NAN
    return float(optimize.brentq(lambda d: mcnemar_power(n, share, d, alpha) - power, 1e-9, 1.0, xtol=1e-5))


def group_detectable(sums: Array, n: int, alpha: float, power: float = POWER) -> float:
    """The smallest mean difference over n items that a t test of group sums this spread finds (statsmodels).

    It stands for the sign-flips, which have no power of their own without a model. NaN where flips cannot reach alpha,
    or no two sums differ.
    """
    from statsmodels.stats.power import TTestPower

    spread = float(sums.std(ddof=1)) if len(sums) > 1 else 0.0
    if not spread or not can_reach(len(sums), alpha):
        return NAN
    effect = TTestPower().solve_power(nobs=len(sums), alpha=alpha, power=power)
    found = float(effect) * spread * len(sums) / n
    return found if math.isfinite(found) else NAN
