"""The engine that answers a run's requests, by the `kind` of conf/engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path

from src.base.errors import UserError, suggest
from src.base.files import LONE, ROOT, whole
from src.base.schema import Run
from src.base.values import suits
from src.engine.job import Engine
from src.source import weights


def local_engine(run: Run) -> Engine:
    """The model's weights in this process."""
    from src.engine.local import LocalEngine

    if run.model.api:
        raise UserError(
            f"{run.model.name}: {run.model.gate or 'an API model, so engine=openai'}; its published cells are in the "
            "report. Where a server has it: engine=openai engine.base_url=..."
        )
    folder, identity = weights.located(run.model, ROOT)
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
        "agree_nats",
        "compare",
        "compare_nats",
        "compare_gb",
    ):
        suits(f"engine.{key}", getattr(run.serving, key))
    own = weights.tokenizer(run.model, ROOT)
    count = (lambda text: len(own.encode(text, add_special_tokens=False))) if own else None
    keep = partial(kept, run.store / "unusable")
    ids = (lambda text: own.encode(text).ids) if own else None
    return OpenAIEngine(run.serving, run.model, run.generation, count, keep, ids, greedy_engine(run) if own else None)


def greedy_engine(run: Run) -> Callable[[], Engine] | None:
    """Makes the local engine that a server is compared with. None where its weights are not here, or too large."""
    folder = weights.on_disk(run.model, ROOT) if run.serving.compare else None
    size = weights.size(folder) if folder else None
    if size is None or size > run.serving.compare_gb * 1e9:
        return None

    def engine() -> Engine:
        model, generation = replace(run.model, api=None), replace(run.generation, temperature=0.0)
        return local_engine(replace(run, model=model, generation=generation))

    return engine


def kept(folder: Path, asked: str, reply: bytes) -> str:
    """Keep what a server answered and cannot be used in a file, what was asked in its first line. The file's path."""
    content = asked.encode("utf-8", LONE) + b"\n" + reply
    path = folder / f"{sha256(content).hexdigest()[:16]}.txt"
    with whole(path) as part:
        part.write_bytes(content)
    return str(path)


ENGINES = {"local": local_engine, "openai": openai_engine}  # by the `kind` of conf/engine


def engine_of(run: Run) -> Engine:
    """What answers this run's requests. Raises UserError where weights, server or settings are missing."""
    if run.serving.kind not in ENGINES:
        raise suggest("engine.kind", run.serving.kind, sorted(ENGINES), "src/engine/start.py, ENGINES")
    return ENGINES[run.serving.kind](run)
