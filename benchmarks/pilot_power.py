"""What the pilot can tell, and what other choices of the same cost could: `python -m benchmarks.pilot_power`.

Every design costs what the pilot does. Tokens are those of `src.plan`. Seeds share their path, so a completion counts
once, and each of its tokens counts as much more as decoding took of the pilot's time. Fewer tasks are drawn at random,
anew in each repeat, so that no task is chosen for its result. What is taken for true is data/reference/laptop.csv (128
examples), its effects drawn towards their mean as far as their sampling noise asks for. On how many items the model
differs with and without exemplars is taken from the pilot's log-likelihoods in reports/hashes.

A statement is one that tests of docs/statistics.md make: a task is above chance, or short of five points over chance
(of a forced choice alone), or few-shot differs from zero-shot on it, each under Holm over the tasks; few-shot differs
over all items, or in the mean over tasks, or this mean lies within five points. A task whose exact match is below
chance on a side is in another format there, and in no comparison of few- with zero-shot. A design with lettered
conditions makes the statements of both prompt formats.

No model runs. It needs the prepared tasks and the tokenizer: `dvc repro prepare`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.power import TTestPower

from src.base.files import ROOT
from src.base.frames import write_csv
from src.base.grid import params_with
from src.base.metrics import EXACT, MARGIN
from src.engine.job import Likelihood
from src.judgement.contrasts import FEWEST, t_test
from src.judgement.scores import FLOOR
from src.lab.tokens import Rendered, evaluated, grid_of, rendered
from src.plan import cell_plans
from src.scoring.likelihood import likelihood_scores
from src.statistics.items import NAN, Array
from src.statistics.tests import adjust, binomial_lower_tail, binomial_tail, min_detectable
from src.statistics.two_sides import POWER, mcnemar_detectable

LAPTOP, LIKELIHOODS = ROOT / "data/reference/laptop.csv", ROOT / "reports/hashes/likelihoods.csv"
TABLE = ROOT / "reports/benchmarks/pilot_power.csv"
SEED = 20240811
DECODING = 1 / 5  # share of the pilot's time that decoding took (docs/log.md, 2026-11-23)
DETECTED = 10  # repeats that the detectable differences are a mean of
ANSWERS, SCORED = "answers", "likelihood"
PROMPTS = {2: ("closed",), 4: ("closed", "closed_adv")}
"""The prompt formats by the number of conditions. Each format is asked zero- and few-shot."""


@dataclass(frozen=True)
class Design:
    """A way to spend the pilot's cost."""

    tasks: int
    conditions: int  # a key of PROMPTS
    generates: bool  # answers are generated and options scored; else options are scored alone
    limit: int | None = None  # examples of a task; None: as many as the budget allows

    @property
    def metrics(self) -> tuple[str, ...]:
        """What its cells can be judged by."""
        return (ANSWERS, SCORED) if self.generates else (SCORED,)


DESIGNS = (
    Design(20, 4, True, 16),
    *(Design(k, 4, True) for k in (10, 5, 4)),
    *(Design(k, 4, False) for k in (20, 10, 5, 4)),
    *(Design(k, 2, True) for k in (20, 10, 5)),
    *(Design(k, 2, False) for k in (20, 10, 5)),
    Design(20, 4, True, 128),  # the suite laptop, which costs more
)


def sides(prompt: str) -> tuple[str, str]:
    """The conditions of a prompt format without exemplars and with them."""
    return f"{prompt}_zero", f"{prompt}_few"


