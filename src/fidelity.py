"""How close the protocol is to the published one, in figures. A DVC stage: `python -m src.fidelity` -> data/fidelity.

prefixes.parquet: each published few-shot prefix against the one rebuilt by the renderer that makes every prompt.
counts.parquet: how many items each task has, and which of them are odd.
compat.parquet: what each defect of the released code (`Compat`) moves on the cells of data/outputs.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src import cells, config, data, prompts, scoring, stats_cell
from src.cells import Answers
from src.config import Compat, Condition, Task, UserError
from src.scoring import BertScorer, Score

if TYPE_CHECKING:
    import pandas as pd

OUTPUTS = Path("data/outputs")
OUT = Path("data/fidelity")
SCORING = ("strip_letters", "void_abc_only", "option_full_stop", "first_listed")
"""Switches that change what a completion scores."""
GENERATION = ("template_leak", "batch_budget", "prompt_by_text")
"""Switches that change what a model is asked or answers: only a run shows what they move."""
FIXED = Compat(name="fixed")

PREFIX_COLUMNS = ("task", "format", "sha256_published", "sha256_rebuilt", "equal", "note")
COUNT_COLUMNS = (
    "task", "n", "n_published", "exemplars_in_test", "siblings", "duplicates", "ceiling", "chance_scored", "note",
)  # fmt: skip
CELL_COLUMNS = ("task", "condition", "prompt", "shots", "model")
EFFECT_COLUMNS = (
    *CELL_COLUMNS, "generated_with", "switch", "n", "exact_match_fixed", "exact_match_switched", "difference",
    "bertscore_accuracy_fixed", "bertscore_accuracy_switched", "picks_changed", "scores_changed", "note",
    "fingerprint",
)  # fmt: skip


# Prefixes


def prefix_rows(tasks: Path = data.TASKS) -> list[dict[str, Any]]:
    """A row (PREFIX_COLUMNS) for each prefix of data/published/exemplars.json. tasks: folder of prepared tasks."""
    published = json.loads(config.EXEMPLARS.read_text())
    return [
        prefix_row(config.load_task(name), prompt, prefix["sha256"], tasks)
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
        exemplars, _, _ = data.load(task.name, tasks)
    except UserError:
        return None, "not prepared"
    text = prompts.prefix(exemplars, task, config.load("condition", f"{prompt}_few", Condition))
    return hashlib.sha256(text.encode()).hexdigest(), None


# Counts


def count_rows(tasks: Path = data.TASKS) -> list[dict[str, Any]]:
    """A row (COUNT_COLUMNS) for each task of conf/task; counts are null where it is not prepared."""
    return [count_row(config.load_task(name), tasks) for name in config.known("task")]


def count_row(task: Task, tasks: Path) -> dict[str, Any]:
    """How many items a task has, and how many of them meet an exemplar, its context or each other again.

    exemplars_in_test: items with the input and options of an exemplar; siblings: with its context group; duplicates:
    items whose input and options occur before; ceiling, chance_scored: see `scorer_limits`.
    """
    row = {**dict.fromkeys(COUNT_COLUMNS), "task": task.name, "n_published": task.n_published}
    try:
        exemplars, tests, _ = data.load(task.name, tasks)
    except UserError:
        return row | {"note": "not prepared"}
    items = stats_cell.items([asdict(e) for e in (*exemplars, *tests)])
    shown = {(e.input, e.options) for e in exemplars}
    return row | {
        "n": len(tests),
        "exemplars_in_test": sum((e.input, e.options) in shown for e in tests),
        "siblings": int(items.sibling.sum()),
        "duplicates": items.duplicates,
        **scorer_limits(task, tests),
        "note": task.n_note if len(tests) != task.n_published else None,
    }


def scorer_limits(task: Task, tests: Sequence[data.Example]) -> dict[str, float | None]:
    """ceiling, chance_scored: fractions 0-1 that the published full-stop rule (defect 7) leaves, closed format."""
    closed = config.load("condition", "closed_zero", Condition)
    asked = [prompts.render(example, (), task, closed) for example in tests]
    rule = (False, Compat(name="option_full_stop", option_full_stop=True), task.strip_full_stop_from_options)
    return {"ceiling": scoring.ceiling(asked, *rule), "chance_scored": scoring.chance_scored(asked, *rule)}


# What each switch moves

Scorer = Callable[[str], BertScorer]  # of an encoder's name


def scoring_variants() -> dict[str, Compat]:
    """Each scoring switch alone, and all as published."""
    alone = {name: config.typed(Compat, {"name": name, name: True}, name) for name in SCORING}
    return alone | {"published": config.load("compat", "published", Compat)}


def effect_rows(outputs: Path = OUTPUTS, encoder: Scorer = cells.load_encoder) -> Iterator[dict[str, Any]]:
    """Rows (EFFECT_COLUMNS): every cell under `outputs`, re-scored under each variant, and what needs a run."""
    found = {path: head_of(path) for path in sorted(outputs.glob("*/*.jsonl"))}
    for path in found:
        head, answers = cells.read(path)
        yield from rescored_rows(head, answers, encoder)
        if not generated_with(head):
            yield from (generation_row(head, answers, switch, found, encoder) for switch in GENERATION)


def head_of(path: Path) -> dict[str, Any]:
    """The header of a cell's file. Raises UserError where the file is not what was written."""
    with path.open(encoding="utf-8") as file:
        try:
            head: dict[str, Any] = json.loads(file.readline())
        except ValueError:
            return cells.read(path)[0]  # raises, and says what to do
    return head


