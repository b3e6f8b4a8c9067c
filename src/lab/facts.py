"""What MLflow is told of a finished cell: parameters, metrics, tags and one row for each example and seed."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.base import conf, grid
from src.base.schema import Cell, Condition, Generation, Model, Run
from src.cell.file import Answers, Header, Recorded, Scored
from src.question import prompts
from src.scoring.score import Score

if TYPE_CHECKING:
    from matplotlib.figure import Figure


HASHES = ("fingerprint", "data_sha256", "prompts_sha256", "completions_sha256")
SUMMARY = (
    "task", "condition", "n", "accuracy", "chance", "above_chance", "exact_match", "bertscore_accuracy", "likelihood",
    "unparsed", "tokens_per_s", "fingerprint",
)  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """Everything that is logged of one finished cell."""

    name: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    examples: Sequence[Mapping[str, Any]]  # a row per example and seed


def facts_of(cell: Scored, recorded: Recorded) -> Facts:
    """The facts of a scored cell. `above_chance` is the accuracy by the primary metric minus exact chance."""
    head, summary = cell.header, cell.summary
    compared = {"accuracy": summary.accuracy, "chance": summary.chance, "above_chance": summary.above_chance}
    defined = {name: value for name, value in compared.items() if value is not None}
    within = {"proof_within": head.proof.within} if head.proof else {}
    proof = {"way": head.proof.way, "proof": str(head.proof)} if head.proof else {}
    return Facts(
        name=f"{head.task} {head.condition} {head.model}",
        params=recorded.params,
        metrics={**summary.means, "n": summary.n, **defined, **within, **recorded.metrics},
        tags={**{name: str(value) for name, value in head.chosen(HASHES).items()}, **proof, **recorded.tags},
        examples=table(cell.answers, cell.scores),
    )


def configuration(run: Run, cell: Cell, shots: int) -> dict[str, str]:
    """The resolved configuration of a cell, each value as text.

    Sorted by `base` or `pair`, a tuned model stands beside its base twin.
    """
    model, task, condition = run.model, cell.task, cell.condition
    base = model.twin or model.name
    params = {
        "model": model.name, "weights": model.weights, "tuned": model.tuned, "base": base,
        "pair": f"{cell.name} {base}: {'tuned' if model.tuned else 'base'}",
        "task": task.name, "condition": condition.name, "prompt": condition.prompt, "shots": shots,
        "control": condition.control, "primary_metric": task.primary(condition.prompt),
        "suite": run.suite, "seeds": list(run.seeds), "limit": run.limit, "encoder": run.encoder,
    }  # fmt: skip
    params |= {f"generation.{k}": v for k, v in asdict(run.generation).items()}
    params |= {f"compat.{k}": v for k, v in asdict(run.compat).items()}
    params |= {f"task.{k}": v for k, v in asdict(task).items() if k != "name"}
    params |= {f"condition.{k}": v for k, v in asdict(condition).items() if k not in ("name", "prompt", "control")}
    return {key: str(value)[:6000] for key, value in params.items()}


def from_conf(head: Header, answers: Sequence[Answers]) -> Recorded:
    """The record of a cell that has none: its header, and what conf/ composes to for the rest.

    Engine, machine and speed are unknown and left out. Raises UserError if conf/ no longer has the cell's model, task
    or condition.
    """
    cell = Cell(conf.load_task(head.task), conf.load("condition", head.condition, Condition))
    limit = _limit(head.suite)
    run = Run(
        suite=head.suite,
        model=conf.load("model", head.model, Model),
        cells=(cell,),
        generation=_generation(),
        compat=head.compat,
        seeds=tuple(answers[0].completions),
        limit=limit,
        encoder=head.encoder,
        incomplete="report", token_budget=1, data=Path(), store=Path(), out=None, tracking={},
    )  # fmt: skip
    params = configuration(run, cell, head.shots) | {"weights": head.weights}
    largest = cell.task.n_source - len(cell.task.exemplars)
    if len({prompts.example_id(a.prompt.id)[0] for a in answers}) != min(limit or largest, largest):
        del params["limit"]  # a smaller limit was given by hand, or conf/ changed. The header does not tell
    return Recorded(params)


@functools.cache
def _generation() -> Generation:
    return conf.typed(Generation, grid.composed([]).generation, "generation")


@functools.cache
def _limit(suite: str) -> int | None:
    limit = grid.composed_params([f"suite={suite}"])["limit"]
    return None if limit is None else int(limit)


def table(answers: Sequence[Answers], scores: Sequence[Score]) -> list[dict[str, Any]]:
    """The table of examples: prompt, completion, parsed option and scores."""
    by_id = {a.prompt.id: a for a in answers}
    rows = []
    for score in scores:
        answered = by_id[score.example_id]
        prompt, completion = answered.prompt, answered.completions[score.seed]
        parsed = prompt.options[score.picked] if score.picked is not None and prompt.options else None
        rows.append(
            {
                "example": prompt.id, "seed": score.seed, "prompt": prompt.prefix + prompt.text,
                "completion": completion.text, "parsed": parsed, "unparsed_because": score.reason,
                "target": prompt.answer,
                "exact_match": score.exact_match, "bertscore_accuracy": score.bertscore_accuracy,
                "likelihood": score.likelihood, "edit_distance": score.edit_distance,
            }
        )  # fmt: skip
    return rows


def summary(runs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The cells of a model, task by task, in the columns of SUMMARY. A value that a cell lacks is None."""
    rows = [{name: run.get(name) for name in SUMMARY} for run in runs]
    return sorted(rows, key=lambda row: (row["task"], row["condition"], row["n"], row["fingerprint"]))


def figure(rows: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Accuracy by the primary metric: one line a task, one mark a condition, one tick at chance.

    Where a cell was run on samples of several sizes, the largest counts.
    """
    from matplotlib.figure import Figure  # pyplot would keep every figure and choose a backend

    largest = {(row["task"], row["condition"]): row for row in sorted(rows, key=lambda row: row["n"])}
    tasks, conditions = (sorted({key[i] for key in largest}) for i in (0, 1))
    chart = Figure(figsize=(8, 1.5 + 0.28 * max(len(tasks), len(conditions))), layout="constrained")
    axes = chart.subplots()
    for i, condition in enumerate(conditions):
        here = [row for (_, c), row in largest.items() if c == condition and row["accuracy"] is not None]
        height = [tasks.index(row["task"]) + 0.6 * (i + 0.5) / len(conditions) - 0.3 for row in here]
        axes.plot([row["accuracy"] for row in here], height, "o", markersize=4, label=condition)
    chance = {row["task"]: row["chance"] for row in largest.values() if row["chance"] is not None}
    axes.plot(list(chance.values()), [tasks.index(task) for task in chance], "|", color="0.3", ms=12, label="chance")
    axes.set(xlim=(-0.02, 1.02), xlabel="accuracy", title=title, yticks=range(len(tasks)), yticklabels=tasks)
    axes.invert_yaxis()
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return chart
