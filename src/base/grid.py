"""Which cells a run has. params.yaml, a suite and the overrides of a command line are composed to a Run."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.base import conf, quoting
from src.base.conf import CONF, GROUPS
from src.base.errors import UserError, first_line, suggest
from src.base.files import ROOT
from src.base.logins import without_logins
from src.base.schema import Cell, Compat, Condition, Generation, Model, Run, Serving, Task
from src.base.values import distinct, hours, listed, part, positive, suits

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

TOKEN_BUDGET = 16384
"""Tokens that a batch holds in memory where no number is set."""

LISTS = {"sources": "source", "models": "model", "tasks": "task", "conditions": "condition"}
"""The keys of params.yaml that list members, and the group of each."""

PARAMS = ("suite", *LISTS, "seeds", "limit", "incomplete", "alpha", "encoder")
"""The keys of params.yaml."""


def params(path: Path = ROOT / "params.yaml") -> dict[str, Any]:
    """The content of params.yaml: which models, tasks, conditions, seeds and how many examples.

    Raises UserError where the file cannot be read, has a key twice, or has a value that no run could use.
    """
    import yaml

    try:
        return checked_params(OmegaConf.to_container(OmegaConf.load(path)))  # PyYAML would accept a key twice
    except (OSError, ValueError, yaml.YAMLError, UserError) as error:
        raise UserError(
            f"{path.name} cannot be used: {error}. Write it anew: python -m src.config suite=pilot"
        ) from None


def checked_params(settings: Any) -> dict[str, Any]:
    """The settings unchanged, where params.yaml may hold them.

    Raises UserError for a key that is missing or unknown, and for a value that its key does not take.
    """
    if not isinstance(settings, dict) or not settings:
        raise UserError("it is empty")
    for key in {*settings} - {*PARAMS}:
        raise suggest("key", str(key), PARAMS, "conf/params.yaml")
    if absent := [key for key in PARAMS if key not in settings]:
        raise UserError(f"it lacks {', '.join(absent)}")
    for key, group in LISTS.items():
        for name in listed(key, settings[key]):
            if not isinstance(name, str):
                raise UserError(f"{key}: {name} is no text to YAML. Put the name into quotation marks")
            conf.check_known(group, str(name), key.removesuffix("s"))
    conf.check_known("suite", str(settings["suite"]))
    conf.check_known("bertscore", str(settings["encoder"]), "encoder")
    positive("limit", settings["limit"])
    distinct(settings["seeds"])
    suits("incomplete", settings["incomplete"])
    suits("alpha", settings["alpha"])
    return settings


def register() -> None:
    """Registers the resolver behind `${params:limit}` in conf/config.yaml: a value of params.yaml."""
    OmegaConf.register_new_resolver(
        "params", lambda key: OmegaConf.create(params())[key], use_cache=False, replace=True
    )


TAKES_VALUE = ("-c", "--cfg", "-p", "--package", "-cp", "--config-path", "-cn", "--config-name", "-cd", "--config-dir")
"""The flags of Hydra that take the next word."""


def checked_overrides(arguments: Sequence[str]) -> list[str]:
    """The arguments as Hydra is to see them. Raises UserError for a group or key that does not exist.

    A field that a YAML leaves at its default is set like one that it names: model.revision=... becomes
    ++model.revision=... Flags go last, because argparse wants them unmixed.
    """
    given, flags = _words_and_flags(arguments)
    words = [quoting.with_quotes(word) for word in without_logins(given)]
    overrides = _parsed(words)
    settings = _own_settings()
    for override in overrides:
        if not _is_hydras(override):
            _check_key(override, settings)
            _check_value(override, settings)
    swept = [each.key_or_group for each in overrides if each.is_sweep_override() and not _is_hydras(each)]
    check_sweep(swept, multirun=bool({"-m", "--multirun"} & {*flags}))
    for_hydra = [f"++{word}" if _sets_a_field(each) else word for word, each in zip(words, overrides, strict=True)]
    return [*for_hydra, *flags]


def _words_and_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The overrides among the arguments, and Hydra's flags with the words that they take."""
    pairs = zip(["", *arguments], arguments, strict=False)
    is_flag = [word.startswith("-") or before in TAKES_VALUE for before, word in pairs]
    words = [word for word, flag in zip(arguments, is_flag, strict=True) if not flag]
    return words, [word for word, flag in zip(arguments, is_flag, strict=True) if flag]


def _parsed(words: Sequence[str]) -> list[Override]:
    """The words as Hydra reads them. Raises UserError for a word that is no override."""
    from hydra.errors import OverrideParseException

    try:
        return [quoting.parsed(word) for word in words]
    except OverrideParseException as error:
        raise quoting.unread(str(error.override)) from error


def _own_settings() -> dict[str, Any]:
    """conf/config.yaml as it is written, without what its defaults add."""
    settings = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"), resolve=False)
    assert isinstance(settings, dict)
    return {str(key): value for key, value in settings.items()}


def _top_and_field(override: Override) -> tuple[str, str]:
    """The key of conf/config.yaml that an override changes, and the path inside it ("" for the key itself)."""
    top, _, field = override.key_or_group.partition(".")
    return top.split("@")[0], field


