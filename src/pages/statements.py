"""The audit as the page shows it: each statement with its word, and each estimate as a strip of a figure."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from src.base.frames import read_frame
from src.base.verdict import DEPENDS, NO_NUMBER, WORDS
from src.pages.tables import FORMATS, is_missing, records

FOLDER = "data/audit"
FRAMES = ("audit", "inferences", "analyses")
JOINT = f"{FOLDER}/joint.parquet"  # only some claims can be tested over all analyses together
COUNT = "count"  # the unit of a number that is n of something
OVER = "difference"  # the unit of a number less its reference
FIXED_AXES = {"accuracy": (0.0, 1.0), "correlation": (-1.0, 1.0), "kappa": (-1.0, 1.0)}
"""By unit, the ends of its axis where they do not depend on the data."""

FORMS: dict[str, Callable[[Any], str]] = {"accuracy": FORMATS["share"], COUNT: FORMATS["number"]}
"""By unit, how a number is printed. Other units have a sign."""

STEPS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)  # ends that the axis of a difference may have
EDGE = 3.0  # per cent of the width that stay free at each end, so that no mark is cut
LANE_WIDTH = 1.9  # per cent of the width that one mark of a row of marks takes


@dataclass(frozen=True)
class Strip:
    """One line of a figure. Places are in per cent of its width, None where there is nothing to draw."""

    at: float | None
    low: float | None
    high: float | None
    reference: float | None
    bar: float | None
    ends: tuple[str, str]
    text: str  # the same in words


@dataclass(frozen=True)
class Statement:
    """One row of the audit. Its fields are those of the frame, texts without underscores."""

    anchor: str
    row: Mapping[str, Any]
    value: str  # the number with its interval, as text
    strip: Strip

    @property
    def word(self) -> str:
        """What the audit says of it: one of WORDS."""
        return str(self.row["word"])


@dataclass(frozen=True)
class Mark:
    """One statement among others on a strip: its place, its lane from the bottom, its word and what it is."""

    at: float
    lane: int
    word: str
    text: str


@dataclass(frozen=True, eq=False)
class Claim:
    """All statements of one file of conf/claim."""

    name: str
    title: str
    question: str
    statements: tuple[Statement, ...]
    marks: tuple[Mark, ...]  # one a statement, where the claim has several
    ends: tuple[str, str]
    centred: bool  # whether no effect lies in the middle of the marks' axis
    unit: str  # what most of its numbers are

    @property
    def single(self) -> bool:
        """Whether the claim is one statement, not one for each task or pair."""
        return len(self.statements) == 1 and not self.statements[0].row["item"]

    @property
    def lanes(self) -> int:
        """How many marks stand above each other."""
        return 1 + max((mark.lane for mark in self.marks), default=0)

    @cached_property
    def words(self) -> dict[str, int]:
        """How many statements have each word, words that none has left out."""
        return counted(each.word for each in self.statements)

    @cached_property
    def places(self) -> list[str]:
        """Where in the paper the statements stand."""
        return list(dict.fromkeys(str(each.row["place"]) for each in self.statements))

    @cached_property
    def turns(self) -> list[tuple[str, int]]:
        """The choices on which statements turn, with how many, most first."""
        turning = [each for each in self.statements if each.word == DEPENDS and each.row["turns_on"]]
        named = [str(each.row["turns_on"]) for each in turning]
        return sorted(Counter(named).items(), key=lambda pair: (-pair[1], pair[0]))


@dataclass(frozen=True)
class Inference:
    """One independent inference in the finding."""

    text: str
    link: str
    main: bool = False  # whether it is on the one statement of a claim
    turns_on: str | None = None  # the choice, of one that depends on it


@dataclass(frozen=True)
class Audit:
    """What the page says of the audit."""

    claims: tuple[Claim, ...]
    inferences: tuple[Mapping[str, Any], ...]
    joint: Mapping[str, Mapping[str, Any]]  # by claim

    @cached_property
    def statements(self) -> list[Statement]:
        """Every statement, in the order of the claims."""
        return [each for claim in self.claims for each in claim.statements]

    @cached_property
    def words(self) -> dict[str, int]:
        """How many independent inferences have each word; statements without a number are none."""
        return {word: sum(each["word"] == word for each in self.inferences) for word in WORDS if word != NO_NUMBER}

    @cached_property
    def by_question(self) -> dict[str, dict[str, int]]:
        """By question, how many of its independent inferences have each word that one has."""
        known = [(str(each["question"]), str(each["word"])) for each in self.inferences if each["word"] != NO_NUMBER]
        return {question: counted(w for q, w in known if q == question) for question in sorted({q for q, _ in known})}

    @cached_property
    def row_words(self) -> dict[str, int]:
        """How many statements have each word."""
        return {word: sum(each.word == word for each in self.statements) for word in WORDS}

    @cached_property
    def by_word(self) -> dict[str, list[Inference]]:
        """The independent inferences by word. Those on the one statement of a claim come first."""
        found: dict[str, list[Inference]] = {word: [] for word in self.words}
        for row in self.inferences:
            found[row["word"]].append(self._inference(row))
        return {word: sorted(each, key=lambda one: not one.main) for word, each in found.items() if each}

    def _inference(self, row: Mapping[str, Any]) -> Inference:
        """One of several statements has the title of their claim, and what its name adds to that of the claim."""
        name, text = str(row["inference"]), str(row["statement"])
        of = {claim: [one for one in claim.statements if one.row["inference"] == name] for claim in self.claims}
        of = {claim: own for claim, own in of.items() if own}
        claim, own = next(iter(of.items()))
        if len(of) > 1:
            return Inference(f"{text}{share_of(row)}", f"#forest-{slug(claim.name)}")
        if len(own) == 1:
            turns_on = own[0].row["turns_on"] if own[0].word == DEPENDS else None
            return Inference(text, f"#{own[0].anchor}", claim.single, turns_on)
        part = text.partition(", ")[2] if "/" in name else ""
        title = f"{claim.title}{part and f', {part}'}{share_of(row)}"
        return Inference(title, f"#forest-{slug(claim.name)}")

    @cached_property
    def questions(self) -> list[str]:
        """The questions that the claims belong to."""
        return list(dict.fromkeys(claim.question for claim in self.claims))

    @cached_property
    def items(self) -> list[str]:
        """Every task or pair that a statement is about, by name."""
        return sorted({str(each.row["item"]) for each in self.statements if each.row["item"]})

    def of(self, question: str) -> list[Claim]:
        """The claims of one question."""
        return [claim for claim in self.claims if claim.question == question]


def share_of(inference: Mapping[str, Any]) -> str:
    """ " (1 of 9 statements)": how many statements of an inference have its word."""
    return f" ({inference[inference['word'].replace(' ', '_')]:.0f} of {inference['rows']:.0f} statements)"


def forests(claims: Iterable[Claim]) -> list[list[Claim]]:
    """The claims that have a statement for each task or pair; those about the same ones stand in one figure."""
    groups: list[list[Claim]] = []
    for claim in claims:
        if claim.single:
            continue
        items = {each.row["item"] for each in claim.statements}
        same = next((g for g in groups if items & {each.row["item"] for each in g[0].statements}), None)
        groups.append([claim]) if same is None else same.append(claim)
    return groups


def lines_of(claims: Sequence[Claim]) -> list[tuple[str, list[Statement | None]]]:
    """By task or pair the statement of each claim, None where it has none; the largest number first."""
    by_item = [{str(each.row["item"]): each for each in claim.statements} for claim in claims]
    items = list(dict.fromkeys(item for each in by_item for item in each))

    def size(item: str) -> float:
        value = by_item[0][item].row["value"] if item in by_item[0] else None
        return math.inf if value is None else -float(value)

    return [(item, [each.get(item) for each in by_item]) for item in sorted(items, key=size)]


def tally(words: Mapping[str, int]) -> str:
    """ "4 supported, 2 contradicted"."""
    return ", ".join(f"{count} {word}" for word, count in words.items()) or "none"


IN_SENTENCES = {
    "supported": "{} {is_are} supported",
    "contradicted": "{} {is_are} contradicted",
    "depends": "{} {depend} on a choice",
    "undetermined": "{} {is_are} undetermined",
    "not comparable": "{} cannot be compared",
    "no number": "{} {has} no number",
}
"""By word of WORDS, how a sentence counts it."""


def said_of_many(words: Mapping[str, int]) -> str:
    """ "4 are supported, 1 is contradicted and 2 depend on a choice"."""
    parts = [IN_SENTENCES.get(word, "{} " + word).format(count, **_verbs(count)) for word, count in words.items()]
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]])) or "none has a word"


def _verbs(count: int) -> dict[str, str]:
    verbs = (("is_are", "is", "are"), ("depend", "depends", "depend"), ("has", "has", "have"))
    return {name: one if count == 1 else many for name, one, many in verbs}


def load(root: Path, titles: Mapping[str, str], order: Sequence[str]) -> Audit | None:
    """The audit's frames; None where the audit has not run. titles: by claim; order: of the questions."""
    if not all((root / f"{FOLDER}/{name}.parquet").exists() for name in FRAMES):
        return None
    rows, inferences = (records(read_frame(root, f"{FOLDER}/{name}.parquet")) for name in FRAMES[:2])
    inferences = [each for each in inferences if each["word"] != NO_NUMBER]
    tested = (root / JOINT).exists()
    joint = records(read_frame(root, JOINT)) if tested else []
    names = list(dict.fromkeys(str(row["claim"]) for row in rows))
    claims = [_claim(name, [row for row in rows if row["claim"] == name], titles) for name in names]
    rank = {question: place for place, question in enumerate(order)}
    claims.sort(key=lambda claim: (rank.get(claim.question, len(rank)), not claim.single))
    return Audit(tuple(claims), tuple(inferences), {str(each["claim"]): each for each in joint})


