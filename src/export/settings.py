"""How a cell was computed, where its fingerprint proves what conf says. A cell names no weights and no decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


def subject_of(head: Header, seeds: Sequence[int], words: Sequence[str] = ()) -> Subject:
    """Who answered a cell. words: overrides with which it was run, as for src.run.

    Raises UserError where conf has no such model, or the fingerprint shows other weights or settings than conf's.
    """
    conf.check_known("model", head.model)
    asked = [f"seeds=[{','.join(map(str, seeds))}]", f"compat={head.compat.name}", f"encoder={head.encoder}"]
    run = grid.composed_run([f"+model={head.model}", *asked, *words])
    if run.model.weights != head.weights:
        raise UserError(
            f"{head.model}: its cell was computed with weights '{head.weights}', and conf/model/{head.model}.yaml says "
            f"'{run.model.weights}'. Run it again, or restore the YAML"
        )
    note = proof(head, run)
    original = note == PROVEN and head.weights == "original" and run.model.hub and not run.model.path
    name = run.model.hub if original and run.model.hub else f"{OWN}/{head.model}"
    return Subject(head.model, name, run.model, head.weights, run.generation if note == PROVEN else None, note)


def proof(head: Header, run: Run) -> str:
    """PROVEN, or why the fingerprint cannot be worked out here. Raises UserError where it is another one."""
    if run.serving.kind == "local" and not run.model.api and weights.on_disk(run.model, ROOT) is None:
        return "not proven: the weights are not on the disk that exported this"
    try:
        engine = start.engine_of(run).describe()
    except UserError:
        return "not proven: no engine that could have answered is known where this was exported"
    cell = Cell(conf.load("task", head.task, Task), conf.load("condition", head.condition, Condition))
    if fingerprint(run, cell, engine, head.prompts_sha256, head.data_sha256) != head.fingerprint:
        raise UserError(
            f"{head.model}/{cell.name} was not computed with the weights and settings of conf (fingerprint), so its "
            "export would say what is not so. Name what was set by hand, as for src.run: model.dtype=float32, "
            "engine=vllm, model.path=/that/folder; or run it again: "
            f"dvc repro -f infer@{head.model}"
        )
    return PROVEN


def decoding(subject: Subject) -> dict[str, float | int]:
    """How answers were drawn; {} where nothing proves it."""
    how = subject.generation
    return {} if how is None else {"temperature": how.temperature, "top_k": how.top_k}
