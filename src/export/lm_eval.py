"""Samples of lm-evaluation-harness, as 0.4.13 writes them with --log_samples, and the results file beside them.

A part becomes two tasks, because a task of the harness has one type of output: `<part>__generate` (what the model
wrote) and `<part>__options` (log-likelihoods). What it wrote with a seed is a filter of its name, `seed_2266`: the
harness repeats a request and lets filters choose. `acc` and `acc_norm` are worked out as the harness does (the first of
equally likely options). Every other metric has this project's name and definition.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from src.base.files import json_line
from src.base.metrics import LESS_IS_BETTER, LIKELIHOODS
from src.export.parts import Exported, Item, Part
from src.export.picks import first
from src.export.settings import OWN, decoding
from src.export.texts import digest

FOLDER = "exports/lm_eval"
VERSION = "0.4.13"
GENERATE, OPTIONS = "generate", "options"
UNSAFE = re.compile(r"[\"<>:/|\\?*\[\]]+")
INVALID = "[invalid]"
"""What the harness puts in the place of an answer that a filter does not find."""
HARNESS = {"acc": "likelihood_plain", "acc_norm": "likelihood"}
"""Metrics of the harness, and this project's that differ from them where options tie."""
Rows = Mapping[str, Sequence[Mapping[str, Any]]]


