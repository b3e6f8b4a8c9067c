"""How close the protocol is to the published one, in figures. A DVC stage: `python -m src.fidelity` -> data/fidelity.

prefixes.parquet: each published few-shot prefix against the one rebuilt by the renderer that makes every prompt.
compat.parquet: what each defect of the released code (`Compat`) moves on the cells of data/outputs.
prompts.parquet: what was asked in each condition, for one example, word for word.
near_ties.parquet: completions with a decision so close that another machine may take it otherwise.

`python -m src.fidelity OUTPUTS FOLDER` writes the last one for other cells, as csv files that can be committed:
compat_runs.csv (switches of generation, cell by cell) and deviations.csv (every switch, over all tasks).
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.base import conf, grid
from src.base.cli import command, stage, suite_line
from src.base.errors import UserError
from src.base.files import whole
from src.base.frames import as_declared, printable, write_csv
from src.base.schema import Compat, Condition, Task
from src.cell import file
from src.cell.file import Answers, Header, LoadEncoder, cell_files, load_encoder, means_of, read_cell, read_header
from src.question import examples, prompts
from src.scoring import match
from src.scoring.match import Rules, written
from src.scoring.score import Score
from src.statistics.setting import SEED

if TYPE_CHECKING:
    import pandas as pd

OUTPUTS = Path("data/outputs")
OUT = Path("data/fidelity")
SCORING = ("strip_letters", "void_abc_only", "option_full_stop", "first_listed")
"""Switches that change what a completion scores."""
GENERATION = ("template_leak", "batch_budget", "prompt_by_text")
"""Switches that change what a model is asked or answers. Only a run shows what they move."""
FIXED = Compat(name="fixed")
PUBLISHED_RUN = "published_run"
"""Asked, decoded and scored as published. The variant `published` is only scored so."""
RUNS = {**{name: (name,) for name in GENERATION}, PUBLISHED_RUN: GENERATION}
"""The switches that a run must have been made with to show what they move."""

PREFIX_COLUMNS = ("task", "format", "sha256_published", "sha256_rebuilt", "equal", "note")
CELL_COLUMNS = ("task", "condition", "prompt", "shots", "model")
IDENTITY = (*CELL_COLUMNS, "fingerprint")
EFFECT_COLUMNS = (
    *CELL_COLUMNS, "generated_with", "switch", "n", "exact_match_fixed", "exact_match_switched", "difference",
    "bertscore_accuracy_fixed", "bertscore_accuracy_switched", "picks_changed", "scores_changed", "note",
    "fingerprint",
)  # fmt: skip
DEVIATION_COLUMNS = (
    "switch", "prompt", "few_shot", "model", "weights", "metric", "cells", "cells_moved", "n", "groups", "mean_diff",
    "ci_low", "ci_high", "test", "p",
)  # fmt: skip
SHOWN_COLUMNS = ("task", "condition", "prompt", "shots", "model", "id", "asked", "gold", "completion", "fingerprint")
NEAR_TIE_COLUMNS = ("task", "condition", "prompt", "shots", "model", "id", "seed", "margin", "fingerprint")
Pairs = list[tuple[Score, Score]]
"""The fixed and the switched score of each example and seed of a cell."""


# Prefixes


def prefix_rows(tasks: Path = examples.TASKS) -> list[dict[str, Any]]:
    """A row (PREFIX_COLUMNS) for each prefix of data/published/exemplars.json. tasks: folder of prepared tasks."""
    published = json.loads(conf.EXEMPLARS.read_text(encoding="utf-8"))
    return [
        prefix_row(conf.load_task(name), prompt, prefix["sha256"], tasks)
        for name, entry in published.items()
        for prompt, prefix in entry.get("prefixes", {}).items()
    ]


def prefix_row(task: Task, prompt: str, published: str, tasks: Path) -> dict[str, Any]:
    """One published prefix beside the rebuilt one. `equal` is null where there is nothing to compare."""
    rebuilt, note = rebuilt_prefix(task, prompt, tasks)
    equal = None if rebuilt is None else rebuilt == published
    return dict(zip(PREFIX_COLUMNS, (task.name, prompt, published, rebuilt, equal, note), strict=True))


def rebuilt_prefix(task: Task, prompt: str, tasks: Path) -> tuple[str | None, str | None]:
    """(sha256 hex of the prefix as rendered, None), or (None, why there is none)."""
    if task.exemplars_kind != "published":
        return None, f"exemplars are {task.exemplars_kind}: the published ones are not at hand"
    try:
        exemplars, _, _ = examples.load(task.name, tasks)
    except UserError:
        return None, "not prepared"
    text = prompts.prefix(exemplars, task, conf.load("condition", f"{prompt}_few", Condition))
    return hashlib.sha256(text.encode()).hexdigest(), None


def check_prepared(tasks: Path) -> None:
    """Raises UserError where no task is prepared: then there is nothing to compare."""
    if not any(tasks.glob("*.jsonl")):
        raise UserError(f"{tasks} holds no prepared task. Make them: dvc repro prepare")


# What each switch moves


def scoring_variants() -> dict[str, Compat]:
    """Each scoring switch alone, and all as published."""
    alone = {name: conf.typed(Compat, {"name": name, name: True}, name) for name in SCORING}
    return alone | {"published": conf.load("compat", "published", Compat)}


def effects(
    outputs: Path = OUTPUTS, encoder: LoadEncoder = load_encoder
) -> Iterator[tuple[dict[str, Any], Pairs, Header]]:
    """(row of EFFECT_COLUMNS, its pairs, header) of every cell under `outputs` and variant. No run, no pairs."""
    heads = {path: read_header(path) for path in cell_files(outputs)}
    for path, head in heads.items():
        answers = read_cell(path)[1]
        runs = {} if generated_with(head) else generated_pairs(head, answers, heads, encoder)
        variants = rescored_pairs(head, answers, encoder) | runs
        for switch, pairs in variants.items():
            columns = effect(pairs) if pairs is not None else {"note": f"needs a run: {needed(switch)}"}
            yield row_of(head, switch, columns), pairs or [], head


def needed(switch: str) -> str:
    """The override that makes the run a variant needs."""
    return "compat=published" if switch == PUBLISHED_RUN else f"compat.{switch}=true"


def generated_with(head: Header) -> list[str]:
    """The generation switches a cell was made with."""
    return [name for name in GENERATION if getattr(head.compat, name)]


def rescored(head: Header, answers: Sequence[Answers], compat: Compat, encoder: LoadEncoder | None) -> list[Score]:
    """A cell's scores under other rules than its own."""
    return file.score(replace(head, compat=compat), answers, encoder)


