"""What conf/ holds, composed once a process: a member at a time takes five times as long."""

from __future__ import annotations

import functools

from src import config
from src.config import Condition, Model, Task


@functools.cache
def conditions() -> dict[str, Condition]:
    return {found.name: found for found in config.load_all("condition", config.known("condition"), Condition)}


@functools.cache
def models() -> list[Model]:
    return config.load_all("model", config.known("model"), Model)


def of_source(*sources: str) -> list[str]:
    """The tasks whose files these sources give."""
    return [name for name, task in _tasks().items() if task.source in sources]


@functools.cache
def _tasks() -> dict[str, Task]:
    return {found.name: found for found in config.load_all("task", config.known("task"), Task)}
