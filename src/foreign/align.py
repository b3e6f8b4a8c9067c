"""Which item of one side is which of the other: by content, by text, by id. What cannot be told is left unmatched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from src.foreign.record import Record, options_key, text_key


@dataclass(frozen=True, slots=True)
class Item:
    """One item as one side has it."""

    id: str
    score: float  # mean over repeats
    repeats: int
    content: str  # see Record
    text: str  # text_key of its question; "" unknown
    options: str  # options_key; "" unknown
    group: str
    first: Record


def items_of(records: Sequence[Record]) -> list[Item]:
    """One Item for each id, in the order of the file. records: of one task, setting and metric."""
    by_id: dict[str, list[Record]] = {}
    for each in records:
        by_id.setdefault(each.item, []).append(each)
    return [_item(name, many) for name, many in by_id.items()]


def _item(name: str, records: Sequence[Record]) -> Item:
    first = records[0]
    options = options_of(first.options)
    score = fmean(each.score for each in records)
    return Item(name, score, len(records), first.content, text_key(first.text), options, first.group, first)


def options_of(options: Sequence[str]) -> str:
    """The options_key of options whose texts are known; "" where they are not."""
    return options_key(options) if any(options) else ""


@dataclass(frozen=True)
class Aligned:
    """The pairs of two sides, and what has no partner."""

    by: str  # a key of WAYS
    pairs: tuple[tuple[Item, Item], ...]
    only_a: tuple[Item, ...]
    only_b: tuple[Item, ...]
    unclear: int  # items of either side that more than one of the other could be; they are among only_a and only_b


CONTENT, TEXT, ID = "content", "text", "id"
WAYS: Mapping[str, Callable[[Item], Hashable]] = {
    CONTENT: lambda item: item.content or None,
    TEXT: lambda item: item.text or None,
    ID: lambda item: item.id,
}
"""How items are known again, surest first. An item without the key is known by none of the later ones."""


def align(a: Sequence[Item], b: Sequence[Item], by: str | None = None) -> Aligned:
    """The pairs by the first of WAYS that both sides have throughout and that pairs anything; by: this way alone.

    Where both sides hold the items' content or text, equal ids alone make no pair: they may number other items.
    """
    if by:
        return matched(a, b, by)
    ways = [way for way in (CONTENT, TEXT) if all(WAYS[way](item) is not None for item in (*a, *b))]
    for way in ways or [ID]:
        found = matched(a, b, way)
        if found.pairs:
            return found
    return found


def matched(a: Sequence[Item], b: Sequence[Item], by: str) -> Aligned:
    """The pairs by one way. Items of one side that share a key are told apart by their id, or are unclear."""
    key = WAYS[by]
    counts = [Counter(map(key, side)) for side in (a, b)]
    several = {each for count in counts for each, n in count.items() if n > 1}

    def full(item: Item) -> Hashable:
        return (key(item), item.id) if key(item) in several else key(item)

    beside = {full(item): item for item in b if key(item) is not None}
    pairs = tuple(
        (item, other)
        for item in a
        if key(item) is not None and (other := beside.get(full(item))) and _fits(item, other, by)
    )
    left, right = {id(x) for x, _ in pairs}, {id(y) for _, y in pairs}
    only_a, only_b = (tuple(i for i in side if id(i) not in used) for side, used in ((a, left), (b, right)))
    shared = several & set(counts[0]) & set(counts[1])
    return Aligned(by, pairs, only_a, only_b, sum(key(item) in shared for item in (*only_a, *only_b)))


def _fits(a: Item, b: Item, by: str) -> bool:
    """Whether two items of one text are one: where both have options, these are the same."""
    return by != TEXT or not (a.options and b.options) or a.options == b.options
