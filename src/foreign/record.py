"""What a log of another program says of one answer: one frozen type, whatever the format."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One model's answer to one item, as one metric of one file judges it."""

    model: str
    task: str
    item: str  # the item's id in its file
    name: str = ""  # another id that the file gives it; it decides only between items of ours that are alike
    metric: str  # as the file names it; with the filter behind a comma where there is one
    score: float  # NaN where the file says what was picked, and not what is right
    text: str = ""  # the question; "" where the file does not hold it
    content: str = ""  # a hash of the whole item, of the format's own making; "" where there is none
    options: tuple[str, ...] = ()  # in the order of the file
    target: int | None = None  # index of the gold option
    pick: int | None = None  # index of the option that the score is of
    pick_text: str = ""  # that option's text, where the file says this and no index
    picked_known: bool = False  # whether the file says what was picked; then a pick of None is an unparsed answer
    prompt: str = ""  # the name of the prompt or its format
    shots: int | None = None
    repeat: str = ""  # seed or epoch, where an item was asked several times
    group: str = ""  # items that share this are one cluster; "" where each stands alone

    @property
    def setting(self) -> str:
        """How the task was put to the model, in words."""
        shots = "" if self.shots is None else f"{self.shots}-shot"
        return ", ".join(part for part in (self.prompt, shots) if part)


def shown_text(text: str) -> str:
    """The text; "" where only a hash of it is known."""
    return "" if HASHED.fullmatch(text) or KEYED.fullmatch(text) else text


@dataclass(frozen=True)
class Fields:
    """The names that a user gives to what a format has no fixed name for."""

    text: str | None = None  # the field of an item that holds its question
    group: str | None = None  # the field whose equal values make a cluster
    model: str | None = None  # the model, where the file does not say which


HASHED = re.compile(r"sha256:[0-9a-f]{64}")
"""A text of which its owner gives only the hash: the sha256 of its UTF-8 bytes."""
KEYED = re.compile(r"key:([0-9a-f]{16,64})")
"""A text of which only its text_key was kept, or the beginning of this."""


def exact_key(text: str) -> str:
    """What stands for a text of which only the sha256 is given."""
    return f"sha256:{hashlib.sha256(text.encode('utf-8', 'backslashreplace')).hexdigest()}"


def text_key(text: str) -> str:
    """The hash by which two texts are the same question: letter case, blanks and forms of a character do not count.

    A text of which only a hash is known stands for this.
    """
    if HASHED.fullmatch(text):
        return text
    if kept := KEYED.fullmatch(text):
        return kept[1]
    normal = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return hashlib.sha256(normal.encode("utf-8", "backslashreplace")).hexdigest() if normal else ""


def options_key(options: Sequence[str]) -> str:
    """The hash of a set of options, whatever their order. "" without options."""
    return "+".join(sorted(text_key(each)[:16] for each in options))