def rescored_pairs(head: Header, answers: Sequence[Answers], encoder: LoadEncoder) -> dict[str, Pairs | None]:
    """The pairs of each variant of the scoring switches. BERTScore only where a variant can change it."""
    variants = scoring_variants()
    moved = {name for name, compat in variants.items() if moves_bertscore(answers, compat)}
    fixed = rescored(head, answers, FIXED, encoder if moved else None)
    return {
        name: matched(fixed, rescored(head, answers, compat, encoder if name in moved else None))
        for name, compat in variants.items()
    }


def moves_bertscore(answers: Sequence[Answers], compat: Compat) -> bool:
    """Whether these rules compare other texts than the fixed ones do."""
    rules, fixed = Rules(False, compat), Rules(False, FIXED)
    return any(
        match.compared(a.prompt, rules) != match.compared(a.prompt, fixed)
        or any(written(each.text, compat) != each.text for each in a.completions.values())
        for a in answers
    )


def generated_pairs(
    head: Header, answers: Sequence[Answers], heads: Mapping[Path, Header], encoder: LoadEncoder
) -> dict[str, Pairs | None]:
    """The cell paired with the same one of each variant of RUNS. None where `heads` has no such run."""
    pairs: dict[str, Pairs | None] = {}
    for switch, made_with in RUNS.items():
        same = [p for p, h in heads.items() if generated_with(h) == list(made_with) and same_cell(h, head)]
        if not same:
            pairs[switch] = None
            continue
        other, other_answers = read_cell(same[0])
        rules = conf.load("compat", "published", Compat) if switch == PUBLISHED_RUN else FIXED
        fixed = rescored(head, answers, FIXED, encoder)
        pairs[switch] = matched(fixed, rescored(other, other_answers, rules, encoder))
    return pairs


