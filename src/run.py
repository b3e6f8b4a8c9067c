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
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from src import cells, config, data, fetch, logged, preemption, prompts, shards, tracking
from src.cells import Answers
from src.config import Cell, Run, UserError
from src.engine import Completion, Engine, Request
from src.preemption import Stopped
from src.store import Store

if TYPE_CHECKING:
    from omegaconf import DictConfig

T = TypeVar("T")
DONE, FAILED, NOT_RUNNABLE, NOT_DONE = "done", "failed", "not_runnable", "not_done"


@dataclass(frozen=True)
class Entry:
    """One line of the ledger: what became of a cell."""

    model: str
    task: str
    condition: str
    status: str  # done | failed | not_runnable | not_done (stopped before)
    reason: str | None = None
    fingerprint: str | None = None


@dataclass(frozen=True)
class Outcome:
    """A cell's ledger entry and what the summary says of it; no figures where it is not done."""

    entry: Entry
    n: int = 0  # examples
    accuracy: float | None = None  # the task's primary metric, a fraction
    unparsed: float | None = None  # a fraction


@dataclass(frozen=True)
class Bench:
    """What the cells of one run share."""

    run: Run
    engine: Engine
    store: Store
    encoder: cells.LoadEncoder
    tracker: tracking.Tracker
    check: Callable[[], None]  # between batches: raises Stopped where the run is to end


def scores_options(run: Run, prompt: prompts.Prompt) -> bool:
    """Whether this prompt's options are scored by likelihood."""
    return run.generation.likelihood and bool(prompt.continuations)


def wanted(run: Run, questions: Sequence[prompts.Prompt]) -> list[Request]:
    """What a cell asks, each once: the store is keyed by content."""
    # without options the answer sets the token budget
    distinct = {(p.prefix, p.text, p.continuations, p.options, p.answer): p for p in reversed(questions)}
    return [Request(prompt, run.seeds, scores_options(run, prompt)) for prompt in reversed(distinct.values())]


def missing(bench: Bench, requests: Sequence[Request]) -> list[Request]:
    """What of it the store does not hold yet."""
    store, engine = bench.store, bench.engine
    left = []
    for request in requests:
        prompt = request.prompt
        seeds = tuple(s for s in request.seeds if store.get(engine.completion_key(prompt, s)) is None)
        likelihood = request.likelihood and store.get(engine.likelihood_key(prompt)) is None
        if seeds or likelihood:
            left.append(Request(prompt, seeds, likelihood))
    return left


def compute(bench: Bench, requests: Sequence[Request], among: Sequence[Request]) -> Iterator[int]:
    """Compute what is missing; each batch is in the store before the next begins. Yields examples done."""
    by_id = {request.prompt.id: request.prompt for request in requests}
    left = {request.prompt.id: len(request.seeds) + request.likelihood for request in requests}
    for batch in bench.engine.run(requests, among):
        records: dict[str, dict[str, Any]] = {}
        for result in batch:  # of one prompt, in one Result or several
            prompt = by_id[result.prompt_id]
            for seed, completion in result.completions.items():
                records[bench.engine.completion_key(prompt, seed)] = asdict(completion)
            if result.likelihood:
                records[bench.engine.likelihood_key(prompt)] = asdict(result.likelihood)
            left[result.prompt_id] -= len(result.completions) + (result.likelihood is not None)
        bench.store.put(records)
        yield sum(left[name] == 0 for name in {result.prompt_id for result in batch})


def stored(bench: Bench, prompt: prompts.Prompt) -> Answers:
    """One prompt's answers out of the store."""
    engine, run = bench.engine, bench.run
    completions = {s: Completion(**_record(bench, engine.completion_key(prompt, s))) for s in run.seeds}
    if not scores_options(run, prompt):
        return Answers(prompt, completions, None)
    likelihood = cells.likelihood_of(_record(bench, engine.likelihood_key(prompt)))
    return Answers(prompt, completions, likelihood if likelihood.logprob else None)  # some servers give none