@dataclass(frozen=True)
class Costs:
    """Tokens by (task, condition): of the prefix, of an example's prompt with its options, of its completion."""

    prefix: pd.DataFrame
    scored: pd.DataFrame
    drawn: pd.DataFrame
    sizes: pd.Series  # test items of each task

    @cached_property
    def weight(self) -> float:
        """What a token of a completion counts, so that completions are DECODING of the pilot."""
        prompts = self.prefix.to_numpy().sum() + DESIGNS[0].limit * self.scored.to_numpy().sum()
        return float(prompts * DECODING / (1 - DECODING) / (DESIGNS[0].limit * self.drawn.to_numpy().sum()))

    def of(self, tasks: Sequence[str], design: Design, n: Any) -> Any:
        """The cost of these tasks; n: their examples (..., tasks), as many designs as there are rows."""
        conditions = [side for prompt in PROMPTS[design.conditions] for side in sides(prompt)]
        each = self.scored + self.weight * self.drawn * design.generates
        once, again = (frame.loc[[*tasks], conditions].sum(axis=1).to_numpy() for frame in (self.prefix, each))
        return once.sum() + n @ again

    def examples(self, tasks: Sequence[str], design: Design, budget: float) -> Array:
        """(tasks,) examples of each: as many for each as the budget allows, or all that it has."""
        sizes = self.sizes.loc[[*tasks]].to_numpy()
        choices = np.minimum(np.arange(1, sizes.max() + 1)[:, None], sizes)
        most = int((self.of(tasks, design, choices) <= budget).sum())
        return np.minimum(design.limit or most, sizes)


@dataclass(frozen=True)
class Truth:
    """What is taken for true, by task, in one prompt format and metric; tasks without a chance level are left out."""

    names: tuple[str, ...]
    chance: Array  # (tasks,)
    zero: Array  # (tasks,) accuracy without exemplars
    few: Array  # (tasks,) and with them
    forced: Array  # (tasks,) bool: an option is always picked, so that a low accuracy is no other format
    differ: float  # items right on one side alone, as a share of what independent sides would give

    def of(self, tasks: Sequence[str]) -> Truth:
        """The truth of these tasks."""
        at = [self.names.index(task) for task in tasks]
        arrays = {name: getattr(self, name)[at] for name in ("chance", "zero", "few", "forced")}
        return replace(self, names=tuple(tasks), **arrays)

    @cached_property
    def alone(self) -> tuple[Array, Array]:
        """(right few-shot alone, right zero-shot alone), shares of the items, each (tasks,)."""
        independent = self.zero * (1 - self.few) + self.few * (1 - self.zero)
        either = np.maximum(self.differ * independent, np.abs(self.few - self.zero))
        return (either + self.few - self.zero) / 2, (either - self.few + self.zero) / 2


def costs(settings: Mapping[str, Any]) -> Costs:
    """Counted by src.plan with the examples of the suite laptop."""
    grid = grid_of({**settings, "limit": DESIGNS[-1].limit})
    (plans,) = cell_plans(grid).values()
    names = ("task", "condition", "prefix", "scored", "drawn")
    rows = [
        (p.task, p.condition, p.tokens.prefix, (p.tokens.prompt + p.tokens.options) / p.prompts,
         p.tokens.completion / p.completions) for p in plans
    ]  # fmt: skip
    flat = pd.DataFrame(rows, columns=names)
    wide = {name: flat.pivot(index="task", columns="condition", values=name) for name in names[2:]}
    return Costs(**wide, sizes=pd.Series({name: evaluated(task, None) for name, task in grid.tasks.items()}))


def shrunk(effect: Array, noise: Array) -> Array:
    """Effects (tasks,) drawn towards their mean. noise: their sampling variances, which are none between tasks."""
    between = max(0.0, float(effect.var(ddof=1) - noise.mean()))
    return np.asarray(effect.mean() + between / (between + noise) * (effect - effect.mean()))


def truth(laptop: pd.DataFrame, prompt: str, metric: str, differ: float) -> Truth:
    """Of rows of suite laptop. A task's skill and what exemplars add to it are shrunk apart."""
    rows = laptop[laptop["primary"] if metric == ANSWERS else laptop["metric"] == metric]
    rows = rows[rows["chance"].notna()]
    zero, few = (rows[rows["condition"] == side].set_index("task").sort_index() for side in sides(prompt))
    noise = sum(side["accuracy"] * (1 - side["accuracy"]) / side["n"] for side in (zero, few)).to_numpy()
    chance, a, b = (each.to_numpy() for each in (zero["chance"], zero["accuracy"], few["accuracy"]))
    skill, gain = shrunk((a + b) / 2 - chance, noise / 4), shrunk(b - a, noise * differ)
    zero_few = (np.clip(chance + skill + sign * gain / 2, 0.01, 0.99) for sign in (-1, 1))
    return Truth(tuple(zero.index), chance, *zero_few, (zero["metric"] != EXACT).to_numpy(), differ)