def _is_hydras(override: Override) -> bool:
    """Whether it sets Hydra itself, which checks its own keys."""
    return override.key_or_group.startswith("hydra")


def _sets_a_field(override: Override) -> bool:
    """Whether it sets a field of a schema without a plus, as in model.revision=..."""
    from hydra.core.override_parser.types import OverrideType

    top, field = _top_and_field(override)
    return top in conf.SCHEMAS and bool(field) and override.type == OverrideType.CHANGE


def _check_key(override: Override, settings: Mapping[str, Any]) -> None:
    """Raises UserError for a key that is neither one of conf/config.yaml nor a group."""
    top, _ = _top_and_field(override)
    keys = {*settings, *GROUPS}
    if top not in keys:
        raise suggest("key", top, sorted(keys - {"defaults", "hydra"}), "conf/config.yaml")


def _check_value(override: Override, settings: Mapping[str, Any]) -> None:
    """Raises UserError for a value or a field that its key does not take."""
    if override.is_sweep_override():
        _check_swept_members(override)
        return
    _check_presence(override, settings)
    _check_field_of_settings(override, settings)
    _check_member(override, settings)
    _check_field_of_schema(override)


def _check_swept_members(override: Override) -> None:
    """Raises UserError where a sweep over a group names no member of it."""
    if override.key_or_group in GROUPS and override.is_discrete_sweep():
        for name in override.sweep_string_iterator():
            conf.check_known(override.key_or_group, name)


def _check_presence(override: Override, settings: Mapping[str, Any]) -> None:
    """Raises UserError for a model without its plus, and for null where a value is needed."""
    from hydra.core.override_parser.types import OverrideType

    key, value = override.key_or_group, override.value()
    if key == "model" and override.type == OverrideType.CHANGE:
        raise UserError(f"model={value} lacks its plus. Write +model={value}")
    if value is None and key != "limit" and (key in GROUPS or settings.get(key) is not None):
        raise UserError(f"{key}=null: {key} needs a value. Leave the word out to keep what conf/config.yaml says")


def _check_field_of_settings(override: Override, settings: Mapping[str, Any]) -> None:
    """Raises UserError for an unknown field of a mapping in conf/config.yaml that has no schema, as tracking."""
    top, field = _top_and_field(override)
    if field and top not in conf.SCHEMAS and isinstance(settings.get(top), dict) and field not in settings[top]:
        raise suggest(f"key of {top}", field, list(settings[top]), "conf/config.yaml")


def _check_member(override: Override, settings: Mapping[str, Any]) -> None:
    """Raises UserError for several names where one is taken, and for a name that a group does not have."""
    key, value = override.key_or_group, override.value()
    if f"{key}s" in {*settings, *GROUPS} and isinstance(value, list):
        raise UserError(f"{key} takes one name. Several: '{key}s=[{','.join(map(str, value))}]'")
    if key in GROUPS and isinstance(value, str):
        conf.check_known(key, value)


def _check_field_of_schema(override: Override) -> None:
    """Raises UserError for a field that the schema of its group does not have."""
    top, field = _top_and_field(override)
    if field and top in conf.SCHEMAS:
        schema = conf.SCHEMAS[top]
        names = [each.name for each in fields(schema)]
        if field.split(".")[0] not in names:
            raise suggest(f"key of {top}", field, names, f"src/base/schema.py, {schema.__name__}")


def check_sweep(swept: Sequence[str], multirun: bool) -> None:
    """Raises UserError for a sweep that was not asked for, or one in which every job loads another model."""
    if swept and not multirun:
        if swept[0] in quoting.PATHS:
            raise UserError(
                f"{swept[0]} has several values: add -m for a job each. A path with a comma goes into "
                f"quotes, and the word into the shell's: \"{swept[0]}='/one,path'\""
            )
        raise UserError(f"{swept[0]} has several values: add -m for a job each, or for lists: 'tasks=[a,b]'")
    if "model" in swept and {"task", "condition"} & {*swept}:
        raise UserError(
            "A sweep over models and cells would load a model for every cell. Sweep over models (and shards), and name "
            "the cells as lists: -m +model=a,b 'tasks=[x,y]' 'conditions=[z]'"
        )


def compose_run(cfg: DictConfig) -> Run:
    """The composed Hydra configuration as a Run. Raises UserError for what cannot be run."""
    refuse_unresolved(cfg)
    if "model" not in cfg:
        raise UserError(f"Which model? Add +model=<name>. Known (conf/model/*.yaml): {', '.join(conf.known('model'))}")
    model = conf.typed(Model, cfg.model, "model")
    cells = _cells(cfg, model)
    conf.check_known("bertscore", str(cfg.encoder), "encoder")
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
        data=_path("data", cfg.data),
        store=_path("store", cfg.store),
        out=None if cfg.out is None else _path("out", cfg.out),
        tracking=dict(cfg.tracking),
        serving=conf.typed(Serving, conf.resolved(cfg.engine), "engine"),
        shard=shard,
        shards=shards,
        time_limit_h=hours(cfg.time_limit_h),
    )
    for key in ("model.dtype", "incomplete", "generation.temperature", "generation.top_k", "generation.extra_tokens"):
        suits(key, operator.attrgetter(key)(run))
    return run


