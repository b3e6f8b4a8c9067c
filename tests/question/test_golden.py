"""The prompts of 20 seeded examples a task, as sha256: a changed byte in a prompt is a changed experiment.

The hashes are in tests/question/golden_prompts.json, no text. After a wanted change, with its line in docs/log.md:
  python -m tests.question.test_golden
"""

import hashlib
import json
from pathlib import Path

import pytest

from src.base import conf
from src.base.schema import Condition
from src.question import examples, prompts

GOLDEN = Path(__file__).with_name("golden_prompts.json")
CONDITIONS = ("closed_zero", "closed_few", "closed_adv_zero", "closed_adv_few", "open_zero", "open_few")


def rendered(name: str) -> dict[str, str]:
    """sha256 over the prompts of a task's first 20 sampled examples, by condition."""
    shots, tests, _ = examples.load(name)
    task = conf.load_task(name)
    found = {}
    for condition in CONDITIONS:
        asked = prompts.ask(tests, shots, task, conf.load("condition", condition, Condition), limit=20)
        text = "\0".join(p.prefix + p.text + "\0".join(p.continuations) for p in asked)
        found[condition] = hashlib.sha256(text.encode()).hexdigest()
    return found


def prepared(name: str) -> bool:
    return (examples.TASKS / f"{name}.jsonl").exists()


@pytest.mark.parametrize("name", conf.known("task"))
def test_prompts_are_the_golden_ones(name):
    if not prepared(name):
        pytest.skip(f"{name} is not prepared here: its files come from a hub or from DATA_DIR")
    assert rendered(name) == json.loads(GOLDEN.read_text())[name]


def test_no_task_is_without_golden_prompts():
    assert sorted(json.loads(GOLDEN.read_text())) == conf.known("task")


if __name__ == "__main__":
    known = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    known |= {name: rendered(name) for name in conf.known("task") if prepared(name)}
    GOLDEN.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
