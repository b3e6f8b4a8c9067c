"""The experiment as dataclasses: a model answers a task under a condition.

Each class is the schema of the YAML files that its docstring names. Nothing is computed here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING


@dataclass
class Model:
    """A checkpoint (conf/model/<name>.yaml)."""

    name: str = MISSING
    family: str = MISSING  # gpt | t5 | falcon | llama: the scale series it belongs to
    size: str = MISSING  # nominal size as the paper prints it, e.g. "117M"
    parameters: float = MISSING  # actual number of parameters
    tuned: bool = False  # instruction-tuned
    twin: str | None = None  # the base checkpoint an instruction-tuned one is compared with
    hub: str | None = None  # Hugging Face hub id
    revision: str | None = None  # 40-digit commit of the hub repository
    source: str | None = None  # name in conf/source whose fetched folder holds the weights
    path: str | None = None  # a local folder instead of the hub
    api: str | None = None  # model name at an API
    weights: str = "original"  # what the numbers were computed with, e.g. "Q4_1 -> fp32"
    dtype: str = "float32"  # float32 | float16 | bfloat16: declared, never chosen by the machine
    leading: str = ""  # what the decoder puts before a completion and is no part of it
    tasks: list[str] | None = None  # the tasks the paper gave this model; null is all of them
    licence: str | None = None
    gate: str | None = None  # what a user must do before the hub hands out the weights
    trust_remote_code: bool = False  # run code that comes with the checkpoint
    device_map: str | None = None  # "auto" spreads a model larger than one GPU over all of them
    retired: bool = False  # an API model that is no longer served
    usd_per_million_in: float | None = None  # what an API asks for a million prompt tokens
    usd_per_million_out: float | None = None  # and for a million of completions


@dataclass
class Serving:
    """Who computes the answers (conf/engine/<name>.yaml); the fields after `kind` are those of engine/openai.py."""

    name: str = "local"
    kind: str = "local"  # local | openai: an entry of engine.start.ENGINES
    base_url: str | None = None
    key: str | None = None  # the environment variable that holds the key
    model: str | None = None  # the name the server knows
    concurrency: int = 1
    retries: int = 0
    timeout_s: float = 60.0
    calls_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_cost_usd: float | None = None
    extra_body: dict[str, Any] = field(default_factory=dict)
    likelihood_body: dict[str, Any] = field(default_factory=dict)  # beside extra_body where options are scored
    score_alone: bool = False  # one call an option
    agree_nats: float = 0.25  # by how much one token's log-probability in one context may differ
    proof_body: dict[str, Any] = field(default_factory=dict)  # in every call: what the server is to show; in no key
    check_tokens: bool = True  # the server must have read as many tokens as the model's own tokenizer makes
    compare: int = 0  # prompts whose answers are compared with the local engine's, where the weights are on this disk
    compare_nats: float | None = None  # of a token, on average, they may then be apart; None: by model.dtype
    compare_gb: float = 4.0  # weights of more are not loaded for it
    seed_advice: str | None = None  # what helps where the server dies of a call with a seed


@dataclass
class Wording:
    """How one task departs from a prompt format's template."""

    after_input: str = ""  # put directly behind the input
    gap: str = " "  # between the input and what follows
    show_options: bool = True  # False: the test item is asked as in the open format
    paragraph_break_to_space: bool = False
    full_stop_after_answer: bool = True
    leaks: bool = True  # under Compat.template_leak the tasks after this one keep what question.prompts.LEAKS says


