"""Wrong options for tasks whose file has none. They depend on the example alone, by a seed made of its id."""

from __future__ import annotations

import hashlib
import math
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
    """Wrong numbers out of the question and its worked solution, filled up with the numbers above the answer."""
    gold = answer.replace(",", "")
    mentioned = dict.fromkeys(number.replace(",", "") for number in re.findall(r"\d[\d,]*", material))
    wrong = [number for number in mentioned if number and number.lstrip("0") not in ("", gold)]
    sample = rng.sample(wrong, min(count, len(wrong)))
    larger = (str(int(gold) + step) for step in range(1, 2 * count + 2))
    return [*sample, *(number for number in larger if number not in sample)][:count]


def words_in_list(answer: str, material: str, count: int, rng: random.Random) -> list[str]:
    """Wrong sets of as many words of the list as the answer has, each in alphabetical order.

    The first one shares a word with an answer of several words.
    """
    gold = answer.split(", ")
    board = [word.strip() for word in re.split(r"following list: ", material)[1].split(".")[0].split(",")]
    others = [word for word in board if word not in gold]
    wrong: list[str] = []
    if math.comb(len(others), len(gold)) < count + len(gold):
        raise ValueError(f"its list has {len(board)} words, too few for {count} wrong sets of {len(gold)}")
    while len(wrong) < count:
        shared = [rng.choice(gold)] if len(gold) > 1 and not wrong else []
        words = ", ".join(sorted(shared + rng.sample(others, len(gold) - len(shared))))
        wrong += [words] if words not in wrong else []
    return wrong


CONSTRUCTIONS: Mapping[str, Callable[[str, str, int, random.Random], list[str]]] = {
    "nearby_numbers": nearby_numbers,
    "numbers_in_text": numbers_in_text,
    "words_in_list": words_in_list,
}
"""By `options.construct` of conf/task/<name>.yaml."""


def constructed(row: Row, key: str, construct: str, count: int) -> Row:
    """The row with `count` options: its answer and wrong ones. Their order depends on `key` alone.

    The authors' own wrong options for test items are not public. These follow the pattern of the published exemplars.
    """
    rng = random.Random(hashlib.sha256(key.encode()).digest())
    options = [row.answer, *CONSTRUCTIONS[construct](row.answer, row.material, count - 1, rng)]
    rng.shuffle(options)
    return Row(row.input, tuple(options), options.index(row.answer), row.answer)
