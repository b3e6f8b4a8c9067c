"""Every Eval Ever, schema 0.3.0: for each part an aggregate (JSON) and its samples (a line a metric and seed)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

from src.base.files import json_line
from src.base.metrics import BERT, EXACT, LESS_IS_BETTER, LIKELIHOODS, MEANS
from src.export.parts import Exported, Item, Part
from src.export.picks import tied
from src.export.settings import OWN, decoding
from src.export.texts import digest

FOLDER = "exports/every_eval_ever"
SCHEMA = "0.3.0"
BOUNDS: Mapping[str, tuple[float, float | str]] = {"edit_distance": (0, "Infinity"), "bertscore_f1": (-1, 1)}
"""Smallest and largest value of a metric; of every other one it is 0 and 1."""


def write(exported: Exported, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files of every part, by path. Suites lie in folders of their own, so that each can be read alone."""
    written: dict[str, bytes] = {}
    for part in exported.parts:
        name = uuid(part)
        folder = f"data/{OWN}/{'/'.join(directory(part.subject.id))}"
        rows = list(samples(part, evaluation_id(part, exported)))
        lines = b"".join(json_line(row, allow_nan=False) for row in rows)
        detail = {
            "format": "jsonl", "file_path": f"{folder}/{name}_samples.jsonl", "hash_algorithm": "sha256",
            "checksum": hashlib.sha256(lines).hexdigest(), "total_rows": len(rows),
        }  # fmt: skip
        whole = {**aggregate(part, exported), "detailed_evaluation_results": detail}
        place = f"{FOLDER}/{part.head.suite}/{folder}/{name}"
        written[f"{place}.json"] = (json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
        written[f"{place}_samples.jsonl"] = lines
    return written


def directory(model_id: str) -> tuple[str, str]:
    """(owner, name) of a model's folder: a further / in its name becomes _, as the format asks."""
    owner, _, name = model_id.partition("/")
    return owner, name.replace("/", "_")


def uuid(part: Part) -> UUID:
    """The name of a part's files: of the form of a random UUID, made of what identifies the part."""
    told = "\n".join((part.head.suite, part.subject.id, part.name, part.head.fingerprint))
    return UUID(bytes=hashlib.sha256(told.encode()).digest()[:16], version=4)


def evaluation_id(part: Part, exported: Exported) -> str:
    """evaluation/model/time, which the aggregate and its samples share."""
    return f"{part.head.suite}.{part.name}/{part.subject.id}/{int(exported.when.timestamp())}"


def aggregate(part: Part, exported: Exported) -> dict[str, Any]:
    """What the samples of a part come to, a result each metric."""
    seconds, subject = str(int(exported.when.timestamp())), part.subject
    api = bool(subject.model.api)
    owner = subject.id.partition("/")[0]
    return {
        "schema_version": SCHEMA, "evaluation_id": evaluation_id(part, exported), "retrieved_timestamp": seconds,
        "source_metadata": {
            "source_name": OWN, "source_type": "evaluation_run", "source_organization_name": f"The {OWN} developers",
            "evaluator_relationship": "third_party",
            "additional_details": {
                "timestamps": "of the commit that holds the run: its outputs name no time", "texts": part.rule.note,
            },
        },
        "eval_library": {
            "name": OWN, "version": exported.version, "additional_details": {"commit": exported.commit},
        },
        "model_info": {
            "name": subject.name, "id": subject.id, **({} if owner == OWN else {"developer": owner}),
            "additional_details": {
                "deployment_type": "externally_managed" if api else "unknown",
                "model_availability": "closed_weights" if api else "open_weights", **subject.facts,
            },
        },
        "evaluation_results": [result(part, metric) for metric in part.metrics],
    }  # fmt: skip


def result(part: Part, metric: str) -> dict[str, Any]:
    """The mean of one metric, by the rule of this project: over items of the mean over seeds."""
    low, high = BOUNDS.get(metric, (0, 1))
    asked = {
        "task": part.head.task, "condition": part.head.condition, "shots": str(part.head.shots),
        "seeds": " ".join(map(str, part.seeds)), "fingerprint": part.head.fingerprint, "compat": part.head.compat.name,
        **({"control": part.head.control} if part.head.control else {}),
        **({"encoder": part.head.encoder} if metric.startswith("bertscore") else {}),
    }  # fmt: skip
    return {
        "evaluation_result_id": metric, "evaluation_name": part.name, "source_data": source_data(part),
        "metric_config": {
            "metric_id": f"{OWN}.{metric}", "metric_name": metric, "lower_is_better": metric in LESS_IS_BETTER,
            "score_type": "continuous", "min_score": low, "max_score": high,
        },
        "score_details": {
            "score": part.mean(metric), "details": asked, "uncertainty": {"num_samples": len(part.items)},
        },
        "generation_config": {
            "generation_args": {**decoding(part.subject), "prompt_template": part.condition.template},
            "additional_details": {"num_fewshot": str(part.head.shots)},
        },
    }  # fmt: skip


def source_data(part: Part) -> dict[str, Any]:
    """Where the items come from."""
    source = part.source
    details = {"source": source.name, "licence": source.licence, "data_sha256": part.head.data_sha256}
    if source.hub:
        return {"dataset_name": part.head.task, "source_type": "hf_dataset", "hf_repo": source.hub,
                "additional_details": {**details, "revision": str(source.revision)}}  # fmt: skip
    return {"dataset_name": part.head.task, "source_type": "other",
            "additional_details": {**details, **({"package": source.packages} if source.archives else {})}}  # fmt: skip


def samples(part: Part, evaluation: str) -> Iterator[dict[str, Any]]:
    """A line for each item, metric and seed; one alone for a metric in which the seed plays no part."""
    for item in part.items:
        shared = about(part, item, evaluation)
        for metric in part.metrics:
            seeds = part.seeds[:1] if metric in LIKELIHOODS else part.seeds
            for seed in seeds:
                yield {**shared, **judged(part, item, metric, seed)}


def about(part: Part, item: Item, evaluation: str) -> dict[str, Any]:
    """What all lines of an item say."""
    rule, prompt = part.rule, item.answers.prompt
    raw, reference = rule.text(item.example.input), [rule.text(item.gold)]
    return {
        "schema_version": SCHEMA, "evaluation_id": evaluation, "model_id": part.subject.id,
        "evaluation_name": part.name, "sample_id": item.example.id,
        "sample_hash": digest(item.example.input + item.gold), "interaction_type": "single_turn",
        "input": {
            "raw": raw, "formatted": rule.prompt(prompt.prefix, prompt.text), "reference": reference,
            "choices": [rule.text(option) for option in item.options] or None,
        },
    }  # fmt: skip


def judged(part: Part, item: Item, metric: str, seed: int) -> dict[str, Any]:
    """What one metric says of an item's answer with one seed."""
    row, completion = item.scores[seed], item.answers.completions[seed]
    of_options = metric in LIKELIHOODS
    score = float(row[metric])
    right = row[EXACT] if metric in MEANS else score  # a distance alone says not whether an answer is right
    seeded = {} if of_options else {"seed": str(seed), "finish": completion.finish}
    return {
        "evaluation_result_id": metric,
        "output": {"raw": [] if of_options else [completion.text]},
        "answer_attribution": [attribution(part, metric, each) for each in picked(part, item, metric, row)],
        "evaluation": {"score": score, "is_correct": right == 1},
        "metadata": {**seeded, "group": item.example.group, "texts": part.rule.note},
    }


def attribution(part: Part, metric: str, said: tuple[str | None, bool]) -> dict[str, Any]:
    """The answer that a metric takes; "" where it finds none."""
    text, alone = said
    return {
        "turn_idx": 0, "source": "log-likelihoods of the choices" if metric in LIKELIHOODS else "output.raw",
        "extracted_value": "" if text is None else part.rule.text(text), "extraction_method": metric,
        "is_terminal": alone,
    }  # fmt: skip


def picked(part: Part, item: Item, metric: str, row: Mapping[str, Any]) -> list[tuple[str | None, bool]]:
    """(the answer that a metric takes, whether it takes no other): several of a tie, none of a distance."""
    if metric in (EXACT, BERT):
        return [(item.said(row["picked" if metric == EXACT else "bertscore_picked"]), True)]
    best = tied(part, item, metric) if metric in LIKELIHOODS else []
    return [(item.said(index), len(best) == 1) for index in best]
