"""conf/claim: what the paper says, where, by which rule it is judged, and how a row of the audit reads."""

from __future__ import annotations

import inspect
import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from src.base.errors import UserError
from src.base.frames import read_yaml
from src.judgement import contrasts, correlations, graded, overlap, own, table2
from src.judgement.family import Family
from src.judgement.scores import Scores

TESTS: Mapping[str, Callable[..., Iterable[Family]]] = {
    "above": table2.above,
    "predictable": table2.predictable,
    "emergent": table2.emergent,
    "any_emergent": table2.any_emergent,
    "table2_count": overlap.table2_count,
    "tasks_agree": overlap.tasks_agree,
    "beyond_margins": overlap.beyond_margins,
    "beyond_zero_shot": overlap.beyond_zero_shot,
    "figure2_count": overlap.figure2_count,
    "figure5_count": overlap.figure5_count,
    "difference_in_differences": contrasts.difference_in_differences,
    "exemplars_help": partial(contrasts.exemplars, up=True),
    "exemplars_change_nothing": partial(contrasts.exemplars, up=False),
    "memorisable": correlations.memorisable,
    "metrics_agree": correlations.metrics_agree,
    "by_hand": graded.by_hand,
    "own_above": own.above,
    "own_any": own.any_above,
    "own_exemplars_help": own.exemplars_help,
}
"""By name in conf/claim, the families of a claim. docs/statistics.md says what each tests."""


@dataclass(frozen=True)
class Claim:
    """conf/claim/<name>.yaml. Texts in braces name what a row knows."""

    name: str
    question: str
    place: str  # where the paper says it
    test: str  # a key of TESTS
    rule: str  # in words
    says: Mapping[str, str]  # what the paper claims of an item, in short: if_yes, an effect; if_no, none
    statement: Mapping[str, str]  # the same in a sentence
    why: str  # the numbers behind the word, in a sentence
    unit: str  # of the value: accuracy, difference, correlation, kappa or count
    of: Mapping[str, str] = field(default_factory=dict)  # what the test is told beside the scores
    inference: str = "{claim}"  # the independent inference that a row belongs to
    interval: str = ""  # what low and high are
    reference: str | None = None  # the value of no effect: a number, or a name that a row knows
    bar: str | None = None  # the content-free bar, a name that a row knows
    corrected: str = ""  # what Holm goes over, after "Holm over 21"
    detectable_of: str = ""  # what `detectable` is
    moves: Mapping[str, Any] | None = None  # what flips count: {of, from, by, digits}
    permuted: str | None = None  # what a joint test permutes, in words; no test without it
    pooled: str | None = None  # the estimate of the hierarchical model beside it: `estimate_of` in frame pooled
    reply: str | None = None  # what an author answers

    @property
    def two_sided(self) -> bool:
        """Whether the paper says yes of some items and no of others."""
        return "if_no" in self.statement

    def families(self, scores: Scores) -> list[Family]:
        """Every family of the claim's test. Raises UserError where the published cells do not hold what it compares."""
        try:
            found = list(TESTS[self.test](scores, **self.of))
            missing = [
                item for family in found for item in family.items if not family.some and item not in family.rows.index
            ]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            missing = [f"{type(error).__name__}: {error}"]
        if missing or not any(family.rule for family in found):
            raise UserError(
                f"conf/claim/{self.name}.yaml: test {self.test!r} does not find its cells ({missing[:1] or 'no cell'}, "
                f"{dict(self.of) or 'nothing'} asked for). Is a model or task missing? git checkout data/published"
            )
        return found


PAPER, OWN = Path("conf/claim"), Path("conf/claim/own")
"""What the paper says of its models; and the same, of a base and a tuned model that were run here."""


def load_claims(root: Path, folder: Path = PAPER) -> list[Claim]:
    """Every *.yaml of a folder. Raises UserError that names the file and the key where one is odd."""
    claims = []
    for path in sorted((root / folder).glob("*.yaml")):
        name, given = path.relative_to(root / PAPER).with_suffix("").as_posix(), read_yaml(path)
        if not isinstance(given, Mapping):
            raise UserError(f"{PAPER}/{name}.yaml is no mapping of keys to values. docs/adding.md shows a claim")
        try:
            claim = Claim(name=name, **given)
        except TypeError as error:
            known = ", ".join(each.name for each in fields(Claim) if each.name != "name")
            said = str(error).replace("Claim.__init__()", "a claim")
            raise UserError(f"{PAPER}/{name}.yaml: {said}. A claim has: {known}") from error
        for fault in faults(claim):
            raise UserError(f"{PAPER}/{name}.yaml: {fault}")
        claims.append(claim)
    return claims


QUESTIONS = ("RQ1", "RQ2", "RQ3", "RQ4", "metrics", "grading")
UNITS = ("accuracy", "difference", "correlation", "kappa", "count")
SIDES = ("if_yes", "if_no")
MOVES = {"of", "from", "by", "digits"}


def faults(claim: Claim) -> Iterator[str]:
    """What is wrong with the values of a claim, each with what would be right."""
    texts = [each.name for each in fields(Claim) if each.type in ("str", "str | None")]
    for name in texts:
        value = getattr(claim, name)
        if not isinstance(value, str | None):
            yield f"{name} is {value!r}, no text. Put it in quotes"
    for name in ("says", "statement"):
        value = getattr(claim, name)
        if not isinstance(value, Mapping) or "if_yes" not in value or set(value) - set(SIDES):
            yield f"{name} needs the key if_yes, and may have if_no. It is {value!r}"
        elif not all(isinstance(each, str) for each in value.values()):
            yield f"{name} has a value that is no text. Put it in quotes: {dict(value)!r}"
    if set(claim.says) != set(claim.statement):
        yield f"says and statement need the same keys, out of {', '.join(SIDES)}"
    for name, known in (("test", tuple(TESTS)), ("question", QUESTIONS), ("unit", UNITS)):
        if getattr(claim, name) not in known:
            yield f"{name} {getattr(claim, name)!r} is not known. Known: {', '.join(known)}"
    if not isinstance(claim.of, Mapping):
        yield f"of is {claim.of!r}; it maps what the test is told to its value"
    try:
        inspect.signature(TESTS[claim.test]).bind(None, **claim.of)
    except TypeError as error:
        yield f"test {claim.test!r} is told the wrong things by `of`: {error}"
    if claim.moves is not None and (not isinstance(claim.moves, Mapping) or set(claim.moves) != MOVES):
        yield f"moves needs the keys {', '.join(sorted(MOVES))}. It is {claim.moves!r}"


class _Printer(string.Formatter):
    """str.format for a row: a missing number prints as a dash, a p below .001 as such."""

    def format_field(self, value: Any, spec: str) -> str:
        if value is None or value != value:
            return "–"
        if spec == "p":
            return "p < .001" if value < 0.001 else f"p = {value:.3f}".replace("= 0.", "= .")
        return str(super().format_field(value, spec))


def written(claim: Claim, template: str, row: Mapping[str, Any]) -> str:
    """A template with the row's values in it. Raises UserError that names file and key where it names another."""
    try:
        return str(_Printer().vformat(template, (), dict(row)))
    except (KeyError, ValueError, IndexError, AttributeError, TypeError) as error:
        where = next(each.name for each in fields(claim) if template in _texts(getattr(claim, each.name)))
        raise UserError(
            f"conf/claim/{claim.name}.yaml, {where}: {template!r} cannot be written: {error}. "
            f"A row knows: {', '.join(sorted(row))}"
        ) from error


def _texts(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, Mapping) else [value]
