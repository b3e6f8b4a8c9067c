"""One model's part of the grid: load, render, generate, score, track, write.

Examples:
  python -m src.run +model=smollm2_135m_instruct task=social_iqa condition=closed_few limit=8
  python -m src.run +model=llama_7b suite=paper seeds=[2266]
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from src import cells, config, data, fetch, logged, prompts, scoring, tracking
from src.cells import Answers
from src.config import Cell, Run, UserError
from src.engine import Completion, Engine, Likelihood, Request
from src.store import Store

if TYPE_CHECKING:
    from omegaconf import DictConfig

DONE, FAILED, NOT_RUNNABLE = "done", "failed", "not_runnable"


@dataclass(frozen=True)
class Entry:
    """One line of the ledger: what became of a cell."""

    model: str
    task: str
    condition: str
    status: str  # done | failed | not_runnable
    reason: str | None = None
    fingerprint: str | None = None


@dataclass(frozen=True)
class Bench:
    """What the cells of one run share."""

    run: Run
    engine: Engine
    store: Store
    bert: Callable[[], scoring.BertScorer]
    tracker: tracking.Tracker


def scores_options(run: Run, prompt: prompts.Prompt) -> bool:
    """Whether this prompt's options are scored by likelihood."""
    return run.generation.likelihood and bool(prompt.continuations)


def missing(bench: Bench, asked: Sequence[prompts.Prompt]) -> list[Request]:
    """What the store does not hold yet."""
    run, store, engine = bench.run, bench.store, bench.engine
    requests = []
    # without options the answer sets the token budget
    distinct = {(p.prefix, p.text, p.continuations, p.options, p.answer): p for p in reversed(asked)}
    for prompt in reversed(distinct.values()):  # the store is keyed by content: what is asked twice is computed once
        seeds = tuple(s for s in run.seeds if store.get(engine.completion_key(prompt, s)) is None)
        likelihood = scores_options(run, prompt) and store.get(engine.likelihood_key(prompt)) is None
        if seeds or likelihood:
            requests.append(Request(prompt, seeds, likelihood))
    return requests


def compute(bench: Bench, requests: Sequence[Request]) -> Iterator[int]:
    """Compute what is missing; each batch is in the store before the next begins. Yields examples done."""
    by_id = {request.prompt.id: request.prompt for request in requests}
    for batch in bench.engine.run(requests):
        records: dict[str, dict[str, Any]] = {}
        for result in batch:
            prompt = by_id[result.prompt_id]
            for seed, completion in result.completions.items():
                records[bench.engine.completion_key(prompt, seed)] = asdict(completion)
            if result.likelihood:
                records[bench.engine.likelihood_key(prompt)] = asdict(result.likelihood)
        bench.store.put(records)
        yield len(batch)


def stored(bench: Bench, prompt: prompts.Prompt) -> Answers:
    """One prompt's answers out of the store."""
    engine, run = bench.engine, bench.run
    completions = {s: Completion(**_record(bench, engine.completion_key(prompt, s))) for s in run.seeds}
    if not scores_options(run, prompt):
        return Answers(prompt, completions, None)
    scored = _record(bench, engine.likelihood_key(prompt))
    return Answers(prompt, completions, Likelihood(tuple(scored["logprob"]), tuple(scored["n_tokens"])))


def _record(bench: Bench, key: str) -> dict[str, Any]:
    record = bench.store.get(key)
    if record is None:
        raise RuntimeError(f"the example store lost {key} while it was in use; start again to recompute it")
    return record