def _record(bench: Bench, key: str) -> dict[str, Any]:
    record = bench.store.get(key)
    if record is None:
        raise RuntimeError(f"the example store lost {key} while it was in use; start again to recompute it")
    return record


@dataclass(frozen=True)
class Answered:
    """A cell whose every answer is in the store."""

    answers: Sequence[Answers]
    n_shots: int
    data_sha256: str
    speed: dict[str, float]  # wall_s, tokens, tokens_per_s, of an API cost_usd; empty where nothing was computed


def answer(bench: Bench, cell: Cell, advance: Callable[[int, int], None]) -> Answered:
    """Load, render, generate: what needs the model."""
    run = bench.run
    shots, tests, data_sha256 = data.load(cell.task.name, run.data)
    earlier = before(run, cell) if run.compat.template_leak else ()
    questions = prompts.ask(tests, shots, cell.task, cell.condition, run.limit, earlier)
    if not questions:
        raise UserError(f"{cell.name}: no example is left to ask, so few does {run.data} hold. Take another condition")

    started, tokens_before, cost_before = time.monotonic(), _tokens(bench.engine), _cost_usd(bench.engine)
    every = wanted(run, questions)
    requests = missing(bench, every)
    left = len(requests)
    advance(len(questions) - left, len(questions))
    for done in compute(bench, requests, every):
        advance(done, len(questions))
        left -= done
        if left:
            bench.check()
    wall_s, tokens = time.monotonic() - started, _tokens(bench.engine) - tokens_before
    speed = {"wall_s": wall_s, "tokens": tokens, "tokens_per_s": tokens / wall_s} if requests else {}
    if cost := _cost_usd(bench.engine) - cost_before:
        speed["cost_usd"] = cost
    answers = [stored(bench, prompt) for prompt in questions]
    return Answered(answers, len(shots) if cell.condition.few_shot else 0, data_sha256, speed)


def finish(bench: Bench, cell: Cell, answered: Answered) -> Outcome:
    """Score, track, write: what does not."""
    run, answers = bench.run, answered.answers
    head = cells.header(run, cell, bench.engine.describe(), answers, answered.n_shots, answered.data_sha256)
    scored = cells.scored(head, answers, bench.encoder, cell.task.primary(cell.condition.prompt))
    track(bench, cell, scored, answered.speed)
    if run.out:
        cells.write(cells.path_of(run.out, head.task, head.condition), head, answers)
    entry = Entry(run.model.name, head.task, head.condition, DONE, None, head.fingerprint)
    return Outcome(entry, scored.summary.n, scored.summary.accuracy, scored.summary.unparsed)


def before(run: Run, cell: Cell) -> list[config.Task]:
    """The tasks of the run's cells before this cell's task, in the order they run."""
    gone = itertools.takewhile(lambda c: c.task.name != cell.task.name, run.cells)
    return list({c.task.name: c.task for c in gone}.values())


def _tokens(engine: Engine) -> int:
    return int(getattr(engine, "tokens", 0))


def _cost_usd(engine: Engine) -> float:
    return float(getattr(engine, "cost_usd", 0.0))


def track(bench: Bench, cell: Cell, scored: cells.Scored, speed: dict[str, float]) -> None:
    """Keep the finished cell, and log its resolved configuration, metrics and examples to MLflow."""
    loaded = vars(bench.engine).get("backend")  # not there where the store had every answer
    tags = {**bench.engine.describe(), **({"device": loaded.model.device} if loaded else {})}
    params = logged.configuration(bench.run, cell, scored.header.shots)
    bench.tracker.cell(scored, cells.Recorded(params, speed, {key: str(value) for key, value in tags.items()}))


def attempt(run: Run, cell: Cell, work: Callable[[], T]) -> T | Outcome:
    """What `work` gives; a failure inside a cell stays inside it, as its ledger entry."""
    name = (run.model.name, cell.task.name, cell.condition.name)
    try:
        with config.told(cell.name):
            return work()
    except UserError as error:
        return Outcome(Entry(*name, NOT_RUNNABLE, str(error)))
    except Exception as error:  # one failing cell must not stop the others; its reason is in the ledger
        return Outcome(Entry(*name, FAILED, f"{type(error).__name__}: {error}"))


