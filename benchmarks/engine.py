"""The engine beside lm-evaluation-harness, plain `generate` and CTranslate2: turn about, one process, real prompts.

    make bench                       (64 examples, 3 repeats: two hours on two cores)
    make bench BENCH="--examples 32"

Same weights in float32, same prompts (closed), same 16 new tokens. `seeds3` of the others is three times their pass of
the same repeat: they compute each seed anew. The limit is tokens computed here x 2 x parameters outside the embedding
/ the rate of a matrix product timed in the same repeat. Writes reports/benchmarks/engine.json and engine.md.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch

from src.base import conf
from src.base.files import ROOT
from src.base.schema import Compat, Condition, Generation, Model
from src.engine.job import Request
from src.engine.local import LocalEngine
from src.question import prompts
from src.question.examples import load
from src.question.prompts import Prompt
from src.source import weights

MODEL = "smollm2_135m_instruct"
TASKS = ("social_iqa", "physical_intuition", "logical_deduction")
NEW_TOKENS, BATCH = 16, 16
SEEDS = (2266, 105, 86379)
OUT = ROOT / "reports/benchmarks"


class SixteenTokens(LocalEngine):
    """The engine with one budget for all prompts, as the others have it."""

    def budget(self, prompt: Prompt) -> int:
        """16 new tokens."""
        return NEW_TOKENS


@dataclass
class Timed:
    """One call: seconds, megabytes it took beyond what was resident before (weights of all sides), what it returned."""

    seconds: float
    peak_mb: float
    result: Any


def timed(work: Callable[[], Any]) -> Timed:
    """Run `work`; memory is read twenty times a second beside it."""
    process, over = psutil.Process(), threading.Event()
    before = process.memory_info().rss
    peak = [before]

    def watch() -> None:
        while not over.wait(0.05):
            peak[0] = max(peak[0], process.memory_info().rss)

    beside = threading.Thread(target=watch)
    beside.start()
    started = time.perf_counter()
    try:
        result = work()
    finally:
        seconds = time.perf_counter() - started
        over.set()
        beside.join()
    return Timed(seconds, (peak[0] - before) / 1e6, result)


@dataclass
class Ours:
    """This engine, one for each decoding; weights shared by neither, loaded before the clock starts."""

    folder: Path
    engines: dict[float, SixteenTokens] = field(default_factory=dict)

    def engine(self, temperature: float) -> SixteenTokens:
        """Loaded."""
        if temperature not in self.engines:
            made = SixteenTokens(
                self.folder, "bench", conf.load("model", MODEL, Model),
                Generation(temperature=temperature), conf.load("compat", "fixed", Compat),
            )  # fmt: skip
            made.choice.load = functools.cache(made.choice.load)
            made.choice.load()
            self.engines[temperature] = made
        return self.engines[temperature]

    def prove(self, asked: Sequence[Prompt]) -> None:
        """Prove the way in which these are run, which a run does once a model, before the clock starts."""
        for temperature in (0.0, 0.01):
            engine = self.engine(temperature)
            engine.choice.ready([engine.job(prompt, SEEDS, True) for prompt in asked])

    def run(self, asked: Sequence[Prompt], temperature: float, seeds: tuple[int, ...], likelihood: bool) -> Any:
        """(results by prompt id, tokens computed)."""
        engine = self.engine(temperature)
        way: Any = engine.choice.way
        if way is not None:  # it keeps the prefix of the last cell; every workload pays its own
            way.prefix, way.prefix_kv = (), []
        before = engine.tokens
        batches = engine.run([Request(prompt, seeds, likelihood) for prompt in asked])
        results = {result.prompt_id: result for batch in batches for result in batch}
        return results, engine.tokens - before


@dataclass
class Harness:
    """lm-evaluation-harness's own model class."""

    model: Any

    @staticmethod
    def instance(kind: str, *arguments: Any) -> Any:
        """A request as its tasks make them."""
        from lm_eval.api.instance import Instance

        return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)

    def greedy(self, asked: Sequence[Prompt]) -> list[str]:
        """Texts, in the order asked."""
        how = {"until": ["<|im_end|>"], "max_gen_toks": NEW_TOKENS, "do_sample": False}
        requests = [self.instance("generate_until", p.prefix + p.text, dict(how)) for p in asked]
        return list(self.model.generate_until(requests, disable_tqdm=True))

    def likelihood(self, asked: Sequence[Prompt]) -> list[list[float]]:
        """Log-likelihood of each option of each prompt."""
        pairs = [(p.prefix + p.text, c) for p in asked for c in p.continuations]
        found = iter(
            self.model.loglikelihood([self.instance("loglikelihood", *pair) for pair in pairs], disable_tqdm=True)
        )
        return [[next(found)[0] for _ in p.continuations] for p in asked]