def disagreement(settings: Mapping[str, Any]) -> float:
    """Truth.differ of the pilot's picks by log-likelihood, over the tasks of the closed prompt."""
    grid, (prompt,) = grid_of(settings), PROMPTS[2]
    known = pd.read_csv(LIKELIHOODS).set_index(["task", "condition", "id"])["logprob"].dropna().to_dict()
    observed, independent = 0.0, 0.0
    for name, task in grid.tasks.items():
        logs = ({key[2]: logs for key, logs in known.items() if key[:2] == (name, side)} for side in sides(prompt))
        cells = (rendered(grid, task, grid.conditions[side]) for side in sides(prompt))
        zero, few = map(picked, cells, logs)
        if len(zero):
            observed += np.abs(few - zero).sum()
            independent += len(zero) * (zero.mean() * (1 - few.mean()) + few.mean() * (1 - zero.mean()))
    return float(observed / independent)


def picked(cell: Rendered | None, logprob: Mapping[str, str]) -> Array:
    """(examples,) score by log-likelihood of each prompt of a cell, in its order; () where its options have none."""
    prompts = [prompt for prompt in (cell.prompts if cell else ()) if prompt.options and prompt.id in logprob]
    logs = [Likelihood(tuple(map(float, logprob[p.id].split())), (1,) * len(p.options)) for p in prompts]
    return np.array([likelihood_scores(p, log, False)[SCORED] for p, log in zip(prompts, logs, strict=True)])


@cache
def mcnemar_finds(n: int, share: float, alpha: float) -> float:
    """`mcnemar_detectable`, kept."""
    return mcnemar_detectable(n, share, alpha)


def finds(these: Truth, n: Array, spread: float, alpha: float) -> dict[str, float]:
    """The differences found with 80 % power (fractions): medians over tasks at Holm's first step, and over all tasks.

    n: (tasks,) examples. spread: variance between tasks of what exemplars add.
    """
    k, share = len(n), np.round(sum(these.alone), 3)
    above = min_detectable(n, these.chance, alpha / k) - these.chance
    few = [mcnemar_finds(int(m), s, alpha / k) for m, s in zip(n, share, strict=True)]
    items = mcnemar_finds(int(n.sum()), round(float(np.average(share, weights=n)), 3), alpha)
    effect = float(TTestPower().solve_power(nobs=k, alpha=alpha, power=POWER)) if k >= FEWEST else NAN
    mean = effect * float(np.sqrt(spread + (share / n).mean()))
    return {"above": float(np.median(above)), "few": float(np.median(few)), "items": items, "mean": mean}


def tells(these: Truth, n: Array, alpha: float, rng: np.random.Generator) -> dict[str, int]:
    """How many statements of each kind one draw of data gives; n: (tasks,) examples."""
    better, worse = these.alone
    shares = np.clip(np.stack([better, worse, these.few - better]), 0, 1)
    b, w, both, _ = rng.multinomial(n, np.vstack([shares, np.clip(1 - shares.sum(axis=0), 0, 1)]).T).T
    zero, few = both + w, both + b

    def holds(p: Array) -> Array:
        return adjust(p, "holm") < alpha

    short = [holds(binomial_lower_tail(k, n, these.chance + MARGIN)) & these.forced for k in (zero, few)]
    low = [binomial_lower_tail(k, n, these.chance) < FLOOR for k in (zero, few)]
    on = these.forced | ~np.any(low, axis=0)  # the others are in another format on a side
    enough = len(n) < 2 * on.sum() and on.sum() >= FEWEST
    effect, small, _ = t_test(((few - zero) / n)[on]) if enough else (1.0, 1.0, 1.0)
    return {
        "above": int(sum(holds(binomial_tail(k, n, these.chance)).sum() for k in (zero, few))),
        "short": int(np.sum(short)),
        "few": int(holds(np.where(on, mcnemar(b, w), NAN)).sum()),
        "items": int(mcnemar(b[on].sum(), w[on].sum()) < alpha),
        "mean": int(effect < alpha),
        "within": int(small < alpha),
    }