def finished(bench: Bench, cell: Cell, answered: Answered | Outcome, end: Callable[[], None]) -> Outcome:
    """What became of a cell that `answer` has dealt with."""
    if isinstance(answered, Outcome):
        end()
        return answered
    outcome = attempt(bench.run, cell, functools.partial(finish, bench, cell, answered))
    end()
    return outcome


def local_engine(run: Run) -> Engine:
    """The model's weights in this process."""
    from src.engine.local import LocalEngine

    if run.model.api:
        raise UserError(
            f"{run.model.name}: {run.model.gate or 'an API model, so engine=openai'}; its published cells are in the "
            "report. Where a server has it: engine=openai engine.base_url=..."
        )
    folder, identity = fetch.weights(run.model, config.ROOT)
    return LocalEngine(folder, identity, run.model, run.generation, run.compat, run.token_budget)


def openai_engine(run: Run) -> Engine:
    """A server that has the model; completions have the published rules alone, for it shows no token ids."""
    from src.engine.openai import OpenAIEngine

    if run.compat.strip_letters or run.compat.batch_budget or run.compat.prompt_by_text:
        raise UserError(
            "compat.strip_letters, compat.batch_budget and compat.prompt_by_text need the tokens of a local engine. "
            "Leave compat=fixed, or engine=local"
        )
    for key in (
        "base_url",
        "concurrency",
        "retries",
        "timeout_s",
        "calls_per_minute",
        "tokens_per_minute",
        "max_cost_usd",
    ):
        config.suits(f"engine.{key}", getattr(run.serving, key))
    own = fetch.tokenizer(run.model, config.ROOT)
    count = (lambda text: len(own.encode(text, add_special_tokens=False))) if own else None
    return OpenAIEngine(run.serving, run.model, run.generation, count)


ENGINES = {"local": local_engine, "openai": openai_engine}  # by the `kind` of conf/engine


def engine_of(run: Run) -> Engine:
    """What answers this run's requests. Raises UserError where weights, server or settings are missing."""
    if run.serving.kind not in ENGINES:
        raise config.suggest("engine.kind", run.serving.kind, sorted(ENGINES), "src/run.py, ENGINES")
    return ENGINES[run.serving.kind](run)


def run_all(run: Run, todo: Sequence[Cell], check: Callable[[], None]) -> Iterator[Outcome]:
    """These cells of one model. Raises UserError where its weights cannot be had, Stopped where `check` does."""
    engine = engine_of(run)
    encoder = functools.cache(cells.load_encoder)
    with tracking.model_run(run) as tracker, progress(run, len(todo)) as (begin, advance, end):
        bench = Bench(run, engine, Store(run.store), encoder, tracker, check)
        yield from outcomes(bench, todo, begin, advance, end)


def outcomes(
    bench: Bench,
    todo: Sequence[Cell],
    begin: Callable[[str], None],
    advance: Callable[[int, int], None],
    end: Callable[[], None],
) -> Iterator[Outcome]:
    """What became of each cell. While one is scored, tracked and written, the model answers the next."""
    last: Future[Outcome] | None = None  # one cell behind at most: a cell's answers fill memory
    with ThreadPoolExecutor(max_workers=1) as behind:
        try:
            for cell in todo:
                bench.check()
                begin(cell.name)
                answered = attempt(bench.run, cell, functools.partial(answer, bench, cell, advance))
                if last:
                    yield last.result()
                last = behind.submit(finished, bench, cell, answered, end)
        except Stopped:  # what has its answers is finished first
            if last:
                yield last.result()
            raise
        if last:
            yield last.result()