def generated_with(head: Mapping[str, Any]) -> list[str]:
    """The generation switches a cell was made with."""
    return [name for name in GENERATION if head["compat"][name]]


def rescored(
    head: Mapping[str, Any], answers: Sequence[Answers], compat: Compat, bert: BertScorer | None
) -> list[Score]:
    """A cell's scores under other rules than its own."""
    return cells.score({**head, "compat": asdict(compat)}, answers, bert)


def rescored_rows(head: Mapping[str, Any], answers: Sequence[Answers], encoder: Scorer) -> Iterator[dict[str, Any]]:
    """A row for each variant of the scoring switches. BERTScore only where a variant can change it."""
    variants = scoring_variants()
    moved = {name for name, compat in variants.items() if not head["lettered"] and moves_bertscore(answers, compat)}
    bert = encoder(head["encoder"]) if moved else None
    fixed = rescored(head, answers, FIXED, bert)
    for name, compat in variants.items():
        switched = rescored(head, answers, compat, bert if name in moved else None)
        yield row_of(head, name, effect(fixed, switched))


def moves_bertscore(answers: Sequence[Answers], compat: Compat) -> bool:
    """Whether these rules compare other texts than the fixed ones do."""
    return any(
        scoring.compared(a.prompt, compat, False) != scoring.compared(a.prompt, FIXED, False)
        or any(scoring.written(said.text, compat) != said.text for said in a.completions.values())
        for a in answers
    )


def generation_row(
    head: Mapping[str, Any],
    answers: Sequence[Answers],
    switch: str,
    found: Mapping[Path, Mapping[str, Any]],
    encoder: Scorer,
) -> dict[str, Any]:
    """The cell against the same one generated with `switch` alone, over the examples and seeds both have."""
    partner = next((p for p, h in found.items() if generated_with(h) == [switch] and same_cell(h, head)), None)
    if partner is None:
        return row_of(head, switch, {"note": f"needs a run: compat.{switch}=true"})
    bert = None if head["lettered"] else encoder(head["encoder"])
    fixed, switched = rescored(head, answers, FIXED, bert), rescored(*cells.read(partner), FIXED, bert)
    return row_of(head, switch, effect(fixed, switched))


def same_cell(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two headers are of one model, task and condition."""
    return all(one[name] == other[name] for name in (*CELL_COLUMNS, "weights"))


def effect(fixed: Sequence[Score], switched: Sequence[Score]) -> dict[str, Any]:
    """Means over the examples and seeds both have, switched minus fixed, and how many picks and scores differ."""
    at = {(s.example_id, s.seed): s for s in switched}
    pairs = [(s, at[s.example_id, s.seed]) for s in fixed if (s.example_id, s.seed) in at]
    if not pairs:
        return {"note": "the two runs share no example"}
    before, after = (cells.summary(side) for side in zip(*pairs, strict=True))
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


def row_of(head: Mapping[str, Any], switch: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """One row of EFFECT_COLUMNS."""
    known = {name: head[name] for name in (*CELL_COLUMNS, "fingerprint")}
    made = ";".join(generated_with(head)) or None
    return {**dict.fromkeys(EFFECT_COLUMNS), **known, "generated_with": made, "switch": switch, **found}


# The stage


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """The rows as a frame with these columns, missing values null."""
    import pandas as pd

    return pd.DataFrame(list(rows), columns=list(columns)).convert_dtypes()


def main() -> None:
    """`python -m src.fidelity`: the stage. A user's mistake is one line on stderr and exit code 1."""
    try:
        print(config.suite_line(config.params()), flush=True)
        frames = {
            "prefixes": table(prefix_rows(), PREFIX_COLUMNS),
            "counts": table(count_rows(), COUNT_COLUMNS),
            "compat": table(list(effect_rows(encoder=functools.cache(cells.load_encoder))), EFFECT_COLUMNS),
        }
    except UserError as error:
        sys.exit(f"error: {error}")
    OUT.mkdir(parents=True, exist_ok=True)
    for name, frame in frames.items():
        part = OUT / f"{name}.part"
        frame.to_parquet(part, index=False)
        part.replace(OUT / f"{name}.parquet")
    equal = frames["prefixes"]["equal"]
    compared = int(equal.notna().sum())
    print(f"{OUT}: {int(equal.sum())} of {compared} rebuilt prefixes equal the published ones, {len(equal)} published")


if __name__ == "__main__":
    main()