def same_cell(one: Header, other: Header) -> bool:
    """Whether two headers are of one model, task and condition."""
    names = (*CELL_COLUMNS, "weights")
    return one.chosen(names) == other.chosen(names)


def matched(fixed: Sequence[Score], switched: Sequence[Score]) -> Pairs:
    """The scores of the examples and seeds both have."""
    at = {(s.example_id, s.seed): s for s in switched}
    return [(s, at[s.example_id, s.seed]) for s in fixed if (s.example_id, s.seed) in at]


def effect(pairs: Pairs) -> dict[str, Any]:
    """Means over examples and seeds, switched minus fixed, and how many picks and scores differ."""
    if not pairs:
        return {"note": "the two runs share no example"}
    before, after = (means_of(side) for side in zip(*pairs, strict=True))
    bert = (before, after) if "bertscore_accuracy" in after else ({}, {})
    return {
        "n": len({one.example_id for one, _ in pairs}),
        "exact_match_fixed": before["exact_match"],
        "exact_match_switched": after["exact_match"],
        "difference": after["exact_match"] - before["exact_match"],
        "bertscore_accuracy_fixed": bert[0].get("bertscore_accuracy"),
        "bertscore_accuracy_switched": bert[1].get("bertscore_accuracy"),
        "picks_changed": sum(one.picked != other.picked for one, other in pairs),
        "scores_changed": sum(one.exact_match != other.exact_match for one, other in pairs),
    }


def deviations(moves: Sequence[tuple[Mapping[str, Any], Pairs, Header]]) -> list[dict[str, Any]]:
    """Rows of DEVIATION_COLUMNS: each switch over all tasks of a prompt format and shots, switched minus fixed.

    The interval resamples examples, in groups where they share a context. `p` is that of own.own_pair. A cell that
    shows no options on either side has no BERTScore, and is left out. A cell whose BERTScore no rule touches counts as
    one without a difference.
    """
    pools: dict[tuple[Any, ...], list[tuple[Header, Pairs]]] = {}
    for row, pairs, head in moves:
        metrics = ("exact_match",) if head.lettered else ("exact_match", "bertscore_accuracy")
        for metric in metrics if pairs and not generated_with(head) else ():
            if metric != "exact_match" and not options_on_both_sides(pairs):
                continue
            key = (row["switch"], head.prompt, head.shots > 0, head.model, head.weights, metric)
            pools.setdefault(key, []).append((head, pairs))
    return [
        {**dict(zip(DEVIATION_COLUMNS, key, strict=False)), **over_tasks(pool, key[-1])} for key, pool in pools.items()
    ]


def options_on_both_sides(pairs: Pairs) -> bool:
    """Whether both scores of every pair come from a prompt that shows options."""
    return all(one.n_options and other.n_options for one, other in pairs)


def over_tasks(pool: Sequence[tuple[Header, Pairs]], metric: str) -> dict[str, Any]:
    """What one switch moves over a pool of cells: how many cells move, and the paired difference with its interval."""
    import pandas as pd

    from src.statistics import own  # pingouin takes seconds to import, and the stage does without it

    def value(score: Score, other: Score) -> float:
        own, alternative = getattr(score, metric), getattr(other, metric)
        return float(next((each for each in (own, alternative) if each is not None), 0))

    rows = [
        {
            "example_id": one.example_id, "group": f"{head.task}/{one.group}", "task": head.task,
            "fixed": value(one, other), "switched": value(other, one),
        }
        for head, pairs in pool
        for one, other in pairs
    ]  # fmt: skip
    by = pd.DataFrame(rows).groupby("example_id")
    fixed, switched = (
        pd.DataFrame({"y": by[side].mean(), "group": by["group"].first()}) for side in ("fixed", "switched")
    )
    gap = (switched["y"] - fixed["y"]).groupby(by["task"].first()).mean()
    moved = {"cells": len(pool), "cells_moved": int((gap.abs() > 1e-9).sum())}
    return moved | own.own_pair(switched, fixed, metric, SEED)


