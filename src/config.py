"""What a run is made of: the schema of every YAML in conf/, and the composition of a grid of cells.

`params.yaml` says which, `conf/` says what. Everything here is data; nothing touches a model.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import fcntl
import functools
import hashlib
import json
import math
import operator
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any, TypeVar, cast

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
EXEMPLARS = ROOT / "data/published/exemplars.json"
TOKEN_BUDGET = 16384  # tokens a batch holds in memory unless told otherwise


class UserError(Exception):
    """A mistake the user can mend. The message says what is wrong, where, and what to do."""


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
    kind: str = "local"  # local | openai: an entry of run.ENGINES
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


@dataclass
class Wording:
    """How one task departs from a prompt format's template."""

    after_input: str = ""  # put directly behind the input
    gap: str = " "  # between the input and what follows
    show_options: bool = True  # False: the test item is asked as in the open format
    paragraph_break_to_space: bool = False
    full_stop_after_answer: bool = True
    leaks: bool = True  # under Compat.template_leak the tasks after this one keep what prompts.LEAKS says


@dataclass
class Task:
    """A task (conf/task/<name>.yaml)."""

    name: str = MISSING
    reader: str = MISSING  # the function of data.READERS that understands the file
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
    control: str | None = None  # what makes it a control condition: a key of prompts.CONTROLS; None is a plain one
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
    shard: int = 0  # of `shards`: the cells of one process (src/shards.py)
    shards: int = 1
    time_limit_h: float | None = None  # hours; the run ends by itself before that


# ---- what every command shares -----------------------------------------------------------------------


def command(name: str, doc: str | None, *examples: str) -> argparse.ArgumentParser:
    """The command line of `python -m src.<name>`: what it does, and examples of its arguments."""
    lines = "\n".join(f"python -m src.{name} {words}".rstrip() for words in examples)
    return argparse.ArgumentParser(
        prog=f"python -m src.{name}", description=doc, epilog=f"Examples:\n{indent(lines, '  ')}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip


DISK = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR,
    errno.EEXIST,
)  # fmt: skip