@contextlib.contextmanager
def progress(
    run: Run, count: int
) -> Iterator[tuple[Callable[[str], None], Callable[[int, int], None], Callable[[], None]]]:
    """A bar over cells and one over the examples of a cell, with rate and time left; nothing where piped.

    Yields `begin(cell)`, `advance(n, of)`: n more of the cell's examples are done, and `end()`.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[unit]}"),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, disable=quiet(), console=_stderr()) as bar:
        whole = bar.add_task(label(run), total=count, unit="cells", rate="")
        part = bar.add_task("", total=None, unit="examples", rate="")

        def advance(n: int, of: int) -> None:
            bar.update(part, total=of, advance=n)
            speed = next(t.finished_speed or t.speed for t in bar.tasks if t.id == part)
            bar.update(part, rate=f"{speed:.1f}/s" if speed else "")

        yield (lambda cell: bar.reset(part, description=cell, total=None, rate="")), advance, lambda: bar.advance(whole)


def quiet() -> bool:
    """Whether to draw no bars: stderr is a file or a pipe, or the jobs of a sweep share it."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    return sweep or not sys.stderr.isatty()


def label(run: Run) -> str:
    """The model, and which shard of it."""
    return run.model.name + (f" shard {run.shard} of {run.shards}" if run.shards > 1 else "")


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
        f"suite {run.suite}, {label(run)} ({run.model.weights}): {len(tasks)} tasks x {len(conditions)} "
        f"conditions, {sample} examples, seeds {','.join(map(str, run.seeds))}{whole}"
    )


def report(run: Run, results: Sequence[Outcome], wall_s: float) -> None:
    """The end of a run: how many cells, how well, what was not done and why, where to look."""
    entries = [outcome.entry for outcome in results]
    done = [e for e in entries if e.status == DONE]
    place = f"    cells: {run.out}" if run.out else ""
    print(f"{label(run)}: {len(done)} of {len(entries)} cells done in {wall_s:.0f} s. Browse them: make ui{place}")
    print(*summary([o for o in results if o.accuracy is not None]), sep="\n", end="")
    for reason, names in _by_reason(entries).items():
        print(f"  {len(names)} {names[0].status}: {', '.join(f'{e.task}/{e.condition}' for e in names[:4])}", end="")
        print(f"{' ...' if len(names) > 4 else ''}\n    {reason}")


def summary(done: Sequence[Outcome]) -> list[str]:
    """A line a condition, the last one empty: mean accuracy over tasks with its 95 % interval, share unparsed."""
    if not done:
        return []
    rows = ["  condition                    tasks  accuracy  95 % interval  unparsed"]
    for name in dict.fromkeys(o.entry.condition for o in done):
        these = [o for o in done if o.entry.condition == name]
        mean, low, high = interval([o.accuracy or 0.0 for o in these], [o.n for o in these])
        unparsed = sum(o.unparsed or 0.0 for o in these) / len(these)
        rows.append(f"  {name:<28} {len(these):>5}  {mean:>8.3f}  {low:.3f} to {high:.3f} {unparsed:>8.1%}")
    note = "  accuracy: mean over tasks of each one's primary metric; interval: these tasks, other examples of them"
    return [*rows, note, ""]


def interval(accuracy: Sequence[float], n: Sequence[int]) -> tuple[float, float, float]:
    """(mean over tasks, low, high): each task's 95 % Wilson interval, joined by MOVER (Zou & Donner 2008).

    accuracy: fractions, one a task; n: examples of each. The tasks are taken as given, their examples as drawn; pooling
    the examples of all tasks would weigh tasks by size and call their differences noise.
    """
    from statsmodels.stats.proportion import proportion_confint

    mean = sum(accuracy) / len(accuracy)
    ends = [proportion_confint(a * k, k, method="wilson") for a, k in zip(accuracy, n, strict=True)]
    below = math.hypot(*(a - low for a, (low, _) in zip(accuracy, ends, strict=True))) / len(accuracy)
    above = math.hypot(*(high - a for a, (_, high) in zip(accuracy, ends, strict=True))) / len(accuracy)
    return mean, max(0.0, mean - below), min(1.0, mean + above)


