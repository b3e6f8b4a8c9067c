"""What conf/ holds, composed once a process: a member at a time takes five times as long."""

from __future__ import annotations

import functools

from src.base import conf
from src.base.schema import Condition, Model, Task


@functools.cache
def conditions() -> dict[str, Condition]:
    return {found.name: found for found in conf.load_all("condition", conf.known("condition"), Condition)}


@functools.cache
def models() -> list[Model]:
    return conf.load_all("model", conf.known("model"), Model)


def of_source(*sources: str) -> list[str]:
    """The tasks whose files these sources give."""
    return [name for name, task in _tasks().items() if task.source in sources]


@functools.cache
def _tasks() -> dict[str, Task]:
    return {found.name: found for found in conf.load_all("task", conf.known("task"), Task)}
