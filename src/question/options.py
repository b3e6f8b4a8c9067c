"""Wrong options for tasks whose file has none, drawn by a seed of the example alone."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Mapping

from src.question.readers import Row


def nearby_numbers(answer: str, material: str, count: int, rng: random.Random) -> list[str]:
    """Wrong numbers within 10 of the answer, as the published exemplars show them."""
    value = int(answer)
    near = [str(value + step) for step in range(-10, 11) if step]
    return rng.sample(near, count)


def numbers_in_text(answer: str, material: str, count: int, rng: random.Random) -> list[str]:
    """Wrong numbers that occur in the question or its worked solution; nearby ones where there are too few."""
    gold = answer.replace(",", "")
    seen = dict.fromkeys(n.replace(",", "") for n in re.findall(r"\d[\d,]*", material))
    known = [n for n in seen if n and n.lstrip("0") not in ("", gold)]
    drawn = rng.sample(known, min(count, len(known)))
    filler = (str(int(gold) + step) for step in range(1, 2 * count + 2))
    return [*drawn, *(n for n in filler if n not in drawn)][:count]


def words_in_list(answer: str, material: str, count: int, rng: random.Random) -> list[str]:
    """Wrong sets of as many words of the list, in alphabetical order, the first sharing a word with the answer."""
    gold = answer.split(", ")
    board = [w.strip() for w in re.split(r"following list: ", material)[1].split(".")[0].split(",")]
    others = [w for w in board if w not in gold]
    wrong: list[str] = []
    while len(wrong) < count:
        kept = [rng.choice(gold)] if len(gold) > 1 and not wrong else []
        words = ", ".join(sorted(kept + rng.sample(others, len(gold) - len(kept))))
        wrong += [words] if words not in wrong else []
    return wrong


CONSTRUCTIONS: Mapping[str, Callable[[str, str, int, random.Random], list[str]]] = {
    "nearby_numbers": nearby_numbers,
    "numbers_in_text": numbers_in_text,
    "words_in_list": words_in_list,
}


def constructed(row: Row, key: str, construct: str, count: int) -> Row:
    """The row with `count` options: its answer among wrong ones, in an order seeded by `key` alone.

    The authors' own wrong options for test items are not public; these follow what their exemplars show.
    """
    rng = random.Random(hashlib.sha256(key.encode()).digest())
    options = [row.answer, *CONSTRUCTIONS[construct](row.answer, row.material, count - 1, rng)]
    rng.shuffle(options)
    return Row(row.input, tuple(options), options.index(row.answer), row.answer)
