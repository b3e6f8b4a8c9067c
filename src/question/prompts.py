"""An example, its task and its condition become a prompt. Pure: no file is read and no argument is changed.

`ask` returns all prompts of a cell and `render` one of them. Templates, wordings and cleaning are in docs/protocol.md
("Prompt text"), control conditions in docs/statistics.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from src.base.errors import UserError
from src.base.schema import Condition, Task, Wording
from src.question import controls, examples
from src.question.controls import VARIANT
from src.question.examples import Example

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def letter(index: int, condition: Condition) -> str:
    """The letter of an option, "" where the condition names none. `refuse_unlettered` holds that there are enough."""
    return LETTERS[index] if "{letter}" in condition.choice + condition.answer else ""


def refuse_unlettered(examples: Iterable[Example], condition: Condition) -> None:
    """Raises UserError where letters name options, and an example has none or more than there are letters."""
    for example in examples if letter(0, condition) else ():
        if not example.options:
            raise UserError(
                f"{example.id} has no options, and an answer under {condition.name} is the letter of one. Ask the task "
                "under conditions without letters (open_zero, open_few)"
            )
        if len(example.options) > len(LETTERS):
            raise UserError(
                f"{example.id} has {len(example.options)} options, and {condition.name} names them by the "
                f"{len(LETTERS)} letters. Ask the task under conditions without letters (closed_zero, closed_few), or "
                "give it fewer options"
            )


@dataclass(frozen=True)
class Prompt:
    """What a model is asked for one example. The full prompt is `prefix + text`."""

    id: str  # the example's id, "~shift<k>" behind it where a control asks one example several times
    group: str  # the example's context group
    prefix: str  # few-shot exemplars, the same for a whole cell; "" zero-shot
    text: str  # the test item
    options: tuple[str, ...]  # bare options in the order shown; () where none are shown
    continuations: tuple[str, ...]  # the answer form of each option, scored by likelihood
    target: int | None  # index of the gold option; None without options
    answer: str  # the gold answer, bare


def clean(text: str, task: Task) -> str:
    """The published input cleaning."""
    text = text.rstrip(" ").replace(" ,", ",").replace(" .", ".")
    return text + "?" if task.final_question_mark and text else text


def without_full_stop(text: str) -> str:
    """The text less one trailing full stop."""
    return text.removesuffix(".")


def question(example: Example, task: Task, condition: Condition, wording: Wording, show_options: bool) -> str:
    """The example as its condition puts it, up to where the answer begins."""
    text = clean(example.input, task)
    if wording.paragraph_break_to_space:
        text = " ".join(part.strip(" ") for part in text.split("\n\n"))
    strip = condition.strip_full_stop_from_options or task.strip_full_stop_from_options
    shown = [without_full_stop(option) if strip else option for option in example.options]
    choices = condition.choice_separator.join(
        condition.choice.format(letter=letter(i, condition), option=option) for i, option in enumerate(shown)
    )
    template = condition.template if show_options and choices else condition.template_without_options
    return template.format(input=text + wording.after_input, gap=wording.gap, choices=choices)


def answer(condition: Condition, wording: Wording, option: str, index: int) -> str:
    """How an exemplar states this option. Likelihood scores the same string."""
    text = condition.answer.format(answer=without_full_stop(option), letter=letter(index, condition))
    return text if wording.full_stop_after_answer else text.removesuffix(".")


def prefix(exemplars: Sequence[Example], task: Task, condition: Condition) -> str:
    """The few-shot prefix: each exemplar with its answer, and a blank line after it."""
    wording = task.wording.get(condition.prompt, Wording())
    shown = task.exemplar_options.get(condition.prompt) or [None] * len(exemplars)
    parts = []
    for example, options in zip(exemplars, shown, strict=True):
        example = with_options(example, options)
        shown_question = question(example, task, condition, wording, show_options=True)
        parts.append(shown_question + answer(condition, wording, example.answer, example.target or 0) + "\n\n")
    return "".join(parts)


def with_options(example: Example, options: Sequence[int] | Sequence[str] | None) -> Example:
    """The example with its options permuted (indices) or replaced (literal strings); None leaves it as it is."""
    if options is None:
        return example
    chosen = tuple(example.options[o] if isinstance(o, int) else o for o in options)
    return replace(example, options=chosen, target=chosen.index(example.answer))


def render(example: Example, exemplars: Sequence[Example], task: Task, condition: Condition) -> Prompt:
    """The prompt of one test item. The result depends on nothing but the arguments."""
    return item(example, prefix(exemplars, task, condition) if condition.few_shot else "", task, condition)


def item(example: Example, ahead: str, task: Task, condition: Condition) -> Prompt:
    """The prompt of one test item behind the few-shot prefix `ahead`.

    Options that the prompt does not show are scored if they come from the task file, not if they are constructed.
    """
    wording = task.wording.get(condition.prompt, Wording())
    shown = wording.show_options and "{choices}" in condition.template
    options = example.options if shown or "construct" not in task.options else ()
    return Prompt(
        id=example.id,
        group=example.group,
        prefix=ahead,
        text=question(example, task, condition, wording, shown),
        options=tuple(without_full_stop(o) for o in options) if task.strip_full_stop_from_options else options,
        continuations=tuple(answer(condition, wording, o, i) for i, o in enumerate(options)),
        target=example.target if options else None,
        answer=without_full_stop(example.answer),
    )


def ask(
    tests: Sequence[Example],
    exemplars: Sequence[Example],
    task: Task,
    condition: Condition,
    limit: int | None = None,
    earlier: Sequence[Task] = (),
) -> list[Prompt]:
    """Every prompt of a cell, in the order of `examples.sampled`. The variants of one example stand together.

    tests, exemplars: all that the task has. limit: the number of examples, not of prompts. earlier: the tasks whose
    template edits are still in force (Compat.template_leak), in the order in which they ran. Only test items show these
    edits, because the published prefixes are fixed text. Raises UserError for a condition that contradicts itself.
    """
    control = controls.checked(condition)
    if condition.exemplar_seed is not None:
        exemplars = controls.resampled(tests, len(exemplars), condition.exemplar_seed)
        task = replace(task, exemplar_options={})
    if condition.few_shot and not exemplars:
        raise UserError(
            f"{task.name} has no exemplars, so {condition.name} would ask what its zero-shot condition asks. Name "
            f"some in conf/task/{task.name}.yaml (exemplars: [0, 1]), or leave the condition out"
        )
    refuse_unlettered([*(exemplars if condition.few_shot else ()), *tests], condition)
    ahead = prefix(exemplars, task, condition) if condition.few_shot else ""
    candidates = controls.without(tests, exemplars)
    shown = leaked(task, condition.prompt, earlier)
    variants = control(examples.sampled(candidates, limit), candidates)
    return [item(example, ahead, shown, condition) for example in variants]


def example_id(prompt_id: str) -> tuple[str, str | None]:
    """(the example's id, its variant): "t/3~shift2" gives ("t/3", "shift2") and "t/3" gives ("t/3", None)."""
    name, _, variant = prompt_id.partition(VARIANT)
    return name, variant or None


LEAKS: Mapping[str, str] = {"closed_adv": "after_input", "closed": "show_options"}
"""By prompt format, the field of a Wording that the released code left in the template that all tasks share."""


def leaked(task: Task, prompt_format: str, earlier: Sequence[Task]) -> Task:
    """The task as the released code put it after the `earlier` ones, of which the last template edit is still in force.

    This is defect 1 of docs/protocol.md. A task's own edit replaces the one that it inherits.
    """
    name = LEAKS.get(prompt_format)
    if name is None:
        return task
    plain, own = Wording(), task.wording.get(prompt_format, Wording())
    edits = [w for other in earlier if (w := other.wording.get(prompt_format)) and w.leaks]
    values = [v for w in edits if (v := getattr(w, name)) != getattr(plain, name)]
    if not values or getattr(own, name) != getattr(plain, name):
        return task
    return replace(task, wording={**task.wording, prompt_format: replace(own, **{name: values[-1]})})