def generated(model: Any, tokenizer: Any, asked: Sequence[Prompt]) -> list[str]:
    """Plain `model.generate`, left-padded batches of 16, as the paper's code does it."""
    texts: list[str] = []
    for start in range(0, len(asked), BATCH):
        batch = [p.prefix + p.text for p in asked[start : start + BATCH]]
        inputs = tokenizer(batch, return_tensors="pt", padding=True)
        with torch.inference_mode():
            out = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
        texts += tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


@dataclass
class CTranslate2:
    """CTranslate2 in float32 with the few-shot prefix as its `static_prompt`, which it caches."""

    generator: Any
    tokenizer: Any

    @classmethod
    def load(cls, folder: Path, scratch: Path, tokenizer: Any) -> CTranslate2:
        """Convert and load."""
        import ctranslate2
        from ctranslate2.converters import TransformersConverter

        TransformersConverter(str(folder)).convert(str(scratch / "ct2"))
        threads = torch.get_num_threads()
        return cls(ctranslate2.Generator(str(scratch / "ct2"), device="cpu", intra_threads=threads), tokenizer)

    def greedy(self, asked: Sequence[Prompt]) -> list[str]:
        """Texts, in the order asked."""
        words = [self.tokenizer.convert_ids_to_tokens(self.tokenizer(p.prefix + p.text)["input_ids"]) for p in asked]
        least, most = min(words), max(words)
        shared = next((i for i, (a, b) in enumerate(zip(least, most, strict=False)) if a != b), len(least) - 1)
        found = self.generator.generate_batch(
            [w[shared:] for w in words], static_prompt=words[0][:shared] or None, max_batch_size=BATCH,
            max_length=NEW_TOKENS, include_prompt_in_result=False, sampling_topk=1, end_token="<|im_end|>",
        )  # fmt: skip
        return [self.tokenizer.decode(each.sequences_ids[0], skip_special_tokens=True) for each in found]


def gemm_rate() -> float:
    """Floating point operations a second of a float32 product of this model's shape."""
    a, b = torch.randn(384, 576), torch.randn(576, 1536)
    for _ in range(50):
        a @ b
    started = time.perf_counter()
    for _ in range(1000):
        a @ b
    return 1000 * 2 * 384 * 576 * 1536 / (time.perf_counter() - started)


def cell(task: str, few: bool, examples: int) -> list[Prompt]:
    """The first prompts of a closed cell."""
    shots, tests, _ = load(task)
    condition = conf.load("condition", f"closed_{'few' if few else 'zero'}", Condition)
    return prompts.ask(tests, shots, conf.load_task(task), condition, examples)


def parameters(model: Any) -> int:
    """Parameters that every token meets: all but the embedding."""
    return sum(p.numel() for name, p in model.named_parameters() if "embed" not in name and "lm_head" not in name)


