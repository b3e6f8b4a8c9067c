"""The only reader of conf/: one member of a group, composed by Hydra and typed by its schema."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.base.errors import UserError, suggest
from src.base.files import ROOT
from src.base.schema import Task

if TYPE_CHECKING:
    from collections.abc import Iterator

CONF = ROOT / "conf"
EXEMPLARS = ROOT / "data/published/exemplars.json"


T = TypeVar("T")
GROUPS = ("model", "task", "condition", "suite", "compat", "engine")  # what an override can choose by name


def known(group: str) -> list[str]:
    """The names a group has: conf/<group>/*.yaml."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def typed(schema: type[T], found: DictConfig | Mapping[str, Any], where: str) -> T:
    """The YAML as a value of its schema. Raises UserError for an unknown key or a value of the wrong type."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), found)
        value = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise UserError(
            f"{where}: {str(error).splitlines()[0]}. Its keys are those of {schema.__name__} in src/base/schema.py"
        ) from error
    assert isinstance(value, schema)
    return value


def resolved(found: DictConfig) -> dict[str, Any]:
    """A part of the configuration with the values that it takes from other parts."""
    return cast("dict[str, Any]", OmegaConf.to_container(found, resolve=True))


@contextmanager
def hydra() -> Iterator[None]:
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

    with hydra():
        found: DictConfig = compose(f"{group}/{name}")[group]
    return found


def load_all(group: str, names: Sequence[str], schema: type[T]) -> list[T]:
    """Several members of a group by one composition, which takes a fifth of the time of as many."""
    from hydra import compose

    for name in names:
        if name not in known(group):
            raise suggest(group, name, known(group), f"conf/{group}/*.yaml")
    with hydra():
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