@dataclass
class Task:
    """A task (conf/task/<name>.yaml)."""

    name: str = MISSING
    reader: str = MISSING  # the function of question.readers.READERS that understands the file
    source: str = MISSING  # name in conf/source
    file: str = MISSING  # path inside the source
    n_source: int = MISSING  # examples in the file
    n_published: int = MISSING  # examples evaluated in the published scores
    n_note: str | None = None  # why n differs from n_published, where it does
    exemplars: list[int] = field(default_factory=list)  # indices into the file, in prompt order
    exemplar_file: str | None = None  # where the exemplars come from another file of the source
    exemplars_drawn: int | None = None  # that many rows of exemplar_file, by a seeded order; None is all
    exemplars_kind: str = "published"  # published | reconstructed
    exemplar_options: dict[str, Any] = field(
        default_factory=dict
    )  # by prompt format, from data/published/exemplars.json
    final_question_mark: bool = False
    strip_full_stop_from_options: bool = False  # shown and scored without it in every prompt format
    wording: dict[str, Wording] = field(default_factory=dict)  # by prompt format
    options: dict[str, Any] = field(default_factory=dict)  # how wrong options are constructed, where the file has none
    group: str | None = None  # regular expression; what it captures of the input is the shared context
    chance_assumed: bool = False
    as_published: bool = False  # the paper's own file: what is refused in others is scored by its rule (protocol.md)
    competence: str = MISSING  # formal | functional (Table 2)
    memorisable: int = MISSING  # of 50 examples (Table 2)
    previously_emergent: bool = MISSING
    metric: dict[str, str] = field(default_factory=dict)  # primary metric by prompt format

    def primary(self, prompt: str) -> str:
        """The metric that is the task's accuracy in a prompt format."""
        return self.metric.get(prompt, "exact_match")


@dataclass
class Condition:
    """How a task is put to a model (conf/condition/<name>.yaml)."""

    name: str = MISSING
    prompt: str = MISSING  # closed | closed_adv | open
    few_shot: bool = MISSING
    template: str = MISSING
    template_without_options: str = MISSING
    choice: str = MISSING  # how one option is shown
    choice_separator: str = ", "
    strip_full_stop_from_options: bool = MISSING
    answer: str = MISSING  # how an exemplar answers; also the continuation scored by likelihood
    lettered: bool = False  # the answer is the option's letter
    control: str | None = None  # a key of question.controls.CONTROLS; None is a plain condition
    exemplar_seed: int | None = None  # control resampled: which exemplars are drawn in place of the published ones

    @property
    def plain(self) -> bool:
        """Whether it is no control condition."""
        return self.control is None


@dataclass
class Encoder:
    """The sentence encoder behind BERTScore (conf/bertscore/<name>.yaml). Two encoders never share a column."""

    name: str = MISSING
    num_layers: int = MISSING  # the layer whose embeddings are compared
    source: str | None = None  # where its weights come from: as for a Model
    hub: str | None = None
    revision: str | None = None
    path: str | None = None
    gate: str | None = None


@dataclass
class Generation:
    """Decoding (protocol.md, Generation)."""

    temperature: float = 0.01  # 0 is greedy
    top_k: int = 20
    extra_tokens: int = 8  # budget = tokens of the example's longest option + this
    likelihood: bool = True  # also score every shown option


@dataclass
class Compat:
    """The defects of the released code, each a switch (conf/compat/). False is fixed, True as published."""

    name: str = MISSING
    template_leak: bool = False  # 1: a task's edit of a template stays for the tasks after it
    strip_letters: bool = False  # 2: special tokens are stripped as letters, not as a prefix
    void_abc_only: bool = False  # 3: only a later (a), (b) or (c) voids a lettered answer
    batch_budget: bool = False  # 4: the token budget is the batch's, by the option longest in characters
    option_full_stop: bool = False  # 7: a full stop is stripped from targets, but not from most options
    first_listed: bool = False  # of several options a text starts with, the first listed is taken, not the longest
    prompt_by_text: bool = False  # 8: the prompt is cut off the output by string replacement


@dataclass(frozen=True)
class Cell:
    """One square of the grid: a model answers a task under a condition."""

    task: Task
    condition: Condition

    @property
    def name(self) -> str:
        """`<task>/<condition>`, unique within a model."""
        return f"{self.task.name}/{self.condition.name}"


@dataclass(frozen=True)
class Run:
    """A model's part of the grid, as composed."""

    suite: str
    model: Model
    cells: tuple[Cell, ...]
    generation: Generation
    compat: Compat
    seeds: tuple[int, ...]
    limit: int | None
    encoder: str
    incomplete: str  # fail | report: what a cell that is not done means for the pipeline
    token_budget: int
    data: Path
    store: Path
    out: Path | None
    tracking: dict[str, Any]
    serving: Serving = field(default_factory=Serving)
    shard: int = 0  # of `shards`: the cells of one process (src/lab/shards.py)
    shards: int = 1
    time_limit_h: float | None = None  # hours; the run ends by itself before that
