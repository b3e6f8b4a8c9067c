"""Whose text may go out: the rule that conf/release/texts.yaml declares for each source of tasks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from src.base import conf
from src.base.errors import UserError
from src.base.files import LONE, ROOT
from src.base.frames import read_yaml
from src.base.schema import Task
from src.source.pins import Source, load_source

RULES = ROOT / "conf/release/texts.yaml"
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


def rule_of(task: str, rules: Path = RULES) -> tuple[Rule, Source]:
    """A task's rule, and where its items come from. Raises UserError where conf has no such task, or no rule for it."""
    name = conf.load("task", task, Task).source
    source, told = load_source(name, ROOT), read_yaml(rules) or {}
    where = f"conf/release/{rules.name}"
    if name not in told:
        raise UserError(
            f"{task}: {where} does not say whether text of its source {name} ({source.licence}) may be passed on, so "
            f"nothing of it is exported. Add it there, e.g. {name}: {{passed_on: false, why: <the reason>}}"
        )
    match told[name]:
        case {"passed_on": bool(passed_on), "why": str(why), **rest} if why.strip() and not rest:
            return Rule(passed_on, why, source.licence), source
    raise UserError(f"{where}: {name} needs passed_on (true or false) and why (the reason), and nothing else")
