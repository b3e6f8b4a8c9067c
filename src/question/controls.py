"""Control conditions: the examples that a cell asks in place of its own (docs/statistics.md)."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from src.base.errors import UserError, suggest
from src.base.schema import Condition
from src.question.examples import Example

VARIANT = "~"  # in a prompt's id, between the example's id and its variant
CONTENT_FREE = "content_free"
RESAMPLED = "resampled"


def seeded_key(seed: str, name: str) -> bytes:
    """What an example or a context of this name is sorted by in the order of this seed."""
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def unchanged(chosen: Sequence[Example], tests: Sequence[Example]) -> list[Example]:
    """The examples as they are, for a control that changes the exemplars or the template."""
    return list(chosen)


def shifts(chosen: Sequence[Example], tests: Sequence[Example]) -> list[Example]:
    """Each example once for every cyclic shift of its options, in the file's order first: "<example id>~shift<k>".

    Each option stands once in each place, so that a policy of positions scores exactly 1 / number of options.
    """
    return [shifted(example, k) for example in chosen for k in range(max(len(example.options), 1))]


def shifted(example: Example, k: int) -> Example:
    """The example with its k-th option (from 0) first."""
    options = example.options[k:] + example.options[:k]
    target = None if example.target is None else (example.target - k) % len(options)
    return replace(example, id=f"{example.id}{VARIANT}shift{k}", options=options, target=target)


def input_swapped(chosen: Sequence[Example], tests: Sequence[Example]) -> list[Example]:
    """Each example's options and gold answer under the input of another: the model's own content-free floor.

    The partner depends on the test items alone, so that it is the same at every limit. An example is left out where no
    other has as many options.
    """
    partners = derangement(tests)
    return [replace(example, input=partners[example.id].input) for example in chosen if example.id in partners]


def derangement(tests: Sequence[Example]) -> dict[str, Example]:
    """Another example with as many options for each example, by id: one to one, and none is its own partner.

    The examples stand in a hashed order in which those of one context are neighbours. The partner is as many places
    further as the largest context has examples. It therefore has another context, as long as no context holds more than
    half of the examples.
    """
    partners: dict[str, Example] = {}
    for size in {len(example.options) for example in tests}:
        alike = [example for example in tests if len(example.options) == size]
        alike.sort(key=lambda e: (seeded_key("swap", e.group), e.group, seeded_key("swap", e.id)))
        step = max(Counter(e.group for e in alike).values()) % len(alike) or 1
        partners |= {e.id: alike[(i + step) % len(alike)] for i, e in enumerate(alike) if len(alike) > 1}
    return partners


def content_free(chosen: Sequence[Example], tests: Sequence[Example]) -> list[Example]:
    """Each example with its options and an empty input. Prior-corrected likelihood subtracts what it measures."""
    return [replace(example, input="") for example in chosen]


CONTROLS: Mapping[str | None, Callable[[Sequence[Example], Sequence[Example]], list[Example]]] = {
    None: unchanged,
    "shifts": shifts,
    "input_swapped": input_swapped,
    CONTENT_FREE: content_free,
    RESAMPLED: unchanged,  # the exemplars differ, by exemplar_seed
    "wording": unchanged,  # the template differs
}
"""By the `control` of conf/condition/<name>.yaml."""


def checked(condition: Condition) -> Callable[[Sequence[Example], Sequence[Example]], list[Example]]:
    """The function of the condition's control.

    Raises UserError for an unknown control, and for `resampled` without a seed or without exemplars.
    """
    where = f"conf/condition/{condition.name}.yaml"
    if condition.control not in CONTROLS:
        raise suggest(
            "control", str(condition.control), [name for name in CONTROLS if name], "src/question/controls.py, CONTROLS"
        )
    if (condition.control == RESAMPLED) != (condition.exemplar_seed is not None):
        raise UserError(
            f"{where}: control: {RESAMPLED} and exemplar_seed: <number> go together, under a name of their own"
        )
    if condition.control == RESAMPLED and not condition.few_shot:
        raise UserError(f"{where}: {RESAMPLED} exemplars need few_shot: true")
    return CONTROLS[condition.control]


def resampled(tests: Sequence[Example], count: int, seed: int) -> list[Example]:
    """`count` exemplars out of a task's test items. They depend on `seed` alone, not on the limit or the file's order.

    They are no longer test items of their cell. Where one was among the first `limit` examples, the next stands in.
    The published exemplars are then neither exemplars nor test items, so that the examples scored are those of the
    plain cell less the resampled ones. Options are those of the prepared task, constructed ones included.
    """
    order = sorted(tests, key=lambda example: seeded_key(f"exemplar {seed}", example.id))
    return [replace(example, exemplar=position) for position, example in enumerate(order[:count])]


def without(tests: Sequence[Example], exemplars: Sequence[Example]) -> list[Example]:
    """The test items that are no exemplars."""
    exemplar_ids = {example.id for example in exemplars}
    return [example for example in tests if example.id not in exemplar_ids]
