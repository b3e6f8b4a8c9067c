"""The formats that an archive can hold beside its own files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from src.base.errors import suggest
from src.export import croissant, every_eval_ever, lm_eval
from src.export.parts import Exported

ALL = "all"


@dataclass(frozen=True)
class Format:
    """How one format is written."""

    words: str  # what a reader calls it
    write: Callable[[Exported, Mapping[str, bytes]], dict[str, bytes]]  # (cells, files so far) -> files, by path


FORMATS: Mapping[str, Format] = {
    "every_eval_ever": Format(f"Every Eval Ever {every_eval_ever.SCHEMA}", every_eval_ever.write),
    "lm_eval": Format(f"samples of lm-evaluation-harness {lm_eval.VERSION}", lm_eval.write),
    "croissant": Format("Croissant 1.1 with responsible-AI fields", croissant.write),
}
"""To add a format, write a file with `write` and name it here. Croissant is last: it describes the others' files."""


def chosen(words: Sequence[str]) -> list[str]:
    """The formats of --format, once each, in the order of FORMATS. A word may be `all` or several with commas.

    Raises UserError for an unknown name.
    """
    names = {name for word in words for name in word.split(",") if name}
    for name in sorted(names):
        if name not in {*FORMATS, ALL}:
            raise suggest("format", name, [*FORMATS, ALL], "RO-Crate 1.3 is in every archive")
    return [name for name in FORMATS if {name, ALL} & names]


def written(names: Sequence[str], exported: Exported, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files of these formats, by path. files: those that the archive has already."""
    made: dict[str, bytes] = {}
    for name in names:
        made |= FORMATS[name].write(exported, {**files, **made})
    return made
