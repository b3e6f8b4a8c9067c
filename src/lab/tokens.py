"""The tokens of a cell before it runs, counted by the model's own tokenizer or estimated from characters."""

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
CHARACTERS = 4.0  # per token of English text, where no tokenizer is on this disk


@dataclass(frozen=True)
class Tokens:
    """The tokens of one cell by purpose."""

    prefix: float = 0.0  # computed once a cell
    prompt: float = 0.0  # of all examples, without the prefix
    options: float = 0.0  # scored by likelihood
    completion: float = 0.0  # the full budget of every completion, over all seeds

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def all(self) -> float:
        """All tokens that a local engine computes."""
        return self.prefix + self.prompt + self.options + self.completion


@dataclass(frozen=True)
class Grid:
    """What a plan is made for: tasks, conditions and models, with seeds, limit and encoder."""

    tasks: Mapping[str, Task]
    conditions: Mapping[str, Condition]
    models: tuple[Model, ...]
    seeds: tuple[int, ...]
    limit: int | None
    encoder: str


def grid_of(settings: Mapping[str, Any]) -> Grid:
    """The grid of settings that have the keys of params.yaml. Raises UserError."""
    tasks = [conf.with_exemplar_options(task) for task in conf.load_all("task", settings["tasks"], Task)]
    conditions = conf.load_all("condition", settings["conditions"], Condition)
    return Grid(
        {task.name: task for task in tasks},
        {condition.name: condition for condition in conditions},
        tuple(conf.load_all("model", settings["models"], Model)),
        distinct(settings["seeds"]),
        positive("limit", settings["limit"]),
        str(settings.get("encoder")),
    )


def draws_of(grid: Grid, model: Model) -> int:
    """Completions of one prompt: one for each seed. An API model is asked once, as in the paper (temperature 0)."""
    return 1 if model.api else len(grid.seeds)


def evaluated(task: Task, limit: int | None) -> int:
    """How many examples a cell of this task evaluates, by the counts in conf/task."""
    n = task.n_source - (0 if task.exemplar_file else len(task.exemplars))
    return n if limit is None else min(limit, n)


@dataclass(frozen=True)
class Rendered:
    """The prompts of a cell. They are the same for every model."""

    prompts: tuple[Prompt, ...]
    data_sha256: str

    @functools.cached_property
    def sha256(self) -> str:
        """The hash of the prompts, as in the header of a cell's file."""
        return digest([asdict(prompt) for prompt in self.prompts])


def rendered(grid: Grid, task: Task, condition: Condition) -> Rendered | None:
    """The prompts of a cell. None if its task is not prepared."""
    prepared = examples_of(task.name)
    if prepared is None:
        return None
    shots, tests, sha256 = prepared
    return Rendered(tuple(prompts.ask(tests, shots, task, condition, grid.limit)), sha256)


@functools.cache
def examples_of(name: str) -> tuple[list[examples.Example], list[examples.Example], str] | None:
    """(exemplars, test items, sha256) of a task. None if it is not prepared."""
    try:
        return examples.load(name, PREPARED)
    except UserError:
        return None


Counter = Callable[[Sequence[str]], list[float]]


def by_characters(texts: Sequence[str]) -> list[float]:
    """The tokens of each text, estimated from its length."""
    return [len(text) / CHARACTERS for text in texts]


def counter(model: Model) -> Counter | None:
    """A counter by the tokenizer.json beside the weights. None if there is no such file."""
    tokenizer = weights.tokenizer(model, ROOT)
    if tokenizer is None:
        return None
    return lambda texts: [
        float(len(encoding)) for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)
    ]


def counted(cell: Rendered, count: Counter, draws: int) -> tuple[Tokens, float]:
    """(tokens that a local engine computes, prompt tokens that an API bills) of one cell."""
    generation, cell_prompts = Generation(), cell.prompts
    options = sorted({option for p in cell_prompts for option in (p.options or (p.answer,))})
    length = dict(zip(options, count(options), strict=True))
    budget = sum(max(length[o] for o in (p.options or (p.answer,))) + generation.extra_tokens for p in cell_prompts)
    continuations = [c for p in cell_prompts for c in p.continuations]
    prefix, prompt = count([cell_prompts[0].prefix])[0], sum(count([p.text for p in cell_prompts]))
    tokens = Tokens(prefix, prompt, sum(count(continuations)), draws * budget)
    return tokens, draws * (prompt + prefix * len(cell_prompts))