def _by_reason(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    by_reason: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.status != DONE:
            by_reason.setdefault(entry.reason or "no reason given", []).append(entry)
    return by_reason


def write_ledger(run: Run, entries: Sequence[Entry]) -> None:
    """The stage's out: exactly the cells of this run, and what became of each.

    A shard leaves other shards' cells alone and keeps a ledger of its own; a whole run replaces those.
    """
    if run.out is None:
        return
    run.out.mkdir(parents=True, exist_ok=True)
    for path in out_of_date(run, entries):
        path.unlink(missing_ok=True)
    name = "ledger.json" if run.shards == 1 else f"ledger_{run.shard}_of_{run.shards}.json"
    with config.whole(run.out / name) as part:
        part.write_text(json.dumps([asdict(e) for e in entries], indent=1) + "\n")


def out_of_date(run: Run, entries: Sequence[Entry]) -> list[Path]:
    """The files of `run.out` that these entries speak against."""
    assert run.out is not None
    file = {e: cells.path_of(run.out, e.task, e.condition) for e in entries}
    if run.shards > 1:  # ledger.json spoke of the whole grid at another time
        return [run.out / "ledger.json", *(path for e, path in file.items() if e.status != DONE)]
    done = {path for e, path in file.items() if e.status == DONE}
    return [path for path in cells.files_in(run.out) if path not in done] + [*run.out.glob("ledger_*_of_*.json")]


def execute(cfg: DictConfig) -> int:
    """Run what was composed; the process's exit code.

    0 where all is done or where gaps are to be reported, preemption.AGAIN where it was stopped, else 1.
    """
    run = config.compose_run(cfg)
    print(headline(run), flush=True)
    started, todo = time.monotonic(), shards.own_cells(run)
    results: list[Outcome] = []
    stopped = None
    try:
        with preemption.stoppable(run.time_limit_h) as check:
            for outcome in run_all(run, todo, check):
                results.append(outcome)
    except UserError as error:
        if run.out is None or run.incomplete == "fail":
            raise
        results = gaps(run, todo, NOT_RUNNABLE, str(error))
    except Stopped as stop:
        stopped = (
            f"stopped by {stop}: every finished batch is in the example store; the same command goes on from there"
        )
        results += gaps(run, todo[len(results) :], NOT_DONE, stopped)
    report(run, results, time.monotonic() - started)
    return concluded(run, [outcome.entry for outcome in results], stopped)


def gaps(run: Run, left: Sequence[Cell], status: str, reason: str) -> list[Outcome]:
    """Cells that were not computed, each for the same reason."""
    return [Outcome(Entry(run.model.name, c.task.name, c.condition.name, status, reason)) for c in left]


def concluded(run: Run, entries: Sequence[Entry], stopped: str | None) -> int:
    """Write the ledger where it may be written; the exit code."""
    whole = all(e.status == DONE for e in entries)
    if whole or run.incomplete != "fail":
        write_ledger(run, entries)
    if stopped:
        left = sum(e.status == NOT_DONE for e in entries)
        print(f"{label(run)}: {left} of {len(entries)} cells left, {stopped}", file=sys.stderr)
        return preemption.AGAIN
    return int(not whole and (run.out is None or run.incomplete == "fail"))


def main() -> None:
    """Hydra's command line (`--help`, `--cfg job`, `-m`), with errors written for the person who made the mistake."""
    import hydra

    ending: list[int | str] = [0]  # what Hydra shows without running (--cfg, --help) is no failure

    @hydra.main(config_path=str(config.CONF), config_name="config", version_base="1.3")
    def app(cfg: DictConfig) -> int | str:
        config.register()  # here, too: a launcher's job is another process
        ending[0] = explained(lambda: execute(cfg))  # inside, because Hydra would print a traceback
        return ending[0]  # a job of a sweep ends in what it returns

    def checked() -> int:
        sys.argv[1:] = config.checked_overrides(sys.argv[1:])
        return 0

    os.chdir(config.ROOT)
    config.register()
    mistake = explained(checked)
    if not mistake:
        app()
    sys.exit(mistake or ending[0])


def explained(work: Callable[[], int]) -> int | str:
    """The exit code of `work`, or what to tell the user where it ended in a mistake or an interruption."""
    try:
        with config.told("run"):
            return work()
    except UserError as error:
        return f"error: {error}"
    except KeyboardInterrupt:
        return "interrupted: every finished batch is in the example store; the same command goes on from there"


if __name__ == "__main__":
    main()
