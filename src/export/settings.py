"""How a cell was computed, where its fingerprint proves what conf says. A cell names no weights and no decoding."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from src.base import conf, grid
from src.base.errors import UserError
from src.base.files import ROOT
from src.base.schema import Cell, Condition, Generation, Model, Run, Task
from src.cell.file import Header, fingerprint
from src.engine import start
from src.source import weights

OWN = "emergence-audit"
PROVEN = "proven by the fingerprint: conf's weights and decoding"


@dataclass(frozen=True)
class Subject:
    """The model that answered, and what is known of how."""

    name: str  # in conf/model
    id: str  # <owner>/<name>: the hub's, where it is proven that the hub's own weights answered; else ours
    model: Model
    weights: str  # what the numbers were computed with
    generation: Generation | None  # None where nothing proves it
    note: str  # PROVEN, or why it is not

    @property
    def facts(self) -> dict[str, str]:
        """What else is known of it, each as text."""
        told = {"hub": self.model.hub, "revision": self.model.revision, "api": self.model.api,
                "licence": self.model.licence}  # fmt: skip
        known = {key: str(each) for key, each in told.items() if each}
        return {"weights": self.weights, "dtype": self.model.dtype, "settings": self.note, **known}


@dataclass(frozen=True)
class Declared:
    """What conf and overrides say of a model's run, and what would answer it."""

    run: Run
    engine: Mapping[str, Any] | None  # as in a fingerprint; None where it cannot be said here
    lacking: str  # why it cannot


def subject_of(head: Header, seeds: Sequence[int], words: Sequence[str] = ()) -> Subject:
    """Who answered a cell. words: overrides with which it was run, as for src.run.

    Raises UserError where conf has no such model, or the fingerprint shows other weights or settings than conf's.
    """
    conf.check_known("model", head.model)
    asked = (f"seeds=[{','.join(map(str, seeds))}]", f"compat={head.compat.name}", f"encoder={head.encoder}")
    told = declared((f"+model={head.model}", *asked, *words))
    model = told.run.model
    if model.weights != head.weights:
        raise UserError(
            f"{head.model}: its cell was computed with weights '{head.weights}', and conf/model/{head.model}.yaml says "
            f"'{model.weights}'. Run it again, or restore the YAML"
        )
    if told.engine is not None:
        check_proven(head, told.run, told.engine)
    note = told.lacking or PROVEN
    own = note == PROVEN and head.weights == "original" and not model.path
    name = model.hub if own and model.hub else f"{OWN}/{head.model}"
    return Subject(head.model, name, model, head.weights, None if told.lacking else told.run.generation, note)


@functools.cache
def declared(words: tuple[str, ...]) -> Declared:
    """What src.run would compose from these words, and the engine that it would ask."""
    run = grid.composed_run(words)
    if run.serving.kind == "local" and not run.model.api and weights.on_disk(run.model, ROOT) is None:
        return Declared(run, None, "not proven: the weights are not on the disk that exported this")
    try:
        return Declared(run, start.engine_of(run).describe(), "")
    except UserError:
        return Declared(run, None, "not proven: nothing that could have answered is known where this was exported")


def check_proven(head: Header, run: Run, engine: Mapping[str, Any]) -> None:
    """Raises UserError where a cell's fingerprint is not the one that this run would have."""
    cell = Cell(conf.load("task", head.task, Task), conf.load("condition", head.condition, Condition))
    if fingerprint(run, cell, engine, head.prompts_sha256, head.data_sha256) != head.fingerprint:
        raise UserError(
            f"{head.model}/{cell.name} was not computed with the weights and settings of conf (fingerprint), so its "
            "export would say what is not so. Name what was set by hand, as for src.run: model.dtype=float32, "
            f"engine=vllm, model.path=/that/folder; or run it again: dvc repro -f infer@{head.model}"
        )


def decoding(subject: Subject) -> dict[str, float | int]:
    """How answers were drawn; {} where nothing proves it."""
    how = subject.generation
    return {} if how is None else {"temperature": how.temperature, "top_k": how.top_k}