def mcnemar(b: Any, w: Any) -> Any:
    """Exact two-sided p, of numbers or arrays of items right on one side alone."""
    return np.minimum(1.0, 2 * binomial_lower_tail(np.minimum(b, w), b + w, 0.5))


def judged(
    design: Design, metric: str, truths: Mapping[str, Truth], cost: Costs, budget: float, alpha: float, repeats: int
) -> dict[str, Any]:
    """One row of the table: means over `repeats` draws of tasks and data. truths: by prompt format."""
    rng, everything = np.random.default_rng(SEED), [*cost.sizes.index]
    found, told, many, spent = [], [], [], []
    for repeat in range(repeats):
        tasks = everything if design.tasks == len(everything) else [*rng.permutation(everything)[: design.tasks]]
        examples = dict(zip(tasks, n := cost.examples(tasks, design, budget), strict=True))
        many.append(np.median(n))
        spent.append(cost.of(tasks, design, n) / budget)
        statements: dict[str, int] = {}
        for prompt in PROMPTS[design.conditions]:
            whole = truths[prompt]
            kept = [task for task in tasks if task in whole.names]
            each, n = whole.of(kept), np.array([examples[task] for task in kept])
            if repeat < DETECTED and prompt == PROMPTS[2][0]:
                found.append(finds(each, n, float((whole.few - whole.zero).var(ddof=1)), alpha))
            more = tells(each, n, alpha, rng)
            statements = {name: statements.get(name, 0) + value for name, value in more.items()}
        told.append({**statements, "any": int(any(statements.values()))})
    return {
        "tasks": design.tasks,
        "conditions": design.conditions,
        "generates": design.generates,
        "metric": metric,
        "examples": float(np.median(many)),
        "cost": float(np.mean(spent)),
        **{f"finds_{name}": value for name, value in pd.DataFrame(found).mean().items()},
        **{f"tells_{name}": value for name, value in pd.DataFrame(told).mean().items()},
    }


HEAD = (
    "| tasks x conditions | judged by | examples | cost | above chance | few- against zero-shot | the same, all items "
    "| the same, mean over tasks | above / short / few differs | over all tasks: differs / within five | any |"
)


def lines(table: pd.DataFrame) -> list[str]:
    """The table for docs/log.md: what 80 % power finds in points, then how many statements a run gives on average."""
    rows = []
    for r in table.itertuples():
        points = (f"{100 * each:.0f}" for each in (r.finds_above, r.finds_few, r.finds_items, r.finds_mean))
        each = f"{r.tells_above:.2f} / {r.tells_short:.2f} / {r.tells_few:.2f}"
        whole = f"{r.tells_items + r.tells_mean:.2f} / {r.tells_within:.2f}"
        by = r.metric + ("" if r.generates else ", nothing generated")
        cells = (f"{r.tasks} x {r.conditions}", by, f"{r.examples:.0f}", f"{r.cost:.2f}", *points, each, whole)
        rows.append(f"| {' | '.join(cells)} | {r.tells_any:.2f} |")
    return [HEAD, "|" + "---|" * (HEAD.count("|") - 1), *rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200, help="draws of tasks and data for each design (200)")
    parser.add_argument("--csv", type=Path, default=TABLE, help="where the table goes (reports/benchmarks)")
    given = parser.parse_args()
    settings = params_with(["suite=pilot"])
    alpha, cost, differ = float(settings["alpha"]), costs(settings), disagreement(settings)
    budget = float(cost.of([*cost.sizes.index], DESIGNS[0], np.full(len(cost.sizes), DESIGNS[0].limit)))
    laptop = pd.read_csv(LAPTOP)
    truths = {
        metric: {prompt: truth(laptop, prompt, metric, differ) for prompt in PROMPTS[4]}
        for metric in DESIGNS[0].metrics
    }
    table = pd.DataFrame(
        judged(design, metric, truths[metric], cost, budget, alpha, given.repeats)
        for design in DESIGNS
        for metric in design.metrics
    )
    print(*lines(table), sep="\n")
    print(f"items that differ: {differ:.3f} of independent ones; a completion's token counts {cost.weight:.2f}")
    write_csv(table, given.csv)


if __name__ == "__main__":
    main()
