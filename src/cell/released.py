"""A cell as a release holds it: hashes in the place of texts, and its prompts rebuilt from the data sets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.base import grid
from src.base.errors import UserError
from src.base.schema import Cell, Run
from src.base.values import digest
from src.cell.file import (
    Answers,
    Header,
    answers_of,
    answers_row,
    cell_files,
    digests,
    fingerprint,
    header_of,
    header_row,
    read_cell,
)
from src.cell.finding import DIFFERS, IDENTICAL, NEAR_TIES, Finding
from src.cell.hashes import LOGPROB
from src.engine.job import Engine, Request, Result
from src.question import examples, prompts

if TYPE_CHECKING:
    import pandas as pd

CELLS = "data/cells"
DIGITS = 16  # of the sha256 that stands for a text


def hashed_items(path: Path) -> bytes:
    """A prepared task with a hash in the place of every text: what the statistics need of it."""
    rows = [json.loads(line) for line in path.open(encoding="utf-8")]
    return json_lines([{**row, **{key: hashed(row[key]) for key in ("input", "options", "answer")}} for row in rows])


def hashed(text: str | Sequence[str]) -> str | list[str]:
    """DIGITS of a text's sha256, and its full stop, which the published scorer treats by itself."""
    if not isinstance(text, str):
        return [str(hashed(each)) for each in text]
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS] + ("." if text.endswith(".") else "")


def without_prompts(path: Path) -> bytes:
    """A cell's file with each prompt's id and sha256 in its place."""
    head, answers = read_cell(path)
    return json_lines([header_row(head), *map(without_text, answers)])


def without_text(answers: Answers) -> dict[str, Any]:
    """One prompt's answers with the prompt's id and sha256 in its place."""
    return {"id": answers.prompt.id, "prompt_sha256": prompt_sha256(answers), **answers_row(answers)}


def prompt_sha256(answers: Answers) -> str:
    """sha256 of a prompt: prefix, text, options, continuations, gold answer."""
    return digest(asdict(answers.prompt))


def json_lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows as JSON lines, UTF-8."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


@dataclass(frozen=True)
class Kept:
    """A cell of a release, its prompts rebuilt from the data sets. faults: what does not fit."""

    asked: Run
    cell: Cell
    head: Header
    answers: tuple[Answers, ...]
    faults: tuple[str, ...]

    @property
    def name(self) -> str:
        """model/task/condition."""
        return f"{self.head.model}/{self.cell.name}"


def kept_cells(root: Path, words: Sequence[str]) -> list[Kept]:
    """Every cell of an unpacked release. words: overrides, e.g. where the prepared tasks or the weights are.

    Raises UserError where a data set that it needs is not prepared.
    """
    given = grid.params(root / "params.yaml")
    asked = [f"{key}={_word(given[key])}" for key in ("tasks", "conditions", "seeds", "limit", "encoder")]
    paths = cell_files(root / CELLS)
    models = sorted({path.parent.name for path in paths})
    runs = {name: grid.composed_run([f"+model={name}", *asked, *words]) for name in models}
    return [kept(path, runs[path.parent.name]) for path in paths]