def row_of(head: Header, switch: str, columns: Mapping[str, Any]) -> dict[str, Any]:
    """One row of EFFECT_COLUMNS."""
    made = ";".join(generated_with(head)) or None
    row = {**dict.fromkeys(EFFECT_COLUMNS), **head.chosen(IDENTITY)}
    return {**row, "generated_with": made, "switch": switch, **columns}


# Prompts, word for word


def shown_prompts(outputs: Path = OUTPUTS) -> list[dict[str, Any]]:
    """Rows of SHOWN_COLUMNS: one example as each condition asks it, and the model's completion with the first seed.

    The task is the first by name that was run in the most conditions.
    """
    by_task: dict[str, dict[str, Path]] = {}
    for path in cell_files(outputs):
        head = read_header(path)
        by_task.setdefault(head.task, {}).setdefault(head.condition, path)
    if not by_task:
        return []
    chosen = max(sorted(by_task), key=lambda task: len(by_task[task]))
    return [_shown(path) for path in by_task[chosen].values()]


def _shown(path: Path) -> dict[str, Any]:
    head, answers = read_cell(path)
    prompt, completions = answers[0].prompt, answers[0].completions
    texts = {
        "asked": prompt.prefix + prompt.text,
        "gold": prompt.answer,
        "completion": printable(completions[min(completions)].text),
    }
    return {**head.chosen(IDENTITY), "id": prompt.id, **texts}


# Near-ties


def near_ties(outputs: Path = OUTPUTS) -> list[dict[str, Any]]:
    """Rows of NEAR_TIE_COLUMNS: every completion with a decision whose margin is below the engine's NEAR_TIE."""
    rows = []
    for path in cell_files(outputs):
        head, answers = read_cell(path)
        close = [
            (a.prompt.id, seed, completion.near_tie)
            for a in answers
            for seed, completion in sorted(a.completions.items())
            if completion.near_tie is not None
        ]
        rows += [{**head.chosen(IDENTITY), "id": name, "seed": seed, "margin": margin} for name, seed, margin in close]
    return rows


# The stage


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """The rows as a frame with these columns, missing values null."""
    import pandas as pd

    return pd.DataFrame(list(rows), columns=list(columns)).convert_dtypes()


def write_reference(outputs: Path, folder: Path) -> list[Path]:
    """compat_runs.csv and deviations.csv of the cells under `outputs`: figures only, no dataset text."""
    moves = list(effects(outputs, functools.cache(load_encoder)))
    if not moves:
        raise UserError(f"{outputs} holds no cell, so {folder} stays as it is. Make the runs first: make compat")
    runs = [row for row, pairs, _ in moves if row["switch"] in RUNS and pairs]
    frames = {"compat_runs": table(runs, EFFECT_COLUMNS), "deviations": table(deviations(moves), DEVIATION_COLUMNS)}
    for name, frame in frames.items():
        write_csv(frame, folder / f"{name}.csv")
    return [folder / f"{name}.csv" for name in frames]


def main() -> None:
    """`python -m src.fidelity [OUTPUTS FOLDER]`. A user's mistake is one line on stderr and exit code 1."""
    parser = command("fidelity", __doc__, "", "data/compat data/reference")
    parser.add_argument("outputs", nargs="?", type=Path, help="cells of runs with and without switches")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("data/reference"), help="where the csv files go")
    given = parser.parse_args()
    with stage("fidelity", here=True):
        print(suite_line(grid.params()), flush=True)
        if given.outputs:
            print(*write_reference(given.outputs, given.folder))
            return
        check_prepared(examples.TASKS)
        frames = {
            "prefixes": table(prefix_rows(), PREFIX_COLUMNS),
            "prompts": table(shown_prompts(), SHOWN_COLUMNS),
            "near_ties": table(near_ties(), NEAR_TIE_COLUMNS),
            "compat": table([row for row, _, _ in effects(encoder=functools.cache(load_encoder))], EFFECT_COLUMNS),
        }
        for name, frame in frames.items():
            with whole(OUT / f"{name}.parquet") as part:
                as_declared(name, frame).to_parquet(part, index=False)
        equal = frames["prefixes"]["equal"]
        same, compared = int(equal.sum()), int(equal.notna().sum())
        print(f"{OUT}: {same} of {compared} rebuilt prefixes equal the published ones, {len(equal)} published")


if __name__ == "__main__":
    main()