def refuse_unresolved(cfg: DictConfig) -> None:
    """Raises UserError where a value is taken from elsewhere (`${...}`), and is not there."""
    try:
        OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        if isinstance(error.__cause__, UserError):  # of params.yaml
            raise error.__cause__ from None
        raise UserError(
            f"{error.full_key}: {first_line(error)}. Set what it names (export NAME=...), or write the value itself"
        ) from None


def _path(key: str, value: Any) -> Path:
    """The path that a key names. A shell leaves the tilde of store=~/store as it is.

    Raises UserError where it is empty, because it would be the project's own folder.
    """
    if not str(value).strip():
        raise UserError(
            f"{key}= is empty, as where the shell does not know a variable. Write a path, or leave the word out "
            "(store: and unset STORE_DIR)"
        )
    with suppress(RuntimeError):  # a user whom this machine does not know
        return Path(str(value)).expanduser()
    return Path(str(value))


def _cells(cfg: DictConfig, model: Model) -> tuple[Cell, ...]:
    """Every task of the configuration under every condition. Raises UserError where there is none for this model."""
    cells = tuple(Cell(task, condition) for task in _tasks(cfg, model) for condition in _conditions(cfg))
    if not cells:
        raise UserError(
            f"{model.name}: the suite holds none of its tasks ({', '.join(model.tasks or ())}). Add task=..."
        )
    return cells


def _tasks(cfg: DictConfig, model: Model) -> list[Task]:
    """The task that task=<name> chose, else those of the suite that the model is given."""
    if cfg.get("task"):
        return [conf.with_exemplar_options(conf.typed(Task, cfg.task, "task"))]
    return [conf.load_task(name) for name in asked_of(model, listed("tasks", cfg.tasks))]


def _conditions(cfg: DictConfig) -> list[Condition]:
    """The condition that condition=<name> chose, else those of the suite."""
    if cfg.get("condition"):
        return [conf.typed(Condition, cfg.condition, "condition")]
    return conf.load_all("condition", listed("conditions", cfg.conditions), Condition)


def composed(words: Sequence[str]) -> DictConfig:
    """conf/config.yaml with these overrides, e.g. ["tracking.uri=http://..."]. Raises UserError."""
    from hydra import compose
    from hydra.errors import HydraException

    register()
    try:
        with conf.hydra():
            cfg = compose("config", overrides=checked_overrides(words))
    except HydraException as error:
        raise UserError(f"{first_line(error)} Keys are those of conf/config.yaml") from error
    refuse_unresolved(cfg)
    return cfg


def composed_run(words: Sequence[str]) -> Run:
    """The Run that `python -m src.run` composes from these overrides. Raises UserError."""
    return compose_run(composed(words))


def asked_of(model: Model, tasks: Sequence[str]) -> list[str]:
    """Those of a suite's tasks that this model is given. A task named by hand (task=...) is always run."""
    return [name for name in tasks if model.tasks is None or name in model.tasks]


def tasks_before(run: Run, cell: Cell) -> list[Task]:
    """The tasks that the run takes before this cell's task, in order."""
    earlier = itertools.takewhile(lambda c: c.task.name != cell.task.name, run.cells)
    return list({c.task.name: c.task for c in earlier}.values())


def composed_params(words: Sequence[str]) -> dict[str, Any]:
    """What params.yaml is to hold: conf/params.yaml with these overrides, e.g. ["suite=paper", "limit=8"].

    It does not read params.yaml. Raises UserError.
    """
    from hydra import compose
    from hydra.errors import HydraException

    for word in words:
        key, _, value = word.partition("=")
        if key == "suite":
            conf.check_known("suite", value)
    try:
        with conf.hydra():
            settings = OmegaConf.to_container(compose("params", overrides=list(words)))
    except HydraException as error:
        raise UserError(f"{first_line(error)} Keys are those of conf/suite/*.yaml, e.g. suite=paper") from error
    assert isinstance(settings, dict)
    return {str(key): value for key, value in settings.items()}


def params_with(words: Sequence[str]) -> dict[str, Any]:
    """The settings of a command that takes its grid from params.yaml or from its own words.

    Without words they are params.yaml. With words they are the suite that the words name, else the one that
    params.yaml names, and the other words change it. +model=NAME, as `python -m src.run` takes it, puts NAME in place
    of the suite's models. Raises UserError.
    """
    if not words:
        return params()
    names_suite = any(word.startswith("suite=") for word in words)
    suite = [] if names_suite else [f"suite={params()['suite']}"]
    models = [word.partition("=")[2] for word in words if _names_model(word)]
    rest = [word for word in words if not _names_model(word)]
    return composed_params([*suite, *rest, *([f"models=[{','.join(models)}]"] if models else [])])


def _names_model(word: str) -> bool:
    return word.lstrip("+").startswith("model=")
