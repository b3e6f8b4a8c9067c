"""Cells as tasks of other programs: whole prompts in items, and what makes each program send them as they are.

Each program adds something to a prompt if it may: a delimiter, exemplars, a template. So an item holds the whole prompt
with its exemplars, and each continuation as it is scored. What is written needs nothing of this project.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template
from typing import Any

from src.base.errors import UserError
from src.base.files import json_lines
from src.base.schema import Compat, Condition, Generation
from src.question.examples import Example
from src.question.prompts import Prompt

TEMPLATES = Path(__file__).parent / "templates"
GROUP = "emergence_audit"
CHARACTERS = 4  # of a token, where no tokenizer says it


@dataclass(frozen=True, eq=False)
class Cell:
    """One task under one condition, rendered."""

    task: str
    condition: Condition
    prompts: Sequence[Prompt]
    questions: Mapping[str, Example]  # by prompt id, of a plain condition
    about: Mapping[str, str]  # what the first line of its file says beside its names

    @property
    def name(self) -> str:
        """`<task>__<condition>`, as the cell's own file is called."""
        return f"{self.task}__{self.condition.name}"

    @property
    def max_tokens(self) -> int:
        """The budget of a completion: the longest option, and what a cell of this project adds to it."""
        longest = max(len(text) for p in self.prompts for text in (*p.options, p.answer))
        return math.ceil(longest / CHARACTERS) + Generation().extra_tokens

    @property
    def scored(self) -> bool:
        """Whether each prompt has options whose log-likelihoods can be compared."""
        return all(prompt.continuations and prompt.target is not None for prompt in self.prompts)

    def items(self) -> Iterator[dict[str, Any]]:
        """An item a prompt. `question` and `choices`, which imports match items by, are those of plain conditions."""
        for prompt in self.prompts:
            example = self.questions.get(prompt.id)
            yield {
                "id": prompt.id,
                "group": prompt.group,
                "prompt": prompt.prefix + prompt.text,
                "continuations": list(prompt.continuations),
                "options": list(prompt.options),
                "target": prompt.target,
                "answer": prompt.answer,
                "lettered": self.condition.lettered,
                **({"question": example.input, "choices": list(example.options)} if example else {}),
            }

    def file(self) -> bytes:
        """The file of its items: a line that says what it holds, and a line an item."""
        return json_lines([{"task": self.task, "condition": self.condition.name, **self.about}, *self.items()])


@dataclass(frozen=True)
class Scoring:
    """What the tasks score with. match: the code of src/scoring/match.py, without its imports."""

    match: str
    tie: float
    compat: Compat
    generation: Generation
    draws: int

    def python(self, name: str, **more: str) -> str:
        """The Python file of a program: what both share, and its own template."""
        compat = ", ".join(f"{key}={value!r}" for key, value in asdict(self.compat).items())
        text = "".join((TEMPLATES / f"{part}.py.txt").read_text(encoding="utf-8") for part in ("shared", name))
        numbers = {"temperature": self.generation.temperature, "top_k": self.generation.top_k, "epochs": self.draws}
        return Template(text).substitute(compat=compat, match=self.match.strip(), tie=self.tie, **numbers, **more)


METRICS: Mapping[str, tuple[str, ...]] = {"likelihood": ("acc", "acc_norm"), "answer": ("exact_match",)}
"""By the way to answer, which is also the function of scoring.py that judges it."""


def lm_eval(cells: Sequence[Cell], scoring: Scoring) -> dict[str, str]:
    """The files of lm-evaluation-harness, by name: a task a cell and way to answer, a group a condition, one of all.

    A group of a condition has means over its tasks. One above it has none, because controls stand beside plain cells.
    """
    files, groups = {"scoring.py": scoring.python("lm_eval")}, dict[str, dict[str, list[str]]]()
    for cell in cells:
        for way, settings in ways(cell, scoring.generation).items():
            name = f"{GROUP}_{way}_{cell.name}"
            groups.setdefault(f"{GROUP}_{way}", {}).setdefault(f"{GROUP}_{way}_{cell.condition.name}", []).append(name)
            files[f"{name}.yaml"] = yaml_of({"task": name, **settings}, cell.about.get("canary", ""))
    for way_group, conditions in groups.items():
        means = [{"metric": each, "weight_by_size": False} for each in METRICS[way_group.removeprefix(f"{GROUP}_")]]
        for group, tasks in conditions.items():
            files[f"{group}.yaml"] = yaml_of({"group": group, "task": tasks, "aggregate_metric_list": means})
        files[f"{way_group}.yaml"] = yaml_of({"group": way_group, "task": [*conditions]})
    return {**files, f"{GROUP}.yaml": yaml_of({"group": GROUP, "task": [*groups]})}


def ways(cell: Cell, generation: Generation) -> dict[str, dict[str, Any]]:
    """How a cell is answered -> what its YAML says. No option that is not there is scored."""
    drawn = {"do_sample": True, "temperature": generation.temperature, "top_k": generation.top_k}
    own: dict[str, dict[str, Any]] = {
        "likelihood": {"output_type": "multiple_choice", "doc_to_choice": "continuations", "doc_to_target": "target"},
        "answer": {
            "output_type": "generate_until",
            "doc_to_target": "answer",
            "generation_kwargs": {"until": [], "max_gen_toks": cell.max_tokens, **drawn},
        },
    }
    return {
        way: {
            "custom_dataset": Function("scoring.dataset"),
            "dataset_kwargs": {"cell": cell.name},
            "test_split": "test",
            **own[way],
            "doc_to_text": "prompt",
            "target_delimiter": "",
            "fewshot_delimiter": "",
            "num_fewshot": 0,
            "process_results": Function(f"scoring.{way}"),
            "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in METRICS[way]],
        }
        for way in (own if cell.scored else ("answer",))
    }


class Function(str):
    """A function of scoring.py, as a YAML of the harness names it."""


def yaml_of(settings: Mapping[str, Any], comment: str = "") -> str:
    """YAML in JSON's words, with a comment above it."""
    lines = [f"{k}: !function {v}" if isinstance(v, Function) else f"{k}: {json.dumps(v)}" for k, v in settings.items()]
    return "\n".join([*([f"# {' '.join(comment.split())}"] if comment else []), *lines, ""])


def inspect(cells: Sequence[Cell], scoring: Scoring) -> dict[str, str]:
    """The file of inspect: a task a cell. Raises UserError where Python does not tell the names of two apart."""
    functions = {cell.name.replace("-", "_"): cell for cell in cells}
    if len(functions) < len(cells):
        lost = next(cell.name for cell in cells if cell not in functions.values())
        raise UserError(
            f"{lost} and another cell differ in - and _ alone, which Python does not tell apart. Rename one"
        )
    tasks = (
        f"\n\n@task\ndef {name}() -> Task:\n    return asked({cell.name!r}, {cell.max_tokens})\n"
        for name, cell in functions.items()
    )
    return {f"{GROUP}.py": scoring.python("inspect", tasks="".join(tasks))}


PROGRAMS: Mapping[str, Callable[[Sequence[Cell], Scoring], dict[str, str]]] = {"lm_eval": lm_eval, "inspect": inspect}
"""By the word of the command line."""