def compare(task: str, few: bool, sides: dict[str, Any], examples: int, repeats: int) -> list[dict[str, Any]]:
    """Rows of one cell: every workload against every other side, `repeats` times turn about."""
    asked = cell(task, few, examples)
    ours, harness, model, tokenizer = sides["ours"], sides["lm_eval"], sides["generate"], sides["tokenizer"]
    took: dict[tuple[str, str], list[float]] = {}
    peaks: dict[str, float] = {}
    tokens: dict[str, int] = {}
    shares: dict[str, list[float]] = {}
    equal: dict[tuple[str, str], int] = {}
    ours.prove(asked)
    for _ in range(repeats):
        rate = gemm_rate()
        mine = {
            "greedy": timed(lambda: ours.run(asked, 0.0, SEEDS[:1], False)),
            "seeds3": timed(lambda: ours.run(asked, 0.01, SEEDS, False)),
            "likelihood": timed(lambda: ours.run(asked, 0.0, (), True)),
        }
        theirs = {
            ("greedy", "lm_eval"): timed(lambda: harness.greedy(asked)),
            ("greedy", "generate"): timed(lambda: generated(model, tokenizer, asked)),
            ("greedy", "ctranslate2"): timed(lambda: sides["ctranslate2"].greedy(asked)),
            ("likelihood", "lm_eval"): timed(lambda: harness.likelihood(asked)),
        }
        for workload, one in mine.items():
            took.setdefault((workload, "ours"), []).append(one.seconds)
            peaks[workload] = max(peaks.get(workload, 0), one.peak_mb)
            tokens[workload] = one.result[1]
            shares.setdefault(workload, []).append(one.result[1] * 2 * sides["parameters"] / rate / one.seconds)
        said = [next(iter(mine["greedy"].result[0][p.id].completions.values())).text for p in asked]
        for (workload, against), other in theirs.items():
            took.setdefault((workload, against), []).append(other.seconds)
            if workload == "greedy":
                took.setdefault(("seeds3", against), []).append(3 * other.seconds)
                equal[workload, against] = sum(a == b for a, b in zip(said, other.result, strict=True))
            else:
                scored = [mine["likelihood"].result[0][p.id].likelihood.logprob for p in asked]
                pairs = [pair for a, b in zip(scored, other.result, strict=True) for pair in zip(a, b, strict=True)]
                equal[workload, against] = sum(abs(a - b) <= 1e-4 * abs(b) for a, b in pairs)
    rows = []
    for (workload, against), seconds in took.items():
        if against == "ours":
            continue
        mine_took = took[workload, "ours"]
        ratios = [b / a for a, b in zip(mine_took, seconds, strict=True)]
        shots = len(load(task)[0]) if few else 0
        rows.append(
            {
                "task": task, "shots": shots, "workload": workload, "against": against, "examples": len(asked),
                "seconds_ours": round(statistics.median(mine_took), 2),
                "seconds_theirs": round(statistics.median(seconds), 2),
                "ratio_median": round(statistics.median(ratios), 2), "ratio_min": round(min(ratios), 2),
                "ratio_max": round(max(ratios), 2), "tokens_computed": tokens[workload],
                "limit_share": round(statistics.median(shares[workload]), 2), "peak_mb": round(peaks[workload]),
                "same": equal.get((workload, against)),
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def table(found: dict[str, Any]) -> str:
    """The rows as Markdown."""
    head = (
        "task",
        "shots",
        "workload",
        "against",
        "seconds, here",
        "seconds, there",
        "ratio (least to most)",
        "share of the limit",
    )
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for row in found["rows"]:
        ratio = f"{row['ratio_median']:.1f} ({row['ratio_min']:.1f} to {row['ratio_max']:.1f})"
        cells = (row["task"], row["shots"], row["workload"], row["against"], f"{row['seconds_ours']:.1f}",
                 f"{row['seconds_theirs']:.1f}", ratio, f"{row['limit_share']:.2f}")  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def machine() -> dict[str, Any]:
    """What it ran on: no host name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":")[1].strip() for line in lines if "model name" in line), "?")
    return {"cpu": name, "threads": torch.get_num_threads(), "torch": torch.__version__.split("+")[0]}


def main() -> None:
    """Take turns, write after each cell."""
    import transformers
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--shots", nargs="+", default=("few", "zero"), choices=("few", "zero"))
    parser.add_argument("--out", type=Path, default=OUT, help="folder of engine.json and engine.md")
    given = parser.parse_args()
    out = given.out
    transformers.logging.set_verbosity_error()
    folder, _ = weights.located(conf.load("model", MODEL, Model), ROOT)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ours = Ours(folder)
    for temperature in (0.0, 0.01):
        ours.engine(temperature)
    harness = Harness(HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=BATCH))
    fast = CTranslate2.load(folder, Path(tempfile.mkdtemp()), tokenizer)
    sides = {
        "ours": ours,
        "lm_eval": harness,
        "generate": model,
        "ctranslate2": fast,
        "tokenizer": tokenizer,
        "parameters": parameters(model),
    }
    from importlib.metadata import version

    found: dict[str, Any] = {
        "machine": machine(), "versions": {name: version(name) for name in ("lm_eval", "transformers", "ctranslate2")},
        "examples": given.examples, "repeats": given.repeats, "rows": [],
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    before = json.loads((out / "engine.json").read_text()) if (out / "engine.json").exists() else {}
    if {key: before.get(key) for key in found if key != "rows"} == {key: found[key] for key in found if key != "rows"}:
        found["rows"] = before["rows"]  # cells that are not run again stay
    for task, few in [
        (task, few) for few in (True, False) if ("few" if few else "zero") in given.shots for task in given.tasks
    ]:
        rows = compare(task, few, sides, given.examples, given.repeats)
        kept = [row for row in found["rows"] if (row["task"], row["shots"] > 0) != (task, few)]
        found["rows"] = sorted([*kept, *rows], key=lambda row: (row["shots"] == 0, row["task"]))
        (out / "engine.json").write_text(json.dumps(found, indent=1) + "\n")
        (out / "engine.md").write_text(table(found))


if __name__ == "__main__":
    main()