def run_cell(bench: Bench, cell: Cell, advance: Callable[[int], None]) -> Entry:
    """Load, render, generate, score, track, write: one cell."""
    run = bench.run
    shots, tests, data_sha256 = data.load(cell.task.name, run.data)
    earlier = before(run, cell) if run.compat.template_leak else ()
    asked = prompts.ask(tests, shots, cell.task, cell.condition, run.limit, earlier)

    started, tokens_before = time.monotonic(), _tokens(bench.engine)
    requests = missing(bench, asked)
    advance(len(asked) - len(requests))
    for done in compute(bench, requests):
        advance(done)
    wall_s, tokens = time.monotonic() - started, _tokens(bench.engine) - tokens_before

    answers = [stored(bench, prompt) for prompt in asked]
    n_shots = len(shots) if cell.condition.few_shot else 0
    head = cells.header(run, cell, bench.engine.describe(), answers, n_shots, data_sha256)
    scores = cells.score(head, answers, None if cell.condition.lettered else bench.bert())
    speed = {"wall_s": wall_s, "tokens": tokens, "tokens_per_s": tokens / wall_s} if requests else {}
    track(bench, cell, head, answers, scores, speed)
    if run.out:
        cells.write(run.out / f"{cell.task.name}__{cell.condition.name}.jsonl", head, answers)
    return Entry(run.model.name, cell.task.name, cell.condition.name, DONE, None, head["fingerprint"])


def before(run: Run, cell: Cell) -> list[config.Task]:
    """The tasks of the run's cells before this cell's task, in the order they run."""
    gone = itertools.takewhile(lambda c: c.task.name != cell.task.name, run.cells)
    return list({c.task.name: c.task for c in gone}.values())


def _tokens(engine: Engine) -> int:
    return int(getattr(engine, "tokens", 0))


def track(
    bench: Bench,
    cell: Cell,
    head: dict[str, Any],
    answers: Sequence[Answers],
    scores: Sequence[scoring.Score],
    speed: dict[str, float],
) -> None:
    """Keep the finished cell, and log its resolved configuration, metrics and examples to MLflow."""
    loaded = vars(bench.engine).get("backend")  # not there where the store had every answer
    tags = {**bench.engine.describe(), **({"device": loaded.model.device} if loaded else {})}
    params = logged.configuration(bench.run, cell, head["shots"])
    recorded = logged.Recorded(params, speed, {key: str(value) for key, value in tags.items()})
    bench.tracker.cell(head, answers, scores, recorded)


def attempt(bench: Bench, cell: Cell, advance: Callable[[int], None]) -> Entry:
    """A cell's ledger entry; a failure inside it stays inside it."""
    name = (bench.run.model.name, cell.task.name, cell.condition.name)
    try:
        return run_cell(bench, cell, advance)
    except UserError as error:
        return Entry(*name, NOT_RUNNABLE, str(error))
    except Exception as error:  # one failing cell must not stop the others; its reason is in the ledger
        return Entry(*name, FAILED, f"{type(error).__name__}: {error}")


def run_all(run: Run) -> list[Entry]:
    """Every cell of one model. Raises UserError where the model's weights cannot be had."""
    from src.engine.local import LocalEngine

    if run.model.api:
        raise UserError(f"{run.model.name}: {run.model.gate or 'an API model'}; its published cells are in the report")
    folder, identity = fetch.weights(run.model, config.ROOT)
    engine = LocalEngine(
        folder, identity, run.generation, dtype=run.model.dtype, leading=run.model.leading,
        strip_letters=run.compat.strip_letters, batch_budget=run.compat.batch_budget,
        prompt_by_text=run.compat.prompt_by_text, token_budget=run.token_budget,
    )  # fmt: skip
    bert = functools.cache(lambda: cells.load_encoder(run.encoder))
    with tracking.model_run(run) as tracker, progress(run) as show:
        bench = Bench(run, engine, Store(run.store), bert, tracker)
        entries = []
        for cell in run.cells:
            show(cell.name, 0)
            entries.append(attempt(bench, cell, functools.partial(show, cell.name)))
            show(cell.name, None)
        return entries


