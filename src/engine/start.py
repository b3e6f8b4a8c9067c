"""The engine that answers a run's requests, by the `kind` of conf/engine."""

from __future__ import annotations

from src.base.errors import UserError, suggest
from src.base.files import ROOT
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
    ):
        suits(f"engine.{key}", getattr(run.serving, key))
    own = weights.tokenizer(run.model, ROOT)
    count = (lambda text: len(own.encode(text, add_special_tokens=False))) if own else None
    return OpenAIEngine(run.serving, run.model, run.generation, count)


ENGINES = {"local": local_engine, "openai": openai_engine}  # by the `kind` of conf/engine


def engine_of(run: Run) -> Engine:
    """What answers this run's requests. Raises UserError where weights, server or settings are missing."""
    if run.serving.kind not in ENGINES:
        raise suggest("engine.kind", run.serving.kind, sorted(ENGINES), "src/engine/start.py, ENGINES")
    return ENGINES[run.serving.kind](run)
