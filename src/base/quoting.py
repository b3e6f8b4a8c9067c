"""Paths on the command line. Hydra's grammar has no place for an umlaut, a bracket or an apostrophe outside quotes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from src.base.errors import UserError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

PATHS = ("out", "store", "data", "model.path", "tracking.uri", "engine.base_url")
"""The keys that take a path or an address."""


def quoted(value: str) -> str:
    """A value as Hydra reads it back, whatever its characters. A backslash is one of its own but before a quote."""
    inside = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value)
    return f"'{inside}'"


def with_quotes(word: str) -> str:
    """The word, with quotes around its value where that is a path and Hydra would not read it as text.

    What has a comma is left to Hydra, because it may be a sweep. So are null and what has quotes already.
    """
    key, equals, value = word.partition("=")
    if not equals or key.lstrip("+") not in PATHS or value.startswith(("'", '"')):
        return word
    return word if "," in value or _kept(word) else f"{key}={quoted(value)}"


def _kept(word: str) -> bool:
    """Whether Hydra reads a word as text or as null."""
    from hydra.errors import OverrideParseException

    try:
        override = parsed(word)
    except OverrideParseException:
        return False
    return not override.is_sweep_override() and (override.value() is None or isinstance(override.value(), str))


def parsed(word: str) -> Override:
    """A word as Hydra reads it. Raises OverrideParseException."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_overrides([word])[0]


def unread(word: str) -> UserError:
    """The error for a word that is no override."""
    key, equals, value = word.partition("=")
    if not (equals and key and value):
        return UserError(f"Cannot read '{word}'. Overrides look like limit=8 or +model=gpt2")
    shown = quoted(value).replace('"', '\\"')
    return UserError(
        f"Cannot read '{word}'. A value with other characters than letters, digits and / - _ . : % + @ goes into "
        f'quotes, and the word into the shell\'s: "{key}={shown}"'
    )
