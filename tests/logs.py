"""Small logs of other programs, written as those programs document their formats. No text of a data set is in them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LETTERS = "ABCD"


@dataclass(frozen=True)
class Asked:
    """An item and what was picked."""

    id: str
    question: str
    options: tuple[str, ...]
    target: int
    pick: int
    group: str = ""

    @property
    def right(self) -> bool:
        return self.pick == self.target


def items(picks: Sequence[int], options: int = 3) -> list[Asked]:
    """Items whose gold option is their number modulo `options`, with these picks."""
    words = ("iron", "cork", "lead", "wood")[:options]
    return [
        Asked(str(i), f"Which of these sinks in case {i}?", words, i % options, pick, f"passage {i // 2}")
        for i, pick in enumerate(picks)
    ]


def wrong(at: int, options: int = 3) -> int:
    """An option of item `at` that is not its gold one."""
    return (at + 1) % options


def lm_eval_rows(asked: Sequence[Asked], metrics: Sequence[str] = ("acc", "acc_norm")) -> list[dict[str, Any]]:
    """The samples of a multiple-choice task of lm-evaluation-harness 0.4.13."""
    rows = []
    for each in asked:
        logs = [[str(-1.0 if i == each.pick else -30.0), "False"] for i in range(len(each.options))]
        rows.append(
            {
                "doc_id": int(each.id),
                "doc": {"question": each.question, "choices": list(each.options), "passage": each.group},
                "target": str(each.target),
                "arguments": {
                    f"gen_args_{i}": {"arg_0": f"Q: {each.question}\nA:", "arg_1": f" {option}"}
                    for i, option in enumerate(each.options)
                },
                "resps": [[log] for log in logs], "filtered_resps": logs, "filter": "none", "metrics": list(metrics),
                "doc_hash": f"hash of {each.question}", "prompt_hash": "p", "target_hash": "t",
                **dict.fromkeys(metrics, float(each.right)),
            }
        )  # fmt: skip
    return rows


def write_rows(path: Path, rows: Sequence[Any]) -> Path:
    """A file of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


TIME = "2026-01-02T03-04-05.678901"


def lm_eval(
    folder: Path, tasks: dict[str, list[dict[str, Any]]], model: str = "org/m", shots: int = 0, time: str = TIME
) -> Path:
    """A folder as `lm_eval --log_samples --output_path` leaves it."""
    place = folder / model.replace("/", "__")
    for task, rows in tasks.items():
        write_rows(place / f"samples_{task}_{time}.jsonl", rows)
    results = {
        "model_name": model,
        "configs": {task: {"task": task, "doc_to_text": "Q: {{question}}\nA:"} for task in tasks},
        "n-shot": dict.fromkeys(tasks, shots),
        "n-samples": {t: {"original": 99, "effective": len({r["doc_id"] for r in rows})} for t, rows in tasks.items()},
    }
    (place / f"results_{time}.json").write_text(json.dumps(results), encoding="utf-8")
    return folder


def inspect(
    path: Path, asked: Sequence[Asked], task: str = "sinks", model: str = "org/m", epochs: int = 1, **header: Any
) -> Path:
    """A log as `inspect eval` of a multiple-choice task leaves it."""
    head = {
        "version": 2, "status": "success",
        "eval": {"task": task, "model": model, "dataset": {"name": task, "samples": len(asked)}},
        "plan": {"name": "plan", "steps": [{"solver": "multiple_choice", "params": {}}]},
        "results": {"total_samples": len(asked) * epochs, "completed_samples": len(asked) * epochs},
        **header,
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("_journal/start.json", json.dumps({"version": 2}))
        for each in asked:
            for epoch in range(1, epochs + 1):
                sample = {
                    "id": each.id, "epoch": epoch, "input": each.question, "choices": list(each.options),
                    "target": LETTERS[each.target], "messages": [], "metadata": {"passage": each.group},
                    "scores": {"choice": {"value": "C" if each.right else "I", "answer": LETTERS[each.pick]}},
                }  # fmt: skip
                archive.writestr(f"samples/{each.id}_epoch_{epoch}.json", json.dumps(sample))
        archive.writestr("header.json", json.dumps(head))
    return path


def helm(folder: Path, asked: Sequence[Asked], scenario: str = "sinks:case=any", model: str = "org/m") -> Path:
    """A run's folder as helm-run leaves it, multiple choice, joint."""
    folder.mkdir(parents=True, exist_ok=True)
    stats, states = [], []
    for each in asked:
        name = {"name": "exact_match", "split": "test"}
        stats.append(
            {
                "instance_id": f"id{each.id}", "train_trial_index": 0,
                "stats": [
                    {"name": name, "count": 1, "sum": float(each.right), "mean": float(each.right)},
                    {"name": {"name": "num_bytes", "split": "test"}, "count": 1, "sum": 5.0, "mean": 5.0},
                ],
            }
        )  # fmt: skip
        references = [
            {"output": {"text": option}, "tags": ["correct"] if i == each.target else []}
            for i, option in enumerate(each.options)
        ]
        states.append(
            {
                "instance": {"id": f"id{each.id}", "split": "test", "input": {"text": each.question},
                             "references": references},
                "train_trial_index": 0, "output_mapping": dict(zip(LETTERS, each.options, strict=False)),
                "request": {"prompt": "..."}, "result": {"completions": [{"text": f" {LETTERS[each.pick]}"}]},
            }
        )  # fmt: skip
    adapter = {"method": "multiple_choice_joint", "max_train_instances": 5, "model": model}
    files = {
        "per_instance_stats": stats,
        "scenario_state": {"adapter_spec": adapter, "request_states": states},
        "run_spec": {"name": f"{scenario},model={model.replace('/', '_')}", "adapter_spec": adapter},
    }
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def every_eval_ever_rows(asked: Sequence[Asked], task: str = "sinks", model: str = "org/m") -> list[dict[str, Any]]:
    """Samples by the schema of Every Eval Ever, version 0.3.0."""
    return [
        {
            "schema_version": "0.3.0", "evaluation_id": f"{task}/{model}/1", "model_id": model, "evaluation_name": task,
            "sample_id": each.id, "interaction_type": "single_turn",
            "input": {"raw": each.question, "reference": [each.options[each.target]], "choices": list(each.options)},
            "output": {"raw": [each.options[each.pick]]},
            "answer_attribution": [{"turn_idx": 0, "source": "output.raw", "extracted_value": each.options[each.pick],
                                    "extraction_method": "exact_match", "is_terminal": True}],
            "evaluation": {"score": float(each.right), "is_correct": each.right},
            "metadata": {"passage": each.group},
        }
        for each in asked
    ]  # fmt: skip