@contextlib.contextmanager
def progress(run: Run) -> Iterator[Callable[[str, int | None], None]]:
    """A bar over cells and one over the examples of a cell, with rate and time left; nothing where piped.

    Yields `show(cell, n)`: n more examples of this cell are done; 0 begins it, None ends it.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not sys.stderr.isatty(), console=_stderr()) as bar:
        whole = bar.add_task(run.model.name, total=len(run.cells))
        part = bar.add_task("", total=None)

        def show(cell: str, n: int | None) -> None:
            if n is None:
                bar.advance(whole)
            elif n == 0:
                bar.reset(part, description=cell, total=run.limit)
            else:
                bar.advance(part, n)

        yield show


def _stderr() -> Any:
    from rich.console import Console

    return Console(stderr=True)


def headline(run: Run) -> str:
    """What is about to run, in one line."""
    tasks = list({c.task.name: c.task for c in run.cells}.values())
    conditions = {c.condition.name for c in run.cells}
    largest = max(t.n_source - len(t.exemplars) for t in tasks)
    sample = f"{min(run.limit, largest):,} of {largest:,}" if run.limit else f"all of up to {largest:,}"
    whole = "" if run.suite == "paper" else "; whole grid: suite=paper"
    return (
        f"suite {run.suite}, {run.model.name} ({run.model.weights}): {len(tasks)} tasks x {len(conditions)} "
        f"conditions, {sample} examples, seeds {','.join(map(str, run.seeds))}{whole}"
    )


def report(run: Run, entries: Sequence[Entry], wall_s: float) -> None:
    """The end of a run: how many cells, what was not done and why, where to look."""
    done = [e for e in entries if e.status == DONE]
    print(f"{len(done)} of {len(entries)} cells done in {wall_s:.0f} s. Browse them: make ui")
    for reason, names in _by_reason(entries).items():
        print(f"  {len(names)} {names[0].status}: {', '.join(f'{e.task}/{e.condition}' for e in names[:4])}", end="")
        print(f"{' ...' if len(names) > 4 else ''}\n    {reason}")


def _by_reason(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.status != DONE:
            found.setdefault(entry.reason or "no reason given", []).append(entry)
    return found


def write_ledger(run: Run, entries: Sequence[Entry]) -> None:
    """The stage's out: exactly the cells of this run, and what became of each."""
    if run.out is None:
        return
    run.out.mkdir(parents=True, exist_ok=True)
    wanted = {f"{e.task}__{e.condition}.jsonl" for e in entries if e.status == DONE}
    for path in run.out.glob("*.jsonl"):
        if path.name not in wanted:
            path.unlink()
    part = run.out / "ledger.part"
    part.write_text(json.dumps([asdict(e) for e in entries], indent=1) + "\n")
    part.replace(run.out / "ledger.json")


def execute(cfg: DictConfig) -> int:
    """Run what was composed; the process's exit code. 0 where all is done, or where gaps are to be reported."""
    run = config.compose_run(cfg)
    print(headline(run), flush=True)
    started = time.monotonic()
    try:
        entries = run_all(run)
    except UserError as error:
        if run.out is None or run.incomplete == "fail":
            raise
        name = run.model.name
        entries = [Entry(name, c.task.name, c.condition.name, NOT_RUNNABLE, str(error)) for c in run.cells]
    report(run, entries, time.monotonic() - started)
    gaps = any(e.status != DONE for e in entries)
    if gaps and run.incomplete == "fail":
        return 1
    write_ledger(run, entries)
    return int(gaps and run.out is None)


def main() -> None:
    """Hydra's command line (`--help`, `--cfg job`, `-m`), with errors written for the person who made the mistake."""
    import hydra

    config.register()
    ending: list[int | str] = [0]  # what Hydra shows without running (--cfg, --help) is no failure

    @hydra.main(config_path=str(config.CONF), config_name="config", version_base="1.3")
    def app(cfg: DictConfig) -> None:
        ending[0] = explained(lambda: execute(cfg))  # inside, because Hydra would print a traceback

    def checked() -> int:
        sys.argv[1:] = config.checked_overrides(sys.argv[1:])
        return 0

    os.chdir(config.ROOT)
    mistake = explained(checked)
    if not mistake:
        app()
    sys.exit(mistake or ending[0])


def explained(work: Callable[[], int]) -> int | str:
    """The exit code of `work`, or what to tell the user where it ended in a mistake or an interruption."""
    try:
        return work()
    except UserError as error:
        return f"error: {error}"
    except KeyboardInterrupt:
        return "interrupted: every finished batch is in the example store; the same command goes on from there"


if __name__ == "__main__":
    main()
