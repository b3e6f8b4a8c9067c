"""One model's part of the grid: load, render, generate, score, track, write.

Examples:
  python -m src.run +model=smollm2_135m_instruct task=social_iqa condition=closed_few limit=8
  python -m src.run +model=llama_7b suite=paper seeds=[2266]
"""

from __future__ import annotations

import functools
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from src.base import conf, grid
from src.base.cli import explained
from src.base.errors import UserError, disk_errors
from src.base.files import ROOT
from src.base.schema import Cell, Run
from src.base.secrets import shown
from src.base.values import digest
from src.cell import file
from src.cell.file import (
    Answers,
    LoadEncoder,
    Recorded,
    Scored,
    header,
    likelihood_of,
    load_encoder,
    path_of,
    write_cell,
)
from src.cell.ledger import DONE, FAILED, NOT_DONE, NOT_RUNNABLE, Entry, Outcome, gaps, write_ledger
from src.cell.store import PROOF, Store
from src.engine.job import Completion, Engine, Likelihood, Proof, Request, Result
from src.engine.start import engine_of
from src.lab import facts, preemption, runs, shards, spent
from src.lab.preemption import Stopped
from src.lab.progress import headline, label, progress, report
from src.question import examples, prompts

if TYPE_CHECKING:
    from omegaconf import DictConfig


T = TypeVar("T")


@dataclass(frozen=True)
class Bench:
    """What the cells of one run share."""

    run: Run
    engine: Engine
    store: Store
    encoder: LoadEncoder
    tracker: runs.Tracker
    check: Callable[[], None]  # called between batches, raises Stopped where the run must end


def scores_options(run: Run, prompt: prompts.Prompt) -> bool:
    """Whether this prompt's options are scored by likelihood."""
    return run.generation.likelihood and bool(prompt.continuations)


def wanted(run: Run, questions: Sequence[prompts.Prompt]) -> list[Request]:
    """The Requests of a cell. Equal prompts are asked once, because the store is keyed by content."""
    # without options the answer sets the token budget
    distinct = {(p.prefix, p.text, p.continuations, p.options, p.answer): p for p in reversed(questions)}
    return [Request(prompt, run.seeds, scores_options(run, prompt)) for prompt in reversed(distinct.values())]


def missing(bench: Bench, requests: Sequence[Request]) -> list[Request]:
    """The parts of these requests that the store does not hold yet."""
    store, engine = bench.store, bench.engine
    left = []
    for request in requests:
        prompt = request.prompt
        seeds = tuple(s for s in request.seeds if store.get(engine.completion_key(prompt, s)) is None)
        likelihood = request.likelihood and known(store.get(engine.likelihood_key(prompt)), prompt) is None
        if seeds or likelihood:
            left.append(Request(prompt, seeds, likelihood))
    return left


def known(record: dict[str, Any] | None, prompt: prompts.Prompt) -> Likelihood | None:
    """The log-likelihoods of a record. None where it has none for some option, as older stores may hold."""
    likelihood = record and likelihood_of(record)
    whole = likelihood and len(likelihood.logprob) == len(likelihood.n_tokens) == len(prompt.continuations)
    return likelihood if likelihood and whole and all(map(math.isfinite, likelihood.logprob)) else None


def compute(bench: Bench, requests: Sequence[Request], among: Sequence[Request]) -> Generator[int, None, None]:
    """Compute what is missing. Each batch is stored before the next begins. Yields the number of examples done.

    Closed early or stopped, it still stores what the engine has under way. A likelihood that cannot be had is not
    stored.
    """
    by_id = {request.prompt.id: request.prompt for request in requests}
    left = {request.prompt.id: len(request.seeds) + request.likelihood for request in requests}

    def put(batch: Sequence[Result]) -> int:
        records: dict[str, dict[str, Any]] = {}
        for result in batch:  # of one prompt, in one Result or several
            prompt = by_id[result.prompt_id]
            for seed, completion in result.completions.items():
                records[bench.engine.completion_key(prompt, seed)] = asdict(completion)
            if result.likelihood:
                records[bench.engine.likelihood_key(prompt)] = asdict(result.likelihood)
            likelihood_done = result.likelihood is not None or not result.completions
            left[result.prompt_id] -= len(result.completions) + likelihood_done
        bench.store.put(records)
        return sum(left[name] == 0 for name in {result.prompt_id for result in batch})

    batches = bench.engine.run(requests, among)
    try:
        for batch in batches:
            yield put(batch)
    except BaseException:
        for batch in under_way(batches):
            put(batch)
        raise
    if unanswered := [name for name, parts in left.items() if parts]:
        raise RuntimeError(f"the engine left {len(unanswered)} prompts without an answer, {unanswered[0]} first")


