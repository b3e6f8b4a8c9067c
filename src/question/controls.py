"""Control conditions: which examples are asked in place of a cell's own (docs/statistics.md)."""

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


def drawn(what: str, example: Example) -> bytes:
    """An example's place in one seeded order, `what` being the seed."""
    return hashlib.sha256(f"{what}:{example.id}".encode()).digest()


def unchanged(chosen: Sequence[Example], tests: Sequence[Example]) -> list[Example]:
    """The examples as they are: what differs is said by the condition's own data."""
    return list(chosen)


def shifts(chosen: Sequence[Example], tests: Sequence[Example]) -> list[Example]:
    """Each example once per cyclic shift of its options, the file's order first; ids "<example id>~shift<k>".

    Over the shifts each option stands once in each place, so that a policy of positions scores exactly 1/m.
    """
    return [shifted(example, k) for example in chosen for k in range(max(len(example.options), 1))]


def shifted(example: Example, k: int) -> Example:
    """The example with its k-th option (from 0) first."""
    options = example.options[k:] + example.options[:k]
    target = None if example.target is None else (example.target - k) % len(options)
    return replace(example, id=f"{example.id}{VARIANT}shift{k}", options=options, target=target)


def input_swapped(chosen: Sequence[Example], tests: Sequence[Example]) -> list[Example]:
    """Each example's options and gold answer under the input of another: the model's own content-free floor.

    The partner is fixed by the test items alone, so that it is the same at every limit. An example that is alone
    with its number of options is left out.
    """
    partner = derangement(tests)
    return [replace(example, input=partner[example.id].input) for example in chosen if example.id in partner]


def derangement(tests: Sequence[Example]) -> dict[str, Example]:
    """Another example of as many options for each example, by id: one to one, no fixed point.

    One cycle through a hashed order in which those of a shared context stand side by side; a step of the largest
    context leads out of every context (as long as none holds more than half of the examples).
    """
    found: dict[str, Example] = {}
    for size in {len(example.options) for example in tests}:
        alike = [example for example in tests if len(example.options) == size]
        heads = {e.group: drawn("swap", replace(e, id=e.group)) for e in alike}
        alike.sort(key=lambda e: (heads[e.group], e.group, drawn("swap", e)))
        step = max(Counter(e.group for e in alike).values()) % len(alike) or 1
        found |= {e.id: alike[(i + step) % len(alike)] for i, e in enumerate(alike) if len(alike) > 1}
    return found


def content_free(chosen: Sequence[Example], tests: Sequence[Example]) -> list[Example]:
    """Each example with an empty input and its options: the prior that prior-corrected likelihood takes off."""
    return [replace(example, input="") for example in chosen]


CONTROLS: Mapping[str | None, Callable[[Sequence[Example], Sequence[Example]], list[Example]]] = {
    None: unchanged,
    "shifts": shifts,
    "input_swapped": input_swapped,
    CONTENT_FREE: content_free,
    RESAMPLED: unchanged,  # the exemplars differ, by exemplar_seed
    "wording": unchanged,  # the template differs
}


def checked(condition: Condition) -> Callable[[Sequence[Example], Sequence[Example]], list[Example]]:
    """The condition's control. Raises UserError for an unknown one, and for exemplars drawn without saying so."""
    where = f"conf/condition/{condition.name}.yaml"
    if condition.control not in CONTROLS:
        raise suggest("control", str(condition.control), [name for name in CONTROLS if name], "prompts.CONTROLS")
    if (condition.control == RESAMPLED) != (condition.exemplar_seed is not None):
        raise UserError(
            f"{where}: control: {RESAMPLED} and exemplar_seed: <number> go together, under a name of their own"
        )
    if condition.control == RESAMPLED and not condition.few_shot:
        raise UserError(f"{where}: {RESAMPLED} exemplars need few_shot: true")
    return CONTROLS[condition.control]


def resampled(tests: Sequence[Example], count: int, seed: int) -> list[Example]:
    """`count` exemplars out of a task's test items, by `seed` alone: whatever the limit and the order of the file.

    They leave the test items of their cell, and another example takes the place of one that the limit would have
    kept. The published exemplars are then neither exemplars nor test items: the examples scored stay those of the
    plain cell, less the drawn ones. Options are those of the prepared task, constructed ones included.
    """
    order = sorted(tests, key=lambda e: drawn(f"exemplar {seed}", e))
    return [replace(example, exemplar=place) for place, example in enumerate(order[:count])]


def without(tests: Sequence[Example], exemplars: Sequence[Example]) -> list[Example]:
    """The tests that are no exemplars."""
    taken = {example.id for example in exemplars}
    return [example for example in tests if example.id not in taken]