def _word(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else "null" if value is None else str(value)


def kept(path: Path, asked: Run) -> Kept:
    """One cell of a release. Raises UserError where it is none, or its data set is not prepared."""
    try:
        first, *rows = (json.loads(line) for line in path.open(encoding="utf-8"))
        head = header_of(first)
        cell = next(c for c in asked.cells if (c.task.name, c.condition.name) == (head.task, head.condition))
        shots, tests, data_sha256 = examples.load(cell.task.name, asked.data)
        earlier = grid.tasks_before(asked, cell) if asked.compat.template_leak else ()
        by_id = {p.id: p for p in prompts.ask(tests, shots, cell.task, cell.condition, asked.limit, earlier)}
        answers = tuple(answers_of(by_id[row["id"]], row) for row in rows)
        wanted = [row["prompt_sha256"] for row in rows]
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise UserError(f"{path.name} is no cell of this release's grid ({type(error).__name__}: {error})") from error
    other = [a.prompt.id for a, sha256 in zip(answers, wanted, strict=True) if prompt_sha256(a) != sha256]
    faults = [] if data_sha256 == head.data_sha256 else [f"{cell.task.name}: prepared data differ from the release's"]
    faults += [f"{other[0]}: another prompt than was asked ({len(other)} of {len(answers)})"] if other else []
    again = digests(answers)[1]
    faults += ["completions are not those of completions_sha256"] if again != head.completions_sha256 else []
    return Kept(asked, cell, head, answers, tuple(faults))


@dataclass(frozen=True)
class Sample:
    """Completions generated again. wrong: differ outside near-ties, in text or in their prompt's log-likelihoods."""

    m: int
    population: int
    wrong: int
    near: int
    notes: tuple[str, ...]

    @property
    def bound(self) -> float:
        """Upper 95 % confidence bound on the share of wrong ones, a fraction: one-sided Clopper-Pearson."""
        from scipy import stats as distributions

        test = distributions.binomtest(self.wrong, self.m, alternative="less")
        return float(test.proportion_ci(0.95, method="exact").high)

    def finding(self) -> Finding:
        """What it says about the release."""
        status = DIFFERS if self.wrong else NEAR_TIES if self.near else IDENTICAL
        said = (
            f"{self.m} of {self.population:,} completions generated again: {self.wrong} wrong, {self.near} differ at "
            f"near-ties; with 95 % confidence less than {100 * self.bound:.1f} % of all are wrong (Clopper-Pearson)"
        )
        return Finding("sample", status, (said, *self.notes))


def regenerated(each: Kept, engine: Engine, chosen: Mapping[int, tuple[int, ...]]) -> Iterator[tuple[str, str]]:
    """(status, note) for each chosen completion; chosen: seeds by position of the prompt in the cell.

    Raises UserError where the engine would not ask for the same.
    """
    head = each.head
    settings = (each.asked, each.cell, engine.describe(), head.prompts_sha256, head.data_sha256)
    if fingerprint(*settings) != head.fingerprint:
        raise UserError(
            f"{each.name}: these are not the weights or the settings of the release (fingerprint). Weights in a "
            "folder: model.path=/that/folder; settings: conf and params.yaml of the release's commit"
        )
    asked = [(each.answers[n], seeds) for n, seeds in chosen.items()]
    requests = [Request(a.prompt, seeds, a.likelihood is not None) for a, seeds in asked]
    made = {result.prompt_id: result for batch in engine.run(requests) for result in batch}
    for answers, seeds in asked:
        for seed in seeds:
            yield again(answers, made[answers.prompt.id], seed)


def again(answers: Answers, made: Result, seed: int) -> tuple[str, str]:
    """(status, note) of one completion and its prompt's log-likelihoods beside those generated again."""
    import numpy as np

    where, said, now = f"{answers.prompt.id}, seed {seed}", answers.completions[seed], made.completions[seed]
    margins = [c.near_tie for c in (said, now) if c.near_tie is not None]
    scored = (answers.likelihood, made.likelihood)
    if scored[0] and scored[1] and not np.allclose(scored[1].logprob, scored[0].logprob, LOGPROB, LOGPROB):
        return DIFFERS, f"{where}: log-likelihoods differ"
    if said.text == now.text:
        return IDENTICAL, ""
    return (NEAR_TIES, f"{where}: margin {min(margins):.3g}") if margins else (DIFFERS, f"{where}: another text")


def differing_scores(published: pd.DataFrame, fresh: pd.DataFrame) -> list[str]:
    """A line per column of two cells' scores that differs; BERTScore to 1e-5, the rest exactly."""
    import numpy as np

    key = ["example_id", "variant", "seed"]
    if len(published) != len(fresh) or set(published) != set(fresh):
        return [f"{len(published)} scores for {len(fresh)} completions"]
    pair = [frame.assign(variant=frame["variant"].astype("string")).sort_values(key) for frame in (published, fresh)]
    notes = []
    for name in published.columns:
        before, after = (frame[name].astype(object).where(frame[name].notna(), None).tolist() for frame in pair)
        same = [_same(a, b, np.isclose) for a, b in zip(before, after, strict=True)]
        if not all(same):
            at = same.index(False)
            notes.append(f"{pair[0].iloc[at]['example_id']}: {name} is {before[at]}, its completion gives {after[at]}")
    return notes


def _same(a: Any, b: Any, near: Any) -> bool:
    return bool(near(a, b, 1e-5, 1e-5)) if isinstance(a, float) and isinstance(b, float) else a == b
