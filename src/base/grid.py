"""Which cells a run has: params.yaml, a suite, and the overrides of a command line, composed to a Run."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from src.base import conf
from src.base.conf import CONF, GROUPS
from src.base.errors import UserError, suggest
from src.base.files import ROOT
from src.base.schema import Cell, Compat, Condition, Generation, Model, Run, Serving, Task
from src.base.values import distinct, hours, listed, part, positive, suits

TOKEN_BUDGET = 16384  # tokens a batch holds in memory unless told otherwise


LISTS = {"sources": "source", "models": "model", "tasks": "task", "conditions": "condition"}  # each names a group
PARAMS = ("suite", *LISTS, "seeds", "limit", "incomplete", "alpha", "encoder")


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
            if name not in conf.known(group):
                raise suggest(key.removesuffix("s"), str(name), conf.known(group), f"conf/{group}/*.yaml")
    positive("limit", found["limit"])
    distinct(found["seeds"])
    suits("incomplete", found["incomplete"])
    suits("alpha", found["alpha"])
    return found


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
            if key in GROUPS and (unknown := [v for v in values if v not in conf.known(key)]):
                raise suggest(key, unknown[0], conf.known(key), f"conf/{key}/*.yaml")
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
        if key in GROUPS and isinstance(value, str) and value not in conf.known(key):
            raise suggest(key, value, conf.known(key), f"conf/{key}/*.yaml")
        if inside and top in SCHEMAS and inside.split(".")[0] not in (names := [f.name for f in fields(SCHEMAS[top])]):
            raise suggest(f"key of {top}", inside, names, f"src/base/schema.py, {SCHEMAS[top].__name__}")
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
        raise UserError(f"Which model? Add +model=<name>. Known (conf/model/*.yaml): {', '.join(conf.known('model'))}")
    model = conf.typed(Model, cfg.model, "model")
    tasks = (
        [conf.with_exemplar_options(conf.typed(Task, cfg.task, "task"))]
        if cfg.get("task")
        else [conf.load_task(name) for name in asked_of(model, listed("tasks", cfg.tasks))]
    )
    conditions = (
        [conf.typed(Condition, cfg.condition, "condition")]
        if cfg.get("condition")
        else [conf.load("condition", name, Condition) for name in listed("conditions", cfg.conditions)]
    )
    cells = tuple(Cell(task, condition) for task in tasks for condition in conditions)
    if not cells:
        raise UserError(
            f"{model.name}: the suite holds none of its tasks ({', '.join(model.tasks or ())}). Add task=..."
        )
    if cfg.encoder not in conf.known("bertscore"):
        raise suggest("encoder", str(cfg.encoder), conf.known("bertscore"), "conf/bertscore/*.yaml")
    shard, shards = part(cfg.shard, cfg.shards, len(cells))
    run = Run(
        suite=cfg.suite,
        model=model,
        cells=cells,
        generation=conf.typed(Generation, cfg.generation, "generation"),
        compat=conf.typed(Compat, cfg.compat, "compat"),
        seeds=distinct(cfg.seeds),
        limit=positive("limit", cfg.limit),
        encoder=cfg.encoder,
        incomplete=cfg.incomplete,
        token_budget=positive("token_budget", cfg.token_budget) or TOKEN_BUDGET,
        data=Path(cfg.data),
        store=Path(cfg.store),
        out=Path(cfg.out) if cfg.out else None,
        tracking=dict(cfg.tracking),
        serving=conf.typed(Serving, conf.resolved(cfg.engine), "engine"),
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
        with conf.hydra():
            return compose("config", overrides=checked_overrides(words))
    except HydraException as error:
        raise UserError(f"{str(error).splitlines()[0]} Keys are those of conf/config.yaml") from error


def composed_run(words: Sequence[str]) -> Run:
    """The Run of some overrides, as `python -m src.run` composes it. Raises UserError."""
    return compose_run(composed(words))


def asked_of(model: Model, tasks: Sequence[str]) -> list[str]:
    """Those of a suite's tasks that this model is given; one named by hand (task=...) is always run."""
    return [name for name in tasks if model.tasks is None or name in model.tasks]


def composed_params(words: Sequence[str]) -> dict[str, Any]:
    """What conf/params.yaml composes to with these overrides, e.g. ["suite=paper", "limit=8"]. Raises UserError."""
    from hydra import compose
    from hydra.errors import HydraException

    for word in words:
        key, _, value = word.partition("=")
        if key == "suite" and value not in conf.known("suite"):
            raise suggest("suite", value, conf.known("suite"), "conf/suite/*.yaml")
    try:
        with conf.hydra():
            found = OmegaConf.to_container(compose("params", overrides=list(words)))
    except HydraException as error:
        raise UserError(
            f"{str(error).splitlines()[0]} Keys are those of conf/suite/*.yaml, e.g. suite=paper"
        ) from error
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def tasks_before(run: Run, cell: Cell) -> list[Task]:
    """The tasks of the run's cells before this cell's task, in the order they run."""
    gone = itertools.takewhile(lambda c: c.task.name != cell.task.name, run.cells)
    return list({c.task.name: c.task for c in gone}.values())


def composed_settings(words: Sequence[str]) -> dict[str, Any]:
    """params.yaml, or what these overrides compose: suite=NAME, +model=NAME, limit=8, ... Raises UserError."""
    suite = [] if any(word.startswith("suite=") for word in words) else [f"suite={params()['suite']}"]
    models = [word.partition("=")[2] for word in words if word.lstrip("+").startswith("model=")]
    rest = [word for word in words if not word.lstrip("+").startswith("model=")]
    return composed_params([*suite, *rest, *([f"models=[{','.join(models)}]"] if models else [])])
