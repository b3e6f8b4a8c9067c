"""Word-rhyme items made from the CMU pronouncing dictionary: a reconstruction, because the published are not public.

`python -m src.fetch rhyming` writes them (`write_items`). Each item is a word and five options, one of which rhymes
with it. The published exemplars set the pattern: words of 3 to 10 letters, a rhyme that is seldom spelt like the word,
and wrong options that begin like the word or like the answer. Two things that the exemplars show are not made here: a
homophone as the rhyme (hall, haul) and names (michelle, schmidt). Nothing is random. Every choice depends on the sha256
of its purpose.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from src.base.errors import UserError

N_ITEMS = 675  # the published count of evaluated items
LETTERS = re.compile(r"[a-z]{3,10}")
DOUBLED = re.compile(r"[^aeiou]*[aeiou][^aeiouwxy]")  # one syllable, one vowel, one consonant: stop, stopped
VOWEL = re.compile(r"[A-Z]+[012]")


@dataclass(frozen=True)
class Word:
    """A spelling and its only pronunciation."""

    text: str
    phonemes: tuple[str, ...]  # ARPAbet, vowels with a stress digit 0-2

    @cached_property
    def _nucleus(self) -> int:
        """Index of the last stressed vowel; of the last vowel where none is stressed."""
        vowels = [i for i, phoneme in enumerate(self.phonemes) if VOWEL.fullmatch(phoneme)]
        stressed = [i for i in vowels if self.phonemes[i][-1] != "0"]
        return (stressed or vowels or [0])[-1]

    @cached_property
    def rhyme(self) -> tuple[str, ...]:
        """Phonemes from the last stressed vowel on, without stress digits."""
        return tuple(phoneme.rstrip("012") for phoneme in self.phonemes[self._nucleus :])

    @cached_property
    def onset(self) -> tuple[str, ...]:
        """The consonants before the last stressed vowel."""
        before = self.phonemes[: self._nucleus]
        start = max((i + 1 for i, phoneme in enumerate(before) if VOWEL.fullmatch(phoneme)), default=0)
        return before[start:]


def read_dictionary(text: str) -> dict[str, Word]:
    """Spelling -> Word, for every entry of 3 to 10 plain letters with a single pronunciation.

    The dictionary marks a second pronunciation as `word(2)`.
    """
    entries = [line.partition("#")[0].split() for line in text.split("\n")]
    spoken: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for entry in filter(None, entries):
        spoken[entry[0].partition("(")[0]].append(tuple(entry[1:]))
    return {text: Word(text, ways[0]) for text, ways in spoken.items() if len(ways) == 1 and LETTERS.fullmatch(text)}


def inflections(text: str) -> tuple[str, str, str]:
    """The (past, -ing, -s) forms of a regular verb with this spelling."""
    if text.endswith("e"):
        return text + "d", text[:-1] + "ing", text + "s"
    if text.endswith("y") and text[-2] not in "aeiou":
        return text[:-1] + "ied", text + "ing", text[:-1] + "ies"
    stem = text + text[-1] if DOUBLED.fullmatch(text) else text
    return stem + "ed", stem + "ing", text + ("es" if text.endswith(("s", "x", "z", "ch", "sh")) else "s")


def ordinary(words: Iterable[str]) -> set[str]:
    """The words whose regular past and -ing forms are among `words`, and whose past form no other word could have.

    The dictionary is full of rare names and has no frequencies. Names have no such forms, except those that are spelt
    like a verb with a letter more or less (cooke, shipp). These are left out, and the verb with them.
    """
    known = set(words)
    past = {text: inflections(text)[0] for text in known if set(inflections(text)[:2]) <= known}
    claims = Counter(past.values())
    return {text for text, form in past.items() if claims[form] == 1}


def key(*parts: str) -> int:
    """A number that depends on `parts` alone."""
    return int.from_bytes(hashlib.sha256(":".join(parts).encode()).digest()[:8], "big")


def pick(pool: Sequence[Word], fits: Callable[[Word], bool], *purpose: str) -> Word | None:
    """The first word that fits. The search starts where the hash of the purpose points, and wraps around."""
    start = key(*purpose) % len(pool) if pool else 0
    return next(filter(fits, (*pool[start:], *pool[:start])), None)


def rhymes(one: Word, other: Word) -> bool:
    """Whether two words have the same phonemes from the last stressed vowel on, and different consonants before it.

    Homophones do not count as rhymes.
    """
    return one.rhyme == other.rhyme and one.onset != other.onset


@dataclass(frozen=True)
class Pools:
    """The words in alphabetical order, grouped by what an option must share with another."""

    words: tuple[Word, ...]

    @cached_property
    def by_rhyme(self) -> Mapping[tuple[str, ...], list[Word]]:
        """The words of each rhyme."""
        return _grouped(self.words, lambda word: word.rhyme)

    @cached_property
    def by_beginning(self) -> Mapping[str, list[Word]]:
        """The words of each pair of first letters."""
        return _grouped(self.words, lambda word: word.text[:2])


def _grouped(words: Iterable[Word], by: Callable[[Word], Any]) -> Mapping[Any, list[Word]]:
    groups: dict[Any, list[Word]] = defaultdict(list)
    for word in words:
        groups[by(word)].append(word)
    return groups


def answer_to(word: Word, pools: Pools) -> Word | None:
    """The rhyme of a word. It ends in other letters where one does, because most of the published exemplars do."""
    family = pools.by_rhyme.get(word.rhyme, [])

    def fits(other: Word) -> bool:
        return rhymes(word, other) and not other.text.endswith(word.text) and not word.text.endswith(other.text)

    unlike = [other for other in family if other.text[-2:] != word.text[-2:]]
    return pick(unlike, fits, word.text, "answer") or pick(family, fits, word.text, "answer")


def wrong_options(word: Word, answer: Word, pools: Pools) -> list[Word]:
    """Four words that do not rhyme with `word`: two that begin like it, one that begins like the answer, and any other.

    If no word begins like that, any other word is taken.
    """
    beginnings = (word.text[:2], word.text[:2], answer.text[:2], None)
    chosen: list[Word] = []

    def fits(other: Word) -> bool:
        return other.rhyme != word.rhyme and other not in (word, *chosen)

    for place, beginning in enumerate(beginnings):
        pool = pools.words if beginning is None else pools.by_beginning.get(beginning, [])
        purpose = (word.text, f"wrong {place}")
        wrong = pick(pool, fits, *purpose) or pick(pools.words, fits, *purpose)
        assert wrong is not None
        chosen.append(wrong)
    return chosen


def item(word: Word, answer: Word, pools: Pools) -> dict[str, Any]:
    """One row: the word, its five options in a hashed order, and the answer."""
    options = [answer.text, *(wrong.text for wrong in wrong_options(word, answer, pools))]
    return {
        "input": word.text,
        "options": sorted(options, key=lambda option: key(word.text, "order", option)),
        "answer": answer.text,
    }


def rhyming_items(dict_path: Path, exclude: Iterable[str] = (), count: int = N_ITEMS) -> list[dict[str, Any]]:
    """`count` items {input, options, answer} from a cmudict.dict. No input word occurs twice or in `exclude`.

    Raises UserError where the dictionary has too few words for it.
    """
    words = read_dictionary(dict_path.read_text(encoding="utf-8"))
    bases = ordinary(words)
    forms = {form for base in bases for form in inflections(base) if form in words}
    pools = Pools(tuple(words[text] for text in sorted(bases | forms)))
    inputs = sorted(bases - set(exclude), key=lambda text: key("input", text))
    pairs = ((words[text], answer_to(words[text], pools)) for text in inputs)
    answered = [(word, answer) for word, answer in pairs if answer is not None][:count]
    if len(answered) < count:
        raise UserError(
            f"{dict_path}: {len(answered)} words with a rhyme, {count} are needed. Is it the whole cmudict?"
        )
    return [item(word, answer, pools) for word, answer in answered]


def lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def published_exemplars(path: Path, task: str) -> list[dict[str, Any]]:
    """The exemplars of data/published/exemplars.json that a task shows, in prompt order."""
    return [dict(row) for row in json.loads(path.read_text(encoding="utf-8"))[task]["items"]]


def write_items(dictionary: Path, published: Path, name: str, folder: Path) -> None:
    """Write task.jsonl (the reconstructed items) and exemplars.jsonl (the published ones) into `folder`.

    name: the task's key in `published`. Raises UserError where the dictionary has too few words.
    """
    shots = published_exemplars(published, name)
    items = rhyming_items(dictionary, exclude=[row["input"] for row in shots])
    (folder / "exemplars.jsonl").write_text(lines(shots), encoding="utf-8")
    (folder / "task.jsonl").write_text(lines(items), encoding="utf-8")