def under_way(batches: Iterator[list[Result]]) -> Iterator[list[Result]]:
    """What an engine that is told to stop still gives: calls to a server that are paid for."""
    if isinstance(batches, Generator):
        with suppress(StopIteration, Stopped, UserError):
            batch = batches.throw(Stopped("a stop"))
            while True:
                yield batch
                batch = next(batches)


def stored(bench: Bench, prompt: prompts.Prompt) -> Answers:
    """One prompt's answers, read from the store."""
    engine, run = bench.engine, bench.run
    completions = {s: Completion(**_record(bench, engine.completion_key(prompt, s))) for s in run.seeds}
    if not scores_options(run, prompt):
        return Answers(prompt, completions, None)
    likelihood = known(bench.store.get(engine.likelihood_key(prompt)), prompt)  # some servers give none
    return Answers(prompt, completions, likelihood)


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
    proof: Proof | None  # of the way the answers were computed


def answer(bench: Bench, cell: Cell, advance: Callable[[int, int], None]) -> Answered:
    """The part of a cell that needs the model: load the examples, render the prompts, generate."""
    run = bench.run
    shots, tests, data_sha256 = examples.load(cell.task.name, run.data)
    earlier = grid.tasks_before(run, cell) if run.compat.template_leak else ()
    questions = prompts.ask(tests, shots, cell.task, cell.condition, run.limit, earlier)
    if not questions:
        raise UserError(f"{cell.name}: no example is left to ask, so few does {run.data} hold. Take another condition")

    started, tokens_before, cost_before = time.monotonic(), _tokens(bench.engine), _cost_usd(bench.engine)
    every = wanted(run, questions)
    requests = missing(bench, every)
    left = len(requests)
    advance(len(questions) - left, len(questions))
    with closing(compute(bench, requests, every)) as batches:
        for done in batches:
            advance(done, len(questions))
            left -= done
            if left:
                bench.check()
    wall_s, tokens = time.monotonic() - started, _tokens(bench.engine) - tokens_before
    speed = {"wall_s": wall_s, "tokens": tokens, "tokens_per_s": tokens / wall_s} if requests else {}
    if cost := _cost_usd(bench.engine) - cost_before:
        speed["cost_usd"] = cost
    answers = [stored(bench, prompt) for prompt in questions]
    proof = proof_of(bench, answers, computed=bool(requests))
    return Answered(answers, len(shots) if cell.condition.few_shot else 0, data_sha256, speed, proof)


def proof_of(bench: Bench, answers: Sequence[Answers], computed: bool) -> Proof | None:
    """The proof of the way in which a cell was computed, just now or by the run that stored its answers."""
    prompts_sha256, _ = file.digests(answers)
    key = PROOF + digest({"engine": bench.engine.describe(), "prompts": prompts_sha256})
    proof: Proof | None = getattr(bench.engine, "proof", None)  # a server gives none
    if computed and proof:
        bench.store.put({key: asdict(proof)})
        return proof
    record = bench.store.get(key)
    return Proof(**record) if record else None


def finish(bench: Bench, cell: Cell, answered: Answered) -> Outcome:
    """The part of a cell that needs no model: score, track, write."""
    run, answers = bench.run, answered.answers
    head = header(run, cell, bench.engine.describe(), answers, answered.n_shots, answered.data_sha256, answered.proof)
    scored = file.scored(head, answers, bench.encoder, cell.task.primary(cell.condition.prompt))
    track(bench, cell, scored, answered.speed)
    if run.out:
        # without its proof, which depends on what this process was asked before: outputs are the same however they came
        write_cell(path_of(run.out, head.task, head.condition), replace(head, proof=None), answers)
    entry = Entry(run.model.name, head.task, head.condition, DONE, None, head.fingerprint)
    return Outcome(entry, scored.summary.n, scored.summary.accuracy, scored.summary.unparsed)


def spent_by(engine: Engine) -> dict[str, float]:
    """What an engine has counted so far, by the names of MLflow's metrics."""
    counted = {"tokens": float(_tokens(engine)), "cost_usd": _cost_usd(engine)}
    return {name: value for name, value in counted.items() if name == "tokens" or value}


def _tokens(engine: Engine) -> int:
    return int(getattr(engine, "tokens", 0))


def _cost_usd(engine: Engine) -> float:
    return float(getattr(engine, "cost_usd", 0.0))


def track(bench: Bench, cell: Cell, scored: Scored, speed: dict[str, float]) -> None:
    """Log the finished cell to MLflow: its resolved configuration, metrics and examples."""
    choice = vars(bench.engine).get("choice")  # absent where the store had every answer
    tags = {**bench.engine.describe(), **({"device": choice.model.device} if choice and choice.model else {})}
    params = facts.configuration(bench.run, cell, scored.header.shots)
    bench.tracker.cell(scored, Recorded(params, speed, {key: str(value) for key, value in tags.items()}))