def _claim(name: str, rows: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> Claim:
    anchors = _anchors(name, [str(row["item"] or "") for row in rows])
    axes = {unit: axis([row for row in rows if row["unit"] == unit], unit) for unit in {row["unit"] for row in rows}}
    statements = tuple(
        Statement(anchor, readable(row), value_text(row), strip_of(row, axes[row["unit"]]))
        for anchor, row in zip(anchors, rows, strict=True)
    )
    over = [over_reference(row) for row in rows]
    unit = _commonest(str(row["unit"]) for row in over if not is_missing(row["value"]))
    drawn = [row for row in over if str(row["unit"]) == unit]
    ends = axis([{**row, "low": None, "high": None, "bar": None} for row in drawn], unit)
    return Claim(
        name=name,
        title=titles.get(name) or (capital(str(rows[0]["statement"])) if len(rows) == 1 else str(rows[0]["place"])),
        question=str(rows[0]["question"]),
        statements=statements,
        marks=() if len(rows) == 1 else marks_of(drawn, ends),
        ends=_end_texts(unit, ends),
        centred=ends[0] < 0,
        unit=_commonest(str(row["unit"]) for row in rows if not is_missing(row["value"])),
    )


def _commonest(values: Iterable[str]) -> str:
    """The value that comes most often; "" of none."""
    return next((value for value, _ in Counter(values).most_common(1)), "")


def _anchors(claim: str, items: Sequence[str]) -> list[str]:
    """An id for each statement: s-<claim>-<item>, with a number where two would be the same."""
    plain = [f"s-{slug(claim)}" + (f"-{slug(item)}" if item else "") for item in items]
    return [each if plain.count(each) == 1 else f"{each}-{place}" for place, each in enumerate(plain)]


def slug(text: str) -> str:
    """The text as a part of an id or of a CSS class."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def readable(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with spaces for underscores in what is read as prose; keys of other frames stay."""
    keys = ("claim", "fingerprint", "inference", "turns_on")
    return {
        name: value.replace("_", " ") if isinstance(value, str) and name not in keys else value
        for name, value in row.items()
    }


def capital(text: str) -> str:
    """The text with a capital in front."""
    return text[:1].upper() + text[1:]


def percent(share: float) -> str:
    """A share in per cent, where it is too small for that in words."""
    return f"{100 * share:.0f} %" if share >= 0.01 or share == 0 else "under 1 %"


def sentence(text: str) -> str:
    """The text with a capital and a full stop."""
    text = capital(text.strip())
    return text if not text or text[-1] in ".!?" else f"{text}."


def counted(words: Iterable[str]) -> dict[str, int]:
    """How many of each word, in the order of WORDS, without those that none has."""
    found = Counter(words)
    return {word: found[word] for word in WORDS if found[word]}


def value_text(row: Mapping[str, Any]) -> str:
    """A row's number with its interval: "+0.031 (95 % from −0.010 to +0.072)"; a count: "14 of 20"."""
    value, form = row["value"], FORMS.get(row["unit"], FORMATS["signed"])
    if is_missing(value):
        return ""
    if row["unit"] == COUNT:
        return f"{form(value)} of {form(row['n'])}" if not is_missing(row["n"]) else form(value)
    if is_missing(row["low"]) or is_missing(row["high"]):
        return form(value)
    level, _, method = str(row["interval"] or "").partition(", ")
    ends = f"from {form(row['low'])} to {form(row['high'])}"
    return f"{form(value)} ({f'{level} {ends}'.strip()}{method and f'; {method}'})"


def over_reference(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row with its numbers less the reference, so that tasks with other chance levels share one axis."""
    reference = row["reference"]
    if row["unit"] == COUNT or is_missing(reference) or not reference:
        return row
    less = {k: None if is_missing(row[k]) else row[k] - reference for k in ("value", "low", "high", "bar")}
    return {**row, **less, "reference": 0.0, "unit": OVER}


def axis(rows: Sequence[Mapping[str, Any]], unit: str) -> tuple[float, float]:
    """The ends of the axis on which these rows stand: fixed, 0 to n for counts, or as far on either side of 0."""
    if unit in FIXED_AXES:
        return FIXED_AXES[unit]
    names = ("value", "n", "reference") if unit == COUNT else ("value", "low", "high", "bar", "reference")
    far = max((abs(float(row[name])) for row in rows for name in names if not is_missing(row[name])), default=1.0)
    if unit == COUNT:
        return 0.0, far or 1.0
    end = next((step for step in STEPS if step >= far), float(math.ceil(far)))
    return -end, end


def _end_texts(unit: str, ends: tuple[float, float]) -> tuple[str, str]:
    plain = (unit in FIXED_AXES and ends[0] == 0) or unit == COUNT
    low, high = (f"{end:g}" if plain else f"{end:+g}".replace("-", "−") for end in ends)
    return low, high


def strip_of(row: Mapping[str, Any], ends: tuple[float, float]) -> Strip:
    """A row's number, interval, reference and content-free bar on an axis."""
    at, low, high, reference, bar = (
        None if is_missing(row[name]) else _place(float(row[name]), ends)
        for name in ("value", "low", "high", "reference", "bar")
    )
    form = FORMS.get(row["unit"], FORMATS["signed"])
    parts = [
        value_text(row) or "no number",
        "" if reference is None else f"no effect at {form(row['reference']) if row['reference'] else 0}",
        "" if bar is None else f"content-free answers at {form(row['bar'])}",
    ]
    return Strip(at, low, high, reference, bar, _end_texts(str(row["unit"]), ends), "; ".join(filter(None, parts)))


def _place(value: float, ends: tuple[float, float]) -> float:
    share = (value - ends[0]) / (ends[1] - ends[0])
    return round(EDGE + (100 - 2 * EDGE) * min(1.0, max(0.0, share)), 1)


def marks_of(rows: Sequence[Mapping[str, Any]], ends: tuple[float, float]) -> tuple[Mark, ...]:
    """A mark for each row that has a number; one that would cover another stands a lane higher."""
    marks: list[Mark] = []
    for row in sorted((row for row in rows if not is_missing(row["value"])), key=lambda row: float(row["value"])):
        at = _place(float(row["value"]), ends)
        taken = {mark.lane for mark in marks if at - mark.at < LANE_WIDTH}
        lane = next(lane for lane in range(len(marks) + 1) if lane not in taken)
        marks.append(
            Mark(at, lane, str(row["word"]), f"{row['item']}: {value_text(row)}, {row['word']}".replace("_", " "))
        )
    return tuple(marks)
