"""The values that a setting takes, and the error for any other."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from string import Formatter
from typing import Any

from omegaconf import OmegaConf

from src.base.errors import UserError
from src.base.files import LONE
from src.base.metrics import ACCURACIES


def listed(key: str, value: Any) -> list[str]:
    """The value of a key that takes a list of distinct names. Raises UserError for any other value."""
    names = list(value) if OmegaConf.is_list(value) or isinstance(value, list) else []
    if not names or len(set(map(str, names))) != len(names):
        raise UserError(f"{key}={value}: {key} is a list of distinct names, e.g. {key}=[one,another]")
    return names


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


FORMATS = ("closed", "closed_adv", "open")
"""The prompt formats of the paper."""


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _says(*fields: str, needs: tuple[str, ...] = ()) -> Callable[[Any], bool]:
    """Whether a text to be filled in names these fields alone, and one of those that it needs."""

    def fits(value: Any) -> bool:
        try:
            named = {name for _, name, _, _ in Formatter().parse(str(value)) if name is not None}
        except ValueError:  # a lone brace
            return False
        return named <= {*fields} and (not needs or bool(named & {*needs}))

    return fits


VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "model.dtype": (lambda v: v in ("float32", "float16", "bfloat16"), "float32, float16 or bfloat16"),
    "model.parameters": (lambda v: _number(v) and v > 0, "the number of parameters, above 0, e.g. 1.1e+9"),
    "task.n_source": (lambda v: _whole(v) and v > 0, "a whole number of 1 or more: the examples in the file"),
    "task.n_published": (lambda v: _whole(v) and v > 0, "a whole number of 1 or more: the examples that are evaluated"),
    "task.exemplars": (
        lambda v: len({*v}) == len(v) and all(_whole(i) and i >= 0 for i in v), "distinct indices into the file, from 0"
    ),
    "task.exemplars_drawn": (lambda v: v is None or v > 0, "a whole number of 1 or more, or null for all"),
    "task.competence": (lambda v: v in ("formal", "functional"), "formal or functional"),
    "task.memorisable": (lambda v: 0 <= v <= 50, "a whole number from 0 to 50: so many of 50 examples"),
    "task.metric": (
        lambda v: {*v} <= {*FORMATS} and {*v.values()} <= {*ACCURACIES},
        f"a metric ({', '.join(ACCURACIES)}) by prompt format ({', '.join(FORMATS)})"
    ),
    "condition.template": (
        _says("input", "gap", "choices", needs=("input",)), "a text with {input}, and {gap} and {choices} where wanted"
    ),
    "condition.template_without_options": (
        _says("input", "gap", "choices", needs=("input",)), "a text with {input}, and with {gap} where wanted"
    ),
    "condition.choice": (_says("letter", "option"), "a text with {option}, {letter} or both"),
    "condition.answer": (
        _says("letter", "answer", needs=("letter", "answer")), "a text with {answer}, or with {letter} where lettered"
    ),
    "incomplete": (lambda v: v in ("fail", "report"), "fail (a gap ends the pipeline) or report (a gap is named)"),
    "alpha": (lambda v: _number(v) and 0 < v < 1, "a number between 0 and 1, e.g. 0.05"),
    "generation.temperature": (lambda v: _number(v) and v >= 0, "a number of 0 (greedy) or more"),
    "generation.top_k": (lambda v: isinstance(v, int) and v >= 1, "a whole number of 1 or more"),
    "generation.extra_tokens": (lambda v: isinstance(v, int) and v >= 0, "a whole number of 0 or more"),
    "engine.base_url": (
        lambda v: str(v).startswith(("http://", "https://")), "the server's address, e.g. http://127.0.0.1:8000/v1"
    ),
    "engine.concurrency": (lambda v: v >= 1, "a whole number of 1 or more"),
    "engine.retries": (lambda v: v >= 0, "a whole number of 0 or more"),
    "engine.timeout_s": (lambda v: v > 0, "seconds, more than 0"),
    "engine.calls_per_minute": (lambda v: v is None or v > 0, "a number above 0, or null for no limit"),
    "engine.tokens_per_minute": (lambda v: v is None or v > 0, "a number above 0, or null for no limit"),
    "engine.agree_nats": (lambda v: _number(v) and v > 0, "nats, a number above 0, e.g. 0.25"),
    "engine.compare": (lambda v: isinstance(v, int) and v >= 0, "prompts, a whole number of 0 or more"),
    "engine.compare_nats": (
        lambda v: v is None or (_number(v) and v > 0), "nats a token, a number above 0, e.g. 0.001, or null"
    ),
    "engine.compare_gb": (lambda v: _number(v) and v > 0, "gigabytes, a number above 0"),
    "engine.max_cost_usd": (lambda v: v is None or v > 0, "US dollars, more than 0, or null for no limit"),
}  # fmt: skip
"""For each key, whether it takes a value, and the values that it takes in words."""


def suits(key: str, value: Any, where: str = "") -> None:
    """Raises UserError where the key does not take the value, by VALUES. where: the YAML that says it."""
    allowed, words = VALUES[key]
    if not allowed(value):
        said = f"{where}: " if where.endswith(".yaml") else ""
        raise UserError(f"{said}{key}={value}: {key} is {words}")


def positive(key: str, value: Any) -> int | None:
    """The value of a key that takes a whole number of 1 or more, or None. Raises UserError for any other value."""
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{key}={value}: {key} is a whole number of 1 or more, or null for no bound")
    return value


def part(shard: Any, shards: Any, cells: int) -> tuple[int, int]:
    """(shard, number of shards). Raises UserError where there is no such shard, or fewer cells than shards."""
    count = positive("shards", shards) or 1
    if not isinstance(shard, int) or isinstance(shard, bool) or not 0 <= shard < count:
        raise UserError(f"shard={shard}: with shards={count}, shard is a whole number from 0 to {count - 1}")
    if count > max(cells, 1):
        raise UserError(f"shards={count}: this grid has {cells} cells, so at most {cells} shards")
    return shard, count


def hours(value: Any) -> float | None:
    """The value of time_limit_h: a number of hours above 0, or None. Raises UserError for any other value."""
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise UserError(f"time_limit_h={value}: hours, a number above 0 (0.5 is half an hour), or null for no limit")
    return float(value)


def distinct(value: Any) -> tuple[int, ...]:
    """The seeds of a value that is one or a list. Raises UserError where they are not distinct and 0 or more."""
    seeds = tuple(value) if OmegaConf.is_list(value) or isinstance(value, list) else (value,)
    if not seeds or len(set(seeds)) != len(seeds) or not all(type(s) is int and 0 <= s < 2**63 for s in seeds):
        raise UserError(
            f"seeds={list(seeds)}: seeds are distinct whole numbers of 0 or more (below 2**63), "
            "e.g. seeds=[2266,105,86379]"
        )
    return seeds


def digest(value: Any) -> str:
    """The sha256 of a value's canonical JSON, in hex."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", LONE)).hexdigest()