def attempt(run: Run, cell: Cell, work: Callable[[], T]) -> T | Outcome:
    """What `work` returns. Where it fails, the cell's ledger entry says why, and the other cells go on."""
    name = (run.model.name, cell.task.name, cell.condition.name)
    try:
        with disk_errors(cell.name):
            return work()
    except UserError as error:
        return Outcome(Entry(*name, NOT_RUNNABLE, str(error)))
    except Exception as error:  # one failing cell must not stop the others
        return Outcome(Entry(*name, FAILED, shown(f"{type(error).__name__}: {error}")))


def finished(bench: Bench, cell: Cell, answered: Answered | Outcome, end: Callable[[], None]) -> Outcome:
    """What became of a cell that `answer` has dealt with."""
    if isinstance(answered, Outcome):
        end()
        return answered
    outcome = attempt(bench.run, cell, functools.partial(finish, bench, cell, answered))
    end()
    return outcome


def run_all(run: Run, todo: Sequence[Cell], check: Callable[[], None]) -> Iterator[Outcome]:
    """These cells of one model. Raises UserError where its weights cannot be had, Stopped where `check` does."""
    engine = engine_of(run)
    encoder = functools.cache(load_encoder)
    with ExitStack() as around:
        store = around.enter_context(closing(Store(run.store)))
        tracker = around.enter_context(runs.model_run(run))
        around.enter_context(spent.clocked(tracker, run, functools.partial(spent_by, engine)))
        begin, advance, end = around.enter_context(progress(run, len(todo)))
        bench = Bench(run, engine, store, encoder, tracker, check)
        statuses = []
        for outcome in outcomes(bench, todo, begin, advance, end):
            statuses.append(outcome.entry.status)
            yield outcome
        if tracker.clock:
            tracker.clock.failed = DONE not in statuses


def outcomes(
    bench: Bench,
    todo: Sequence[Cell],
    begin: Callable[[str], None],
    advance: Callable[[int, int], None],
    end: Callable[[], None],
) -> Iterator[Outcome]:
    """The outcome of each cell. While one cell is scored, tracked and written, the model answers the next."""
    last: Future[Outcome] | None = None  # at most one cell waits, because a cell's answers fill memory
    with ThreadPoolExecutor(max_workers=1) as behind:
        try:
            for cell in todo:
                bench.check()
                begin(cell.name)
                answered = attempt(bench.run, cell, functools.partial(answer, bench, cell, advance))
                if last:
                    yield last.result()
                last = behind.submit(finished, bench, cell, answered, end)
        except Stopped:  # a cell that has its answers is finished first
            if last:
                yield last.result()
            raise
        if last:
            yield last.result()


def execute(cfg: DictConfig) -> int:
    """Run a composed configuration. Gives the process's exit code.

    It is 0 where every cell is done or gaps are only reported, preemption.AGAIN where the run was stopped, else 1.
    """
    run = grid.compose_run(cfg)
    tempfile.gettempdir()  # fails here in words. Later it would look like a checkpoint that cannot be loaded
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
    entries = [outcome.entry for outcome in results]
    keep_ledger(run, entries)  # before anything is printed, because nobody may be there to read it
    report(run, results, time.monotonic() - started)
    return concluded(run, entries, stopped)


def keep_ledger(run: Run, entries: Sequence[Entry]) -> None:
    """Write the ledger, unless gaps are a failure."""
    if run.incomplete != "fail" or all(e.status == DONE for e in entries):
        write_ledger(run, entries)


def concluded(run: Run, entries: Sequence[Entry], stopped: str | None) -> int:
    """The exit code. A run that was stopped says so."""
    whole = all(e.status == DONE for e in entries)
    if stopped:
        left = sum(e.status == NOT_DONE for e in entries)
        print(f"{label(run)}: {left} of {len(entries)} cells left, {stopped}", file=sys.stderr)
        return preemption.AGAIN
    return int(not whole and (run.out is None or run.incomplete == "fail"))


def main() -> None:
    """Hydra's command line (`--help`, `--cfg job`, `-m`), with errors written for the person who made the mistake."""
    import hydra

    ending: list[int | str] = [0]  # 0 where Hydra only shows something (--cfg, --help)

    @hydra.main(config_path=str(conf.CONF), config_name="config", version_base="1.3")
    def app(cfg: DictConfig) -> int | str:
        grid.register()  # again, because a launcher's job is another process
        ending[0] = explained("run", lambda: execute(cfg))  # inside, because Hydra would print a traceback
        return ending[0]  # the exit code of a sweep's job

    def checked() -> int:
        sys.argv[1:] = grid.checked_overrides(sys.argv[1:])
        return 0

    os.chdir(ROOT)
    grid.register()
    mistake = explained("run", checked)
    if not mistake:
        app()
    sys.exit(mistake or ending[0])


if __name__ == "__main__":
    main()