@contextmanager
def told(name: str) -> Iterator[None]:
    """Turns a full disk, or a file or folder that may not be read or written, into a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK:
            raise
        raise UserError(
            f"{name}: {error.strerror} ({error.filename or 'while writing'}). Free space or mend it, then run again: "
            f"nothing half-written was left."
        ) from None


@contextmanager
def stage(name: str) -> Iterator[None]:
    """The work of a command: what the user can mend ends the process with one line and exit code 1."""
    try:
        with told(name):
            yield
    except UserError as error:
        sys.exit(f"error: {error}")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process at a time, by a lock that leaves no file behind; a network file system may not have it."""
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to: at the end on disk and renamed to `path`, gone where writing failed.

    Two processes that write it at once do so one after the other.
    """
    part = path.with_suffix(".part")
    with alone(path.parent):
        try:
            yield part
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


# ---- conf/ as typed values ----------------------------------------------------------------------------


T = TypeVar("T")
GROUPS = ("model", "task", "condition", "suite", "compat", "engine")  # what an override can choose by name


def known(group: str) -> list[str]:
    """The names a group has: conf/<group>/*.yaml."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def suggest(kind: str, name: str, names: Sequence[str], where: str) -> UserError:
    """The error for an unknown name: near misses first, then all that are known."""
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return UserError(f"Unknown {kind} '{name}'.{hint} Known ({where}): {', '.join(names)}")


def typed(schema: type[T], found: DictConfig | Mapping[str, Any], where: str) -> T:
    """The YAML as a value of its schema. Raises UserError for an unknown key or a value of the wrong type."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), found)
        value = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise UserError(
            f"{where}: {str(error).splitlines()[0]}. Its keys are those of {schema.__name__} in src/config.py"
        ) from error
    assert isinstance(value, schema)
    return value


def resolved(found: DictConfig) -> dict[str, Any]:
    """A part of the configuration with the values that it takes from other parts."""
    return cast("dict[str, Any]", OmegaConf.to_container(found, resolve=True))


@contextmanager
def _hydra() -> Iterator[None]:
    """Hydra's composition on conf/, whether or not a Hydra application is running already."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    if GlobalHydra.instance().is_initialized():
        yield
    else:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            yield


def load(group: str, name: str, schema: type[T]) -> T:
    """One member of a group, composed and typed, for example load("condition", "closed_few", Condition)."""
    if name not in known(group):
        raise suggest(group, name, known(group), f"conf/{group}/*.yaml")
    return typed(schema, _composed(group, name), f"conf/{group}/{name}.yaml")


@functools.cache
def _composed(group: str, name: str) -> DictConfig:
    from hydra import compose

    with _hydra():
        found: DictConfig = compose(f"{group}/{name}")[group]
    return found


def load_all(group: str, names: Sequence[str], schema: type[T]) -> list[T]:
    """Several members of a group by one composition, which takes a fifth of the time of as many."""
    from hydra import compose

    for name in names:
        if name not in known(group):
            raise suggest(group, name, known(group), f"conf/{group}/*.yaml")
    with _hydra():
        found = compose(overrides=[f"+{group}@all.{name}={name}" for name in names]).get("all", {})
    return [typed(schema, found[name], f"conf/{group}/{name}.yaml") for name in names]


def load_task(name: str) -> Task:
    """A task with the exemplar options that its published prefixes show."""
    return with_exemplar_options(load("task", name, Task))


def with_exemplar_options(task: Task) -> Task:
    """The task with `exemplar_options` from data/published/exemplars.json, where it has none of its own."""
    published = json.loads(EXEMPLARS.read_text()).get(task.name, {"prefixes": {}})["prefixes"]
    shown = {prompt: entry["options"] for prompt, entry in published.items() if "options" in entry}
    task.exemplar_options = task.exemplar_options or shown
    return task


def params(path: Path = ROOT / "params.yaml") -> dict[str, Any]:
    """params.yaml: which models, tasks, conditions, seeds, limit.

    Raises UserError where it cannot be read, says a key twice, or says what no run could use.
    """
    import yaml

    try:
        found = OmegaConf.to_container(OmegaConf.load(path))  # unlike PyYAML it refuses a key that is there twice
        return checked_params(found)
    except (OSError, ValueError, yaml.YAMLError, UserError) as error:
        raise UserError(
            f"{path.name} cannot be used: {error}. Write it anew: python -m src.config suite=pilot"
        ) from None


LISTS = {"sources": "source", "models": "model", "tasks": "task", "conditions": "condition"}  # each names a group
PARAMS = ("suite", *LISTS, "seeds", "limit", "incomplete", "alpha", "encoder")


def checked_params(found: Any) -> dict[str, Any]:
    """The content of params.yaml as it is. Raises UserError for a key that is missing, unknown, or not its kind."""
    if not isinstance(found, dict) or not found:
        raise UserError("it is empty")
    for key in {*found} - {*PARAMS}:
        raise suggest("key", str(key), PARAMS, "conf/params.yaml")
    if absent := [key for key in PARAMS if key not in found]:
        raise UserError(f"it lacks {', '.join(absent)}")
    for key, group in {"suite": "suite", "encoder": "bertscore", **LISTS}.items():
        for name in listed(key, found[key]) if key in LISTS else [found[key]]:
            if name not in known(group):
                raise suggest(key.removesuffix("s"), str(name), known(group), f"conf/{group}/*.yaml")
    positive("limit", found["limit"])
    distinct(found["seeds"])
    suits("incomplete", found["incomplete"])
    suits("alpha", found["alpha"])
    return found


def suite_line(found: Mapping[str, Any]) -> str:
    """The first line a command prints: which suite, how much of it, and how to ask for the whole."""
    sample = f"at most {found['limit']:,} examples a task" if found["limit"] else "every example"
    whole = "" if found["suite"] == "paper" else "; whole grid: suite=paper"
    return f"suite {found['suite']}: {len(found['tasks'])} tasks, {sample}{whole}"


def register() -> None:
    """Let conf/config.yaml say `${params:limit}` for what params.yaml holds."""
    OmegaConf.register_new_resolver(
        "params", lambda key: OmegaConf.create(params())[key], use_cache=False, replace=True
    )


SCHEMAS: dict[str, type[Any]] = {
    "model": Model, "task": Task, "condition": Condition, "compat": Compat, "generation": Generation,
    "engine": Serving,
}  # fmt: skip
"""What an override may set inside these keys, written in their YAML or not."""
TAKES_VALUE = ("-c", "--cfg", "-p", "--package", "-cp", "--config-path", "-cn", "--config-name", "-cd", "--config-dir")
"""Hydra's flags that take the next word."""


def checked_overrides(arguments: Sequence[str]) -> list[str]:
    """The arguments as Hydra is to see them. Raises UserError for a group or key that does not exist.

    A field that a YAML leaves at its default is set like one that it names: model.revision=... becomes
    ++model.revision=...
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import OverrideType
    from hydra.errors import OverrideParseException

    flags = [a.startswith("-") or before in TAKES_VALUE for before, a in zip(["", *arguments], arguments, strict=False)]
    words = [a for a, flag in zip(arguments, flags, strict=True) if not flag]
    try:
        overrides = OverridesParser.create().parse_overrides(words)
    except OverrideParseException as error:
        raise UserError(f"Cannot read '{error.override}'. Overrides look like limit=8 or +model=gpt2") from error
    base = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"), resolve=False)
    assert isinstance(base, dict)
    keys = [*base, *GROUPS]
    seen: list[str] = []
    swept: list[str] = []
    for word, override in zip(words, overrides, strict=True):
        key = override.key_or_group
        top, _, inside = key.partition(".")
        top = top.split("@")[0]
        plain = top in SCHEMAS and inside and override.type == OverrideType.CHANGE
        seen.append(f"++{word}" if plain else word)
        if top.startswith("hydra"):
            continue
        if top not in keys:
            raise suggest("key", top, sorted({*keys} - {"defaults", "hydra"}), "conf/config.yaml")
        if override.is_sweep_override():
            swept.append(key)
            values = list(override.sweep_string_iterator()) if override.is_discrete_sweep() else []
            if key in GROUPS and (unknown := [v for v in values if v not in known(key)]):
                raise suggest(key, unknown[0], known(key), f"conf/{key}/*.yaml")
            continue
        value = override.value()
        if key == "model" and override.type == OverrideType.CHANGE:
            raise UserError(f"model={value} lacks its plus. Write +model={value}")
        if value is None and key != "limit" and (key in GROUPS or base.get(key) is not None):
            raise UserError(f"{key}=null: {key} needs a value. Leave the word out to keep what conf/config.yaml says")
        if inside and top not in SCHEMAS and isinstance(base.get(top), dict) and inside not in base[top]:
            raise suggest(f"key of {top}", inside, list(base[top]), "conf/config.yaml")
        if f"{key}s" in keys and isinstance(value, list):
            raise UserError(f"{key} takes one name. Several: '{key}s=[{','.join(map(str, value))}]'")
        if key in GROUPS and isinstance(value, str) and value not in known(key):
            raise suggest(key, value, known(key), f"conf/{key}/*.yaml")
        if inside and top in SCHEMAS and inside.split(".")[0] not in (names := [f.name for f in fields(SCHEMAS[top])]):
            raise suggest(f"key of {top}", inside, names, f"src/config.py, {SCHEMAS[top].__name__}")
    check_sweep(swept, bool({"-m", "--multirun"} & {*arguments}))
    return [*seen, *(a for a, flag in zip(arguments, flags, strict=True) if flag)]  # argparse wants them unmixed


def check_sweep(swept: Sequence[str], multirun: bool) -> None:
    """Raises UserError for a sweep that was not asked for, or one in which every job loads another model."""
    if swept and not multirun:
        raise UserError(f"{swept[0]} has several values: add -m for a job each, or for lists: 'tasks=[a,b]'")
    if "model" in swept and {"task", "condition"} & {*swept}:
        raise UserError(
            "A sweep over models and cells would load a model for every cell. Sweep over models (and shards), and name "
            "the cells as lists: -m +model=a,b 'tasks=[x,y]' 'conditions=[z]'"
        )


def compose_run(cfg: DictConfig) -> Run:
    """The composed Hydra configuration as a Run. Raises UserError for what cannot be run."""
    if "model" not in cfg:
        raise UserError(f"Which model? Add +model=<name>. Known (conf/model/*.yaml): {', '.join(known('model'))}")
    model = typed(Model, cfg.model, "model")
    tasks = (
        [with_exemplar_options(typed(Task, cfg.task, "task"))]
        if cfg.get("task")
        else [load_task(name) for name in asked_of(model, listed("tasks", cfg.tasks))]
    )
    conditions = (
        [typed(Condition, cfg.condition, "condition")]
        if cfg.get("condition")
        else [load("condition", name, Condition) for name in listed("conditions", cfg.conditions)]
    )
    cells = tuple(Cell(task, condition) for task in tasks for condition in conditions)
    if not cells:
        raise UserError(
            f"{model.name}: the suite holds none of its tasks ({', '.join(model.tasks or ())}). Add task=..."
        )
    if cfg.encoder not in known("bertscore"):
        raise suggest("encoder", str(cfg.encoder), known("bertscore"), "conf/bertscore/*.yaml")
    shard, shards = part(cfg.shard, cfg.shards, len(cells))
    run = Run(
        suite=cfg.suite,
        model=model,
        cells=cells,
        generation=typed(Generation, cfg.generation, "generation"),
        compat=typed(Compat, cfg.compat, "compat"),
        seeds=distinct(cfg.seeds),
        limit=positive("limit", cfg.limit),
        encoder=cfg.encoder,
        incomplete=cfg.incomplete,
        token_budget=positive("token_budget", cfg.token_budget) or TOKEN_BUDGET,
        data=Path(cfg.data),
        store=Path(cfg.store),
        out=Path(cfg.out) if cfg.out else None,
        tracking=dict(cfg.tracking),
        serving=typed(Serving, resolved(cfg.engine), "engine"),
        shard=shard,
        shards=shards,
        time_limit_h=hours(cfg.time_limit_h),
    )
    for key in ("model.dtype", "incomplete", "generation.temperature", "generation.top_k", "generation.extra_tokens"):
        suits(key, operator.attrgetter(key)(run))
    return run


def composed(words: Sequence[str]) -> DictConfig:
    """conf/config.yaml with these overrides, e.g. ["tracking.uri=http://..."]. Raises UserError."""
    from hydra import compose
    from hydra.errors import HydraException

    register()
    try:
        with _hydra():
            return compose("config", overrides=checked_overrides(words))
    except HydraException as error:
        raise UserError(f"{str(error).splitlines()[0]} Keys are those of conf/config.yaml") from error


def composed_run(words: Sequence[str]) -> Run:
    """The Run of some overrides, as `python -m src.run` composes it. Raises UserError."""
    return compose_run(composed(words))


def asked_of(model: Model, tasks: Sequence[str]) -> list[str]:
    """Those of a suite's tasks that this model is given; one named by hand (task=...) is always run."""
    return [name for name in tasks if model.tasks is None or name in model.tasks]


def listed(key: str, found: Any) -> list[str]:
    """A list of distinct names. Raises UserError."""
    names = list(found) if OmegaConf.is_list(found) or isinstance(found, list) else []
    if not names or len(set(map(str, names))) != len(names):
        raise UserError(f"{key}={found}: {key} is a list of distinct names, e.g. {key}=[one,another]")
    return names


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "model.dtype": (lambda v: v in ("float32", "float16", "bfloat16"), "float32, float16 or bfloat16"),
    "incomplete": (lambda v: v in ("fail", "report"), "fail (a gap ends the pipeline) or report (a gap is named)"),
    "alpha": (lambda v: _number(v) and 0 < v < 1, "a number between 0 and 1, e.g. 0.05"),
    "generation.temperature": (lambda v: _number(v) and v >= 0, "a number of 0 (greedy) or more"),
    "generation.top_k": (lambda v: isinstance(v, int) and v >= 1, "a whole number of 1 or more"),
    "generation.extra_tokens": (lambda v: isinstance(v, int) and v >= 0, "a whole number of 0 or more"),
    "engine.base_url": (
        lambda v: str(v).startswith(("http://", "https://")), "the server's address, e.g. http://127.0.0.1:8000/v1"
    ),
    "engine.concurrency": (lambda v: v >= 1, "a whole number of 1 or more"),
    "engine.retries": (lambda v: v >= 0, "a whole number of 0 or more"),
    "engine.timeout_s": (lambda v: v > 0, "seconds, more than 0"),
    "engine.calls_per_minute": (lambda v: v is None or v > 0, "a number above 0, or null for no limit"),
    "engine.tokens_per_minute": (lambda v: v is None or v > 0, "a number above 0, or null for no limit"),
    "engine.max_cost_usd": (lambda v: v is None or v > 0, "US dollars, more than 0, or null for no limit"),
}  # fmt: skip
"""What a key's value is to be, and that in words."""


def suits(key: str, value: Any) -> None:
    """Raises UserError where the value is not what VALUES says of its key."""
    allowed, words = VALUES[key]
    if not allowed(value):
        raise UserError(f"{key}={value}: {key} is {words}")


def positive(key: str, value: Any) -> int | None:
    """A whole number of 1 or more, or None. Raises UserError."""
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{key}={value}: {key} is a whole number of 1 or more, or null for no bound")
    return value


def part(shard: Any, shards: Any, cells: int) -> tuple[int, int]:
    """Which of how many shards. Raises UserError where there is no such shard, or fewer cells than shards."""
    count = positive("shards", shards) or 1
    if not isinstance(shard, int) or isinstance(shard, bool) or not 0 <= shard < count:
        raise UserError(f"shard={shard}: with shards={count}, shard is a whole number from 0 to {count - 1}")
    if count > max(cells, 1):
        raise UserError(f"shards={count}: this grid has {cells} cells, so at most {cells} shards")
    return shard, count


def hours(value: Any) -> float | None:
    """A positive number of hours, or None. Raises UserError."""
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise UserError(f"time_limit_h={value}: hours, a number above 0 (0.5 is half an hour), or null for no limit")
    return float(value)


def distinct(found: Any) -> tuple[int, ...]:
    """Seeds, one or a list. Raises UserError where they are not distinct whole numbers of 0 or more."""
    seeds = tuple(found) if OmegaConf.is_list(found) or isinstance(found, list) else (found,)
    if not seeds or len(set(seeds)) != len(seeds) or not all(type(s) is int and 0 <= s < 2**63 for s in seeds):
        raise UserError(
            f"seeds={list(seeds)}: seeds are distinct whole numbers of 0 or more (below 2**63), "
            "e.g. seeds=[2266,105,86379]"
        )
    return seeds


def digest(value: Any) -> str:
    """sha256 (hex) of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def fingerprint(run: Run, cell: Cell, engine: Mapping[str, Any], prompts_sha256: str, data_sha256: str) -> str:
    """12 hex digits over all that decides a cell's scores: model, prompts, data, decoding, seeds, scoring rules."""
    parts = {
        "cell": cell.name,  # two conditions can ask the same prompts
        "engine": dict(engine),
        "prompts": prompts_sha256,
        "data": data_sha256,
        "generation": asdict(run.generation),
        "compat": {k: v for k, v in asdict(run.compat).items() if k != "name"},
        "seeds": run.seeds if run.generation.temperature else (),
        "encoder": run.encoder,
    }
    return digest(parts)[:12]


def composed_params(words: Sequence[str]) -> dict[str, Any]:
    """What conf/params.yaml composes to with these overrides, e.g. ["suite=paper", "limit=8"]. Raises UserError."""
    from hydra import compose
    from hydra.errors import HydraException

    for word in words:
        key, _, value = word.partition("=")
        if key == "suite" and value not in known("suite"):
            raise suggest("suite", value, known("suite"), "conf/suite/*.yaml")
    try:
        with _hydra():
            found = OmegaConf.to_container(compose("params", overrides=list(words)))
    except HydraException as error:
        raise UserError(
            f"{str(error).splitlines()[0]} Keys are those of conf/suite/*.yaml, e.g. suite=paper"
        ) from error
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def main() -> None:
    """`python -m src.config suite=<name> [key=value ...]` writes params.yaml, as `dvc exp run -S` does."""
    parser = command("config", "Write params.yaml: a suite of conf/suite, and what is to differ from it.",
                     "suite=pilot", "suite=paper limit=32")  # fmt: skip
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="suite=<name>, limit=8, ...")
    words = parser.parse_args().overrides
    with stage("params.yaml"):
        found = checked_params(composed_params(words))
        with whole(ROOT / "params.yaml") as part:
            part.write_text(OmegaConf.to_yaml(found))
    print(f"params.yaml: suite {found['suite']}, {len(found['models'])} models, {len(found['tasks'])} tasks. dvc repro")


if __name__ == "__main__":
    main()
