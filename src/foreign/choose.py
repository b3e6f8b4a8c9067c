"""Which records of two logs are compared: what the user names, and a clear question where a choice is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from src.base.errors import UserError, suggest
from src.foreign.record import Record

Unit = tuple[str, str]  # task, setting


@dataclass(frozen=True)
class Choice:
    """What a user names of one side; None and () where nothing is named."""

    side: str  # how the side is called in messages
    model: str | None = None
    metrics: tuple[str, ...] = ()
    setting: str | None = None


@dataclass(frozen=True)
class Side:
    """What one side has to compare."""

    choice: Choice
    model: str
    units: Mapping[Unit, tuple[Record, ...]]
    without: Mapping[str, str] = field(default_factory=dict)  # task -> why it has nothing to compare

    def settings(self, task: str) -> list[str]:
        """The settings of a task."""
        return sorted(setting for name, setting in self.units if name == task)

    @property
    def tasks(self) -> list[str]:
        """The tasks, by name."""
        return sorted({task for task, _ in self.units})


def side_of(records: Sequence[Record], choice: Choice) -> Side:
    """The records that a side compares: of one model, and of one metric in each unit. UserError asks for a choice."""
    model = _one(sorted({r.model for r in records}), choice.model, "model", choice.side)
    records = [r for r in records if r.model == model]
    if choice.setting is not None:
        setting = _one(sorted({r.setting for r in records}), choice.setting, "setting", choice.side)
        records = [r for r in records if r.setting == setting]
    _check_metrics(records, choice)
    units: dict[Unit, list[Record]] = {}
    for r in records:
        units.setdefault((r.task, r.setting), []).append(r)
    kept, without = {}, {}
    for (task, setting), mine in units.items():
        there = sorted({r.metric for r in mine})
        wanted = [name for name in there if name in choice.metrics] if choice.metrics else there
        if len(wanted) > 1:
            raise UserError(f"{choice.side} judges {task} by several metrics: {', '.join(wanted)}. Which one? Name it: "
                            f"--metric '{wanted[0]}'")  # fmt: skip
        if wanted:
            kept[task, setting] = tuple(r for r in mine if r.metric == wanted[0])
        else:
            without[task] = f"{choice.side} judges it by {', '.join(there)} alone"
    return Side(choice, model, kept, without)


def _one(there: Sequence[str], asked: str | None, what: str, side: str) -> str:
    if asked is not None:
        if asked not in there:
            raise suggest(f"{what} in {side}:", asked, there, side)
        return asked
    if len(there) > 1:
        raise UserError(
            f"{side} holds {len(there)} {what}s: {', '.join(there)}. Which one? Name it: --{what} '{there[0]}'"
        )
    return there[0]


def _check_metrics(records: Sequence[Record], choice: Choice) -> None:
    there = sorted({r.metric for r in records})
    for name in choice.metrics:
        if name not in there:
            raise suggest(f"metric in {choice.side}:", name, there, choice.side)


@dataclass(frozen=True)
class Paired:
    """Which units are compared with which, and the tasks that one side alone has."""

    units: tuple[tuple[Unit, Unit], ...]
    alone: tuple[str, ...]  # a sentence each


def paired(a: Side, b: Side, names: Mapping[str, str]) -> Paired:
    """The units of both sides by task and setting. names: a task of A -> the same task as B calls it.

    One task on each side is compared whatever the names. Raises UserError where nothing is on both sides.
    """
    _check_names(a, b, names)
    same = {task: names.get(task, task) for task in a.tasks if names.get(task, task) in b.tasks}
    if not same and not names and len(a.tasks) == len(b.tasks) == 1:
        same = {a.tasks[0]: b.tasks[0]}
    if not same:
        raise UserError(f"no task is on both sides. A: {', '.join(a.tasks)}. B: {', '.join(b.tasks)}. Say which are "
                        f"the same: --task '{(a.tasks or ['a'])[0]}={(b.tasks or ['b'])[0]}'")  # fmt: skip
    units: list[tuple[Unit, Unit]] = []
    alone = [f"{task}: {why}" for side in (a, b) for task, why in sorted(side.without.items())]
    for task, other in same.items():
        pairs, left = _settings(a, b, task, other)
        units += pairs
        alone += left
    only = {"A": [t for t in a.tasks if t not in same], "B": [t for t in b.tasks if t not in same.values()]}
    alone += [f"only in {side}: {', '.join(tasks)}" for side, tasks in only.items() if tasks]
    _check_same_metric(a, b, units)
    return Paired(tuple(units), tuple(alone))


def _check_names(a: Side, b: Side, names: Mapping[str, str]) -> None:
    for side, given in (("A", names), ("B", {other: task for task, other in names.items()})):
        there = (a if side == "A" else b).tasks
        for name in given:
            if name not in there:
                raise suggest(f"task in {side}:", name, there, side)


def _settings(a: Side, b: Side, task: str, other: str) -> tuple[list[tuple[Unit, Unit]], list[str]]:
    """(pairs of units of one task, what one side alone has of it)."""
    left, right = a.settings(task), b.settings(other)
    if len(left) == len(right) == 1:
        return [((task, left[0]), (other, right[0]))], []
    common = [each for each in left if each in right]
    if not common:
        many, side = (left, "A") if len(left) > 1 else (right, "B")
        raise UserError(f"{side} puts {task} in {len(many)} settings ({'; '.join(many)}), none of which the other side "
                        f"has. Which one? Name one for each side: --setting '{left[0]}' '{right[0]}'")  # fmt: skip
    only = [f"{task}: only in {side}: {'; '.join(rest)}" for side, mine in (("A", left), ("B", right))
            if (rest := [each for each in mine if each not in common])]  # fmt: skip
    return [((task, each), (other, each)) for each in common], only


def _check_same_metric(a: Side, b: Side, units: Sequence[tuple[Unit, Unit]]) -> None:
    """Raises UserError where a unit's two metrics differ and the user did not name both."""
    for left, right in units:
        x, y = a.units[left][0].metric, b.units[right][0].metric
        if x != y and not (x in a.choice.metrics and y in b.choice.metrics):
            raise UserError(f"A judges {left[0]} by {x}, and B by {y}. To compare different metrics, name both: "
                            f"--metric '{x}' '{y}'")  # fmt: skip
