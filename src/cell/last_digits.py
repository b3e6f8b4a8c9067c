"""Whether two text files differ in more than the last digits of their numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from src.engine.local import NEAR_TIE

LAST_DIGITS = "last digits"
"""The note on a file that differs in nothing else."""
NUMBER = re.compile(  # a sign, digits, an exponent with a sign; beside a letter or a second point they are text
    r"(?<![\w.])(?:[-+−]|\$-\$)?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+][0-9]{1,3})?(?!\.?\w)"
)

ZERO = {"0", "-0", "+0"}
RELATIVE, ABSOLUTE = 1e-4, 1e-9  # numbers closer than this are the same: the rest is order of summation
UNIT = 1e-3  # one unit of the last digit is rounding where it is no more than this, of one or of the number
EXACT, ROUNDED = {".csv", ".json"}, {".html", ".md", ".svg", ".tex"}  # as computed; rounded to be read
MARGINS = re.compile(r'<table[^>]* id="near_ties".*?</table>', re.DOTALL)  # on the page


def file_difference(path: str, before: bytes, after: bytes, margins: bool = False) -> str:
    """The first difference of two files that is more than last digits; empty where there is none.

    margins: those in the table of near-ties are the same where both are below NEAR_TIE.
    """
    suffix, whole = Path(path).suffix, Path(path).stem == "near_ties"
    if before == after or suffix not in EXACT | ROUNDED:
        return "" if before == after else "other bytes"
    try:
        texts = before.decode(), after.decode()
    except UnicodeDecodeError:
        return "other bytes"
    spans = [(0, len(texts[0]))] if whole else [table.span() for table in MARGINS.finditer(texts[0])]
    return difference(*texts, suffix in ROUNDED, spans if margins else ())


def difference(before: str, after: str, rounded: bool = False, margins: Sequence[tuple[int, int]] = ()) -> str:
    """The first difference of two texts, with its line: between the numbers any, of a number see `same_number`.

    margins: (start, end) of the parts of `before` whose numbers are margins of near-ties.
    """
    pairs = zip(NUMBER.finditer(before), NUMBER.finditer(after), strict=False)
    at = (0, 0)
    for a, b in pairs:
        if before[at[0] : a.start()] != after[at[1] : b.start()]:
            break
        near = any(start <= a.start() < end for start, end in margins)
        if not (same_number(a[0], b[0], rounded) or (near and same_margin(a[0], b[0]))):
            return f"line {_line(before, a.start())}: {a[0]} -> {b[0]}"
        at = a.end(), b.end()
    rest = before[at[0] :], after[at[1] :]
    if rest[0] == rest[1]:
        return ""
    same = next((i for i, (a, b) in enumerate(zip(*rest, strict=False)) if a != b), min(map(len, rest)))
    return f"line {_line(before, at[0] + same)}: another text"


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def same_number(before: str, after: str, rounded: bool = False) -> bool:
    """Whether two matches of NUMBER are one number: whole ones as text, others within RELATIVE or ABSOLUTE.

    rounded: also where they are one unit of the last digit apart, if that is no more than UNIT.
    """
    if before == after or {before, after} <= ZERO:
        return True
    pair = [Decimal(text.replace("$-$", "-").replace("−", "-")) for text in (before, after)]
    (a, b), exponents = map(float, pair), [int(each.as_tuple().exponent) for each in pair]
    if exponents == [0, 0] or not math.isfinite(a - b):
        return False
    gap, size, unit = abs(a - b), max(abs(a), abs(b)), float(f"1e{min(exponents)}")
    as_printed = rounded and unit <= UNIT * max(1, size) and gap <= 1.000001 * unit
    return as_printed or gap <= max(RELATIVE * size, ABSOLUTE)


def same_margin(before: str, after: str) -> bool:
    """Whether both are margins of near-ties: below NEAR_TIE they are of the size of the rounding itself."""
    return all(0 <= float(text.replace("$-$", "-").replace("−", "-")) < NEAR_TIE for text in (before, after))