def write(exported: Exported, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The samples of every part, and the results of each suite and model, by path."""
    written: dict[str, bytes] = {}
    time = exported.when.strftime("%Y-%m-%dT%H-%M-%S.%f")
    for (suite, _), parts in exported.runs.items():
        place = f"{FOLDER}/{suite}/{UNSAFE.sub('__', parts[0].subject.id)}"
        rows = {name: list(each) for part in parts for name, each in tasks(part).items()}
        for name, each in rows.items():
            written[f"{place}/samples_{name}_{time}.jsonl"] = b"".join(json_line(row, allow_nan=False) for row in each)
        whole = json.dumps(results(parts, rows, exported), indent=2, ensure_ascii=False, allow_nan=False)
        written[f"{place}/results_{time}.json"] = whole.encode()
    return written


def tasks(part: Part) -> dict[str, Iterator[dict[str, Any]]]:
    """The samples of a part's tasks, by the task's name."""
    both = {f"{part.name}__{GENERATE}": generated(part)}
    return both | ({f"{part.name}__{OPTIONS}": chosen(part)} if scored(part) else {})


def scored(part: Part) -> bool:
    """Whether the options of all its items have log-likelihoods: a server need not give them."""
    return set(LIKELIHOODS) <= set(part.metrics)


def generated(part: Part) -> Iterator[dict[str, Any]]:
    """What the model wrote: a sample for each item and seed."""
    metrics = [name for name in part.metrics if name not in LIKELIHOODS]
    how: dict[str, Any] = {"until": [], **decoding(part.subject)}
    for item in part.items:
        texts = [item.answers.completions[seed].text for seed in part.seeds]
        prompt = part.rule.prompt(item.answers.prompt.prefix, item.answers.prompt.text)
        for seed in part.seeds:
            row = item.scores[seed]
            said = item.said(row["picked"])
            yield {
                **identity(part, item), "target": part.rule.text(item.gold),
                "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": how}},
                "resps": [texts], "filtered_resps": [INVALID if said is None else part.rule.text(said)],
                "filter": f"seed_{seed}", "metrics": metrics, **hashes(part, item, item.gold),
                **{name: float(row[name]) for name in metrics},
            }  # fmt: skip


def chosen(part: Part) -> Iterator[dict[str, Any]]:
    """The log-likelihoods of the options: a sample for each item."""
    for item in part.items:
        likelihood, prompt = item.answers.likelihood, item.answers.prompt
        assert likelihood is not None
        shown = part.rule.prompt(prompt.prefix, prompt.text)
        pairs = [[str(value), "None"] for value in likelihood.logprob]  # whether it is the greedy text is not known
        row = next(iter(item.scores.values()))
        picked = {name: float(first(part, item, how) == item.target) for name, how in HARNESS.items()}
        values = {**picked, **{name: float(row[name]) for name in LIKELIHOODS}}
        yield {
            **identity(part, item), "target": str(item.target),
            "arguments": {
                f"gen_args_{i}": {"arg_0": shown, "arg_1": part.rule.text(text)}
                for i, text in enumerate(prompt.continuations)
            },
            "resps": [[pair] for pair in pairs], "filtered_resps": pairs, "filter": "none", "metrics": list(values),
            **hashes(part, item, str(item.target)), **values,
        }  # fmt: skip


def identity(part: Part, item: Item) -> dict[str, Any]:
    """Which item a sample is of. doc_id is the item's index in the file of its task, under every condition."""
    return {"doc_id": doc_id(item), "doc": doc(part, item)}


def doc_id(item: Item) -> int:
    """The index of an item in the source file of its task, which an example's id ends with."""
    return int(item.example.id.partition("~")[0].rpartition("/")[2])


def doc(part: Part, item: Item) -> dict[str, Any]:
    """The item, with hashes where its text may not go out."""
    rule = part.rule
    return {
        "id": item.example.id, "input": rule.text(item.example.input),
        "options": [rule.text(option) for option in item.options], "answer": rule.text(item.gold),
        "group": item.example.group, "texts": rule.note,
    }  # fmt: skip


def hashes(part: Part, item: Item, target: str) -> dict[str, str]:
    """The harness's hashes: of the doc as it stands here, of the whole prompt and of the target as they were."""
    prompt = item.answers.prompt
    return {
        "doc_hash": digest(json.dumps(doc(part, item), indent=2, ensure_ascii=False)),
        "prompt_hash": digest(prompt.prefix + prompt.text), "target_hash": digest(target),
    }  # fmt: skip


def results(parts: Sequence[Part], rows: Rows, exported: Exported) -> dict[str, Any]:
    """The results file of a run. What the harness knows and a cell does not is null."""
    part_of = {name: part for part in parts for name in tasks(part)}
    subject, seconds = parts[0].subject, exported.when.timestamp()
    seed = parts[0].seeds[0]
    limit = max((len(part.items) for part in parts if len(part.items) < part.n_task), default=None)
    seeds = dict.fromkeys(("random_seed", "numpy_seed", "torch_seed", "fewshot_seed"), seed)
    facts, by = {"pretrained": subject.id, **subject.facts}, f"{OWN} {exported.version}"
    return {
        "results": {name: means(name, each) for name, each in rows.items()},
        "group_subtasks": {},
        "configs": {name: config(name, part_of[name]) for name in rows},
        "versions": dict.fromkeys(rows, exported.version),
        "n-shot": {name: part_of[name].head.shots for name in rows},
        "higher_is_better": {
            name: {metric: metric not in LESS_IS_BETTER for metric in each[0]["metrics"]} for name, each in rows.items()
        },
        "n-samples": {
            name: {"original": part_of[name].n_task, "effective": len(part_of[name].items)} for name in rows
        },
        "config": {
            "model": OWN, "model_args": facts, "batch_size": None, "batch_sizes": [], "device": None, "use_cache": None,
            "limit": limit, "bootstrap_iters": 0, "gen_kwargs": {}, **seeds,
        },
        "git_hash": exported.commit, "date": seconds, "pretty_env_info": by,
        "transformers_version": None, "lm_eval_version": f"{by}, in the format of {VERSION}", "upper_git_hash": None,
        "task_hashes": {
            name: digest("".join(row["doc_hash"] + row["prompt_hash"] + row["target_hash"] for row in each))
            for name, each in rows.items()
        },
        "model_source": OWN, "model_name": subject.id, "model_name_sanitized": UNSAFE.sub("__", subject.id),
        "system_instruction": None, "system_instruction_sha": None, "fewshot_as_multiturn": None,
        "chat_template": None, "chat_template_sha": None, "total_evaluation_time_seconds": None,
    }  # fmt: skip


def means(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of each metric and filter, and its standard error as the harness has it: sample deviation / sqrt(n)."""
    found: dict[str, Any] = {"name": name, "alias": name, "sample_len": len({row["doc_id"] for row in rows})}
    for kind in dict.fromkeys(row["filter"] for row in rows):
        mine = [row for row in rows if row["filter"] == kind]
        for metric in mine[0]["metrics"]:
            values = [row[metric] for row in mine]
            found[f"{metric},{kind}"] = fmean(values)
            found[f"{metric}_stderr,{kind}"] = stdev(values) / len(values) ** 0.5 if len(values) > 1 else "N/A"
    return found


def config(name: str, part: Part) -> dict[str, Any]:
    """How a task was put to the model, in the harness's words. Templates are this project's, not Jinja."""
    of_options = name.endswith(f"__{OPTIONS}")
    metrics = [*HARNESS, *LIKELIHOODS] if of_options else [each for each in part.metrics if each not in LIKELIHOODS]
    words = part.condition
    shown = words.template if any(item.options for item in part.items) else words.template_without_options
    return {
        "task": name, "dataset_path": part.source.hub or part.source.packages or part.source.name,
        "doc_to_text": shown, "doc_to_target": words.answer,
        **({"doc_to_choice": words.answer} if of_options else {}),
        "description": "", "target_delimiter": "", "fewshot_delimiter": "\n\n", "num_fewshot": part.head.shots,
        "metric_list": [
            {"metric": each, "aggregation": "mean", "higher_is_better": each not in LESS_IS_BETTER} for each in metrics
        ],
        "output_type": "multiple_choice" if of_options else "generate_until",
        "repeats": 1 if of_options else len(part.seeds), "should_decontaminate": False,
        "metadata": {
            "task": part.head.task, "condition": part.head.condition, "suite": part.head.suite,
            "fingerprint": part.head.fingerprint, "compat": part.head.compat.name, "data_sha256": part.head.data_sha256,
            "texts": part.rule.note, "seeds": list(part.seeds),
        },
    }  # fmt: skip
