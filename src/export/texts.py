"""Whose text may go out: the rule that conf/source declares for each source of tasks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from src.base import conf
from src.base.errors import UserError
from src.base.files import LONE, ROOT
from src.base.schema import Task
from src.source.pins import SOURCES, Source, load_source

EXEMPLARS = "the few-shot examples are the paper's"
"""Why a prompt that has any stands as its hash, whoever owns the item behind them."""


@dataclass(frozen=True)
class Rule:
    """Whether the text of a task's items may go out, and why."""

    passed_on: bool
    why: str
    licence: str

    def text(self, text: str) -> str:
        """The text where it may go out, else its hash."""
        return text if self.passed_on else hashed(text)

    def prompt(self, prefix: str, text: str) -> str:
        """The whole prompt where it may go out, else its hash."""
        return text if self.passed_on and not prefix else hashed(prefix + text)

    @property
    def note(self) -> str:
        """What a record says of its texts."""
        what = f"as written (prompts with few-shot examples: sha256; {EXEMPLARS})" if self.passed_on else "sha256"
        return f"texts of items: {what}. {self.licence}: {self.why}"


def hashed(text: str) -> str:
    """`sha256:` and the sha256 of a text's UTF-8 bytes."""
    return f"sha256:{digest(text)}"


def digest(text: str) -> str:
    """The sha256 of a text's UTF-8 bytes, 64 hex digits."""
    return hashlib.sha256(text.encode("utf-8", LONE)).hexdigest()


def rule_of(task: str, root: Path = ROOT) -> tuple[Rule, Source]:
    """A task's rule, and where its items come from. Raises UserError where conf has no such task, or no rule for it."""
    name = conf.load("task", task, Task).source
    source = load_source(name, root)
    if source.text is None:
        raise UserError(
            f"{task}: {SOURCES}/{name}.yaml does not say whether its text may be passed on, so nothing of it is "
            "exported. Add a line there: text: {passed_on: false, why: <the reason>}"
        )
    return Rule(source.text.passed_on, source.text.why, source.licence), source
