"""Tokens of a cell before it runs, by the model's own tokenizer or estimated."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from src.base import conf
from src.base.errors import UserError
from src.base.files import ROOT
from src.base.schema import Condition, Generation, Model, Task
from src.base.values import digest, distinct, positive
from src.question import examples, prompts
from src.question.prompts import Prompt
from src.source import weights

OUTPUTS, PREPARED = ROOT / "data/outputs", ROOT / examples.TASKS
CHARACTERS = 4.0  # to a token of English text, where no tokenizer is at hand


@dataclass(frozen=True)
class Tokens:
    """Of one cell, by what they are for."""

    prefix: float = 0.0  # computed once a cell
    prompt: float = 0.0  # of all examples, without the prefix
    options: float = 0.0  # scored by likelihood
    completion: float = 0.0  # at most, over all seeds

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def all(self) -> float:
        """What a local engine computes."""
        return self.prefix + self.prompt + self.options + self.completion


@dataclass(frozen=True)
class Asked:
    """The settings of params-like values that a plan depends on."""

    tasks: Mapping[str, Task]
    conditions: Mapping[str, Condition]
    models: tuple[Model, ...]
    seeds: tuple[int, ...]
    limit: int | None
    encoder: str


def asked(given: Mapping[str, Any]) -> Asked:
    """Params-like settings, typed. Raises UserError."""
    tasks = [conf.with_exemplar_options(task) for task in conf.load_all("task", given["tasks"], Task)]
    conditions = conf.load_all("condition", given["conditions"], Condition)
    return Asked(
        {task.name: task for task in tasks},
        {condition.name: condition for condition in conditions},
        tuple(conf.load_all("model", given["models"], Model)),
        distinct(given["seeds"]),
        positive("limit", given["limit"]),
        str(given.get("encoder")),
    )


def draws_of(what: Asked, model: Model) -> int:
    """Completions of one prompt: one a seed; the paper's API runs were made once, at temperature 0."""
    return 1 if model.api else len(what.seeds)


def evaluated(task: Task, limit: int | None) -> int:
    """Examples a cell of this task asks; before a prepared file is at hand, by conf/task's counts."""
    n = task.n_source - (0 if task.exemplar_file else len(task.exemplars))
    return n if limit is None else min(limit, n)


@dataclass(frozen=True)
class Rendered:
    """A cell's prompts, for every model alike."""

    prompts: tuple[Prompt, ...]
    data_sha256: str

    @functools.cached_property
    def sha256(self) -> str:
        """As in a cell's header."""
        return digest([asdict(prompt) for prompt in self.prompts])


def rendered(what: Asked, task: Task, condition: Condition) -> Rendered | None:
    """The prompts of a cell; None where its task is not prepared."""
    prepared = examples_of(task.name)
    if prepared is None:
        return None
    shots, tests, sha256 = prepared
    return Rendered(tuple(prompts.ask(tests, shots, task, condition, what.limit)), sha256)


@functools.cache
def examples_of(name: str) -> tuple[list[examples.Example], list[examples.Example], str] | None:
    """(exemplars, test items, sha256) of a prepared task; None where it is not prepared."""
    try:
        return examples.load(name, PREPARED)
    except UserError:
        return None


Counter = Callable[[Sequence[str]], list[float]]


def by_characters(texts: Sequence[str]) -> list[float]:
    """Estimated tokens of each text."""
    return [len(text) / CHARACTERS for text in texts]


def counter(model: Model) -> Counter | None:
    """Exact tokens of each text, by the tokenizer.json beside the weights; None where there is none."""
    tokenizer = weights.tokenizer(model, ROOT)
    if tokenizer is None:
        return None
    return lambda texts: [float(len(found)) for found in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def counted(cell: Rendered, count: Counter, draws: int) -> tuple[Tokens, float]:
    """(tokens that a local engine computes, prompt tokens that an API bills) of one cell."""
    generation, asked_for = Generation(), cell.prompts
    options = sorted({option for p in asked_for for option in (p.options or (p.answer,))})
    length = dict(zip(options, count(options), strict=True))
    budget = sum(max(length[o] for o in (p.options or (p.answer,))) + generation.extra_tokens for p in asked_for)
    continuations = [c for p in asked_for for c in p.continuations]
    prefix, prompt = count([asked_for[0].prefix])[0], sum(count([p.text for p in asked_for]))
    tokens = Tokens(prefix, prompt, sum(count(continuations)), draws * budget)
    return tokens, draws * (prompt + prefix * len(asked_for))
