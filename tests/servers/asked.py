"""The same questions to the local engine and to a server, and what they said."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from src import run
from src.base import conf, grid
from src.base.files import ROOT
from src.cell.file import cell_files, digests, read_cell
from src.cell.store import Store
from src.engine.job import Request
from src.engine.start import engine_of
from src.question.prompts import Prompt
from tests.servers.started import Started

TASKS = ("social_iqa", "implicatures")
LIMIT = 4
TEXT = "The best thing about a long walk in the"


def execute(place: Path, out: str, *more: str) -> int:
    """`python -m src.run` on five-shot prompts of two tasks, greedily, with a store of its own named by `out`."""
    words = [
        "+model=smollm2_135m_instruct", f"tasks=[{','.join(TASKS)}]", "conditions=[closed_few]", f"limit={LIMIT}",
        "seeds=[2266]", f"data='{ROOT / 'data/tasks'}'", f"store='{place / 'stores' / out}'",
        f"out='{place / 'outputs' / out / 'm'}'", "tracking.enabled=false", "generation.temperature=0", *more,
    ]  # fmt: skip
    grid.register()
    with initialize_config_dir(str(conf.CONF), version_base="1.3"):
        return run.execute(compose("config", overrides=words))


@dataclass(frozen=True)
class Answered:
    """What a folder of cells holds."""

    sha256: dict[str, str]  # by cell: of all its completions
    texts: dict[tuple[str, str], str]
    logprobs: dict[tuple[str, str], tuple[float, ...]]


def answered(place: Path, out: str) -> Answered:
    """The cells that `execute` wrote."""
    sha256, texts, logprobs = {}, {}, {}
    for path in cell_files(place / "outputs" / out):
        head, answers = read_cell(path)
        sha256[head.task] = digests(answers)[1]
        for each in answers:
            texts[head.task, each.prompt.id] = each.completions[2266].text
            if each.likelihood:
                logprobs[head.task, each.prompt.id] = each.likelihood.logprob
    return Answered(sha256, texts, logprobs)


def furthest(one: Answered, other: Answered) -> float:
    """The largest difference of two log-likelihoods, in nats."""
    assert one.logprobs.keys() == other.logprobs.keys()
    pairs = [(a, b) for key in one.logprobs for a, b in zip(one.logprobs[key], other.logprobs[key], strict=True)]
    return max(abs(a - b) for a, b in pairs)


def killed_after(answers: int, store: Path, running: Started) -> None:
    """Kill the server as soon as so many answers are stored, from a thread."""

    def kill() -> None:
        while not store.exists() or len(Store(store)) < answers:
            time.sleep(0.05)
        running.kill()

    threading.Thread(target=kill, daemon=True).start()


# ---- Sampling


def openers() -> list[Prompt]:
    """Prompts behind which many tokens are likely."""
    ends = ("morning is", "forest is", "rain, she said, was")
    return [Prompt(f"o/{i}", "g", "", f"{TEXT} {end}", (), (), 0, "x") for i, end in enumerate(ends)]


def exact(folder: Path, prompts: list[Prompt], temperature: float, top_k: int) -> list[dict[str, float]]:
    """The probability of each first token, by its text, by a plain forward pass in double precision."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    found = []
    for prompt in prompts:
        with torch.inference_mode():
            logits = model(tokenizer(prompt.text, return_tensors="pt")["input_ids"]).logits[0, -1].double()
        best = torch.topk(logits, top_k)
        chances = (best.values / temperature).softmax(-1).tolist()
        texts = [tokenizer.decode([i]) for i in best.indices.tolist()]
        assert len(set(texts)) == top_k
        found.append(dict(zip(texts, chances, strict=True)))
    return found


def draws(place: Path, *words: str, prompts: list[Prompt], n: int) -> list[Counter[str]]:
    """The first tokens of n seeds of each prompt, from the engine of these words."""
    engine: Any = engine_of(
        grid.composed_run(["+model=smollm2_135m_instruct", f"store='{place / 'stores/draws'}'", *words])
    )
    engine.budget = lambda prompt: 1
    counts: dict[str, Counter[str]] = {prompt.id: Counter() for prompt in prompts}
    for batch in engine.run([Request(prompt, tuple(range(n)), False) for prompt in prompts]):
        for result in batch:
            counts[result.prompt_id].update(one.text for one in result.completions.values())
    return [counts[prompt.id] for prompt in prompts]


def p_values(counts: list[Counter[str]], chances: list[dict[str, float]]) -> list[float]:
    """Pearson's chi-square of each prompt, tokens pooled until 5 are expected. A token that cannot be gives 0."""
    from scipy.stats import chisquare

    found = []
    for drawn, chance in zip(counts, chances, strict=True):
        n = sum(drawn.values())
        if set(drawn) - set(chance):
            found.append(0.0)
            continue
        seen, expected = [0.0], [0.0]
        for token, p in sorted(chance.items(), key=lambda each: -each[1]):
            if expected[-1] >= 5:
                seen.append(0.0)
                expected.append(0.0)
            seen[-1] += drawn[token]
            expected[-1] += n * p
        if expected[-1] < 5 and len(expected) > 1:
            last_seen, last_expected = seen.pop(), expected.pop()
            seen[-1] += last_seen
            expected[-1] += last_expected
        found.append(float(chisquare(seen, expected).pvalue))
    return found


def holm(values: list[float]) -> float:
    """The smallest p-value, times their number: below alpha, Holm's rule rejects one of them."""
    return min(1.0, min(values) * len(values)) if values else math.nan
