"""The only reader of conf/: a member of a group, composed from its defaults and typed by its schema.

Hydra composes what a command line chooses (src/base/grid.py). A single member needs no Hydra: `composed` merges it in
milliseconds, and tests/base/test_conf.py holds that every member comes out as Hydra composes it.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.base.errors import UserError, first_line, suggest
from src.base.files import ROOT
from src.base.schema import Compat, Condition, Encoder, Generation, Model, Serving, Task
from src.base.values import VALUES, suits

if TYPE_CHECKING:
    from collections.abc import Iterator

CONF = ROOT / "conf"
EXEMPLARS = ROOT / "data/published/exemplars.json"

T = TypeVar("T")
GROUPS = ("model", "task", "condition", "suite", "compat", "engine")
"""The groups of which an override can choose a member by name."""

SCHEMAS: Mapping[str, type[Any]] = {
    "model": Model,
    "task": Task,
    "condition": Condition,
    "compat": Compat,
    "engine": Serving,
    "bertscore": Encoder,
    "generation": Generation,
}
"""The schema of each group of conf/, and of the key `generation` in conf/config.yaml."""


def known(group: str) -> list[str]:
    """The names of a group's members: conf/<group>/*.yaml."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def check_known(group: str, name: str, kind: str = "") -> None:
    """Raises UserError with near misses where a group has no member of this name. The message calls it a `kind`.

    Raises UserError, too, where the member's file or name cannot be used.
    """
    if name not in (names := known(group)):
        raise suggest(kind or group, name, names, f"conf/{group}/*.yaml")
    _check_name(group, name, names)


NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*([_-][A-Za-z0-9]+)*")
LONGEST_NAME = 80  # characters: two names are one file's name
WORDS = {"null", "none", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf"}
"""What YAML or Hydra reads as no text."""


def _check_name(group: str, name: str, names: Sequence[str]) -> None:
    """Raises UserError where a member's name is none that every command, file system and YAML takes for the same."""
    path = f"conf/{group}/{name}.yaml"
    if not NAME.fullmatch(name) or len(name) > LONGEST_NAME or name.lower() in WORDS:
        raise UserError(
            f"{path}: a name has letters, digits, single _ or - between them, begins with a letter, is no word of YAML "
            f"({', '.join(sorted(WORDS))}) and has {LONGEST_NAME} characters at most. Rename the file and its name"
        )
    if twins := [other for other in names if other != name and other.lower() == name.lower()]:
        raise UserError(
            f"{path}: {twins[0]} differs from it in capitals alone, which not every disk tells apart. Rename one"
        )
    own = _own(CONF / group / f"{name}.yaml").get("suite" if group == "suite" else "name", name)
    if own != name:
        raise UserError(f"{path}: its name is {own!r}, and must be that of its file, {name!r}. Mend one of the two")


def typed(schema: type[T], settings: DictConfig | Mapping[str, Any], where: str) -> T:
    """The settings as a value of their schema. Raises UserError for an unknown key or a value of the wrong type."""
    try:
        value = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), settings))
    except OmegaConfBaseException as error:
        raise UserError(
            f"{where}: {first_line(error)}. Its keys are those of {schema.__name__} in src/base/schema.py"
        ) from error
    assert isinstance(value, schema)
    for key in VALUES if schema in (Model, Task, Condition) else ():
        group, _, name = key.partition(".")
        if SCHEMAS.get(group) is schema:
            suits(key, getattr(value, name), where)
    return value


def resolved(settings: DictConfig) -> dict[str, Any]:
    """A part of the configuration as plain data, with the values that it takes from other parts filled in."""
    return cast("dict[str, Any]", OmegaConf.to_container(settings, resolve=True))


@contextmanager
def hydra() -> Iterator[None]:
    """Lets Hydra compose from conf/, inside a running Hydra application or without one."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    if GlobalHydra.instance().is_initialized():
        yield
    else:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            yield


def load(group: str, name: str, schema: type[T]) -> T:
    """One member of a group, composed and typed, for example load("condition", "closed_few", Condition).

    Raises UserError for a name that the group does not have.
    """
    check_known(group, name)
    return typed(schema, composed(group, name), f"conf/{group}/{name}.yaml")


def load_all(group: str, names: Sequence[str], schema: type[T]) -> list[T]:
    """Several members of a group, in the order of their names here."""
    return [load(group, name, schema) for name in names]


def members(group: str, schema: type[T]) -> dict[str, T]:
    """Every member of a group by name."""
    return {name: load(group, name, schema) for name in known(group)}


def composed(group: str, name: str) -> DictConfig:
    """A member merged onto the defaults that it names, untyped."""
    return _composed(CONF / group / f"{name}.yaml")


@functools.cache
def _own(path: Path) -> DictConfig:
    """A YAML as it is written. Raises UserError where it is missing, no YAML or no mapping."""
    where = path.relative_to(CONF.parent)
    try:
        content = OmegaConf.load(path)
    except FileNotFoundError:
        raise UserError(f"{where} is missing, and a defaults list names it") from None
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{where} cannot be read as YAML: {' '.join(str(error).split())}. Mend it there") from None
    if not isinstance(content, DictConfig) or not content:
        raise UserError(f"{where} is no mapping of keys and values. Write them as key: value")
    return content


@functools.cache
def _composed(path: Path) -> DictConfig:
    """A YAML merged onto its defaults list: `<folder>@_here_: <name>`, `<name>@_here_` and its own place, `_self_`."""
    own = _own(path).copy()
    entries = list(own.pop("defaults", []))
    if "_self_" not in entries:
        entries = [*entries, "_self_"]  # as Hydra does
    layers = [own if entry == "_self_" else _composed(_base_path(path.parent, entry)) for entry in entries]
    return cast("DictConfig", OmegaConf.merge(*layers))


def _base_path(folder: Path, entry: str | DictConfig) -> Path:
    """The file that an entry of a defaults list names."""
    if isinstance(entry, str):
        return folder / f"{entry.split('@')[0]}.yaml"
    [(place, name)] = entry.items()
    return folder / str(place).split("@")[0] / f"{name}.yaml"


def load_task(name: str) -> Task:
    """A task with the exemplar options that its published prefixes show."""
    return with_exemplar_options(load("task", name, Task))


def with_exemplar_options(task: Task) -> Task:
    """The task with `exemplar_options` from data/published/exemplars.json, where it has none of its own."""
    published = json.loads(EXEMPLARS.read_text(encoding="utf-8")).get(task.name, {"prefixes": {}})["prefixes"]
    shown = {prompt: entry["options"] for prompt, entry in published.items() if "options" in entry}
    task.exemplar_options = task.exemplar_options or shown
    return task
