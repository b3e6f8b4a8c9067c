"""Runs of HELM: a folder with per_instance_stats.json, scenario_state.json and run_spec.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from src.base.errors import UserError
from src.foreign.files import as_documented, document, number
from src.foreign.record import Fields, Record

KNOWN = "the runs of HELM 0.4 and 0.5"
STATS, STATE, SPEC = "per_instance_stats.json", "scenario_state.json", "run_spec.json"
JUDGING = ("exact_match", "quasi_exact_match", "prefix_exact_match", "quasi_prefix_exact_match", "f1_score",
           "rouge_1", "rouge_2", "rouge_l", "bleu_1", "bleu_4", "math_equiv", "math_equiv_chain_of_thought",
           "chain_of_thought_correctness", "ifeval_strict_accuracy")  # fmt: skip
"""Statistics of an instance that say how right an answer is. The others count tokens, bytes and seconds."""


def find(folder: Path) -> list[Path]:
    """The files of statistics in a folder and in those below it, one a run."""
    return sorted(folder.rglob(STATS))


def is_one(path: Path) -> bool:
    """Whether a file is named as HELM names such statistics."""
    return path.name == STATS


def read(path: Path, fields: Fields) -> Iterator[Record]:
    """Every record of a run: one an instance, metric and trial. Perturbed instances are left out: they are others."""
    stats, state = document(path), document(path.with_name(STATE))
    spec = document(path.with_name(SPEC)) if path.with_name(SPEC).exists() else {}
    with as_documented(path, KNOWN):
        asked = {_key(each["instance"]["id"], each): each for each in state["request_states"] if _plain(each)}
        adapter = state["adapter_spec"]
        shared: dict[str, Any] = {
            "model": fields.model or str(adapter.get("model") or adapter["model_deployment"]),
            "task": str(spec.get("name", path.parent.name)).split(":")[0].partition(",")[0],
            "prompt": str(adapter["method"]), "shots": int(adapter["max_train_instances"]),
        }  # fmt: skip
        shared["task"] = _task(spec, path, shared["task"])
        rows = [each for each in stats if not each.get("perturbation")]
        missing = {_key(each["instance_id"], each) for each in rows} ^ set(asked)
        if missing:
            raise UserError(f"{path}: {STATS} and {STATE} do not hold the same instances ({min(missing)[0]} is in one "
                            f"of them): one is cut short, or of another run. Copy the folder again")  # fmt: skip
        if not any(stat["name"]["name"] in JUDGING for row in rows for stat in row["stats"]):
            names = sorted({str(stat["name"]["name"]) for row in rows for stat in row["stats"]})
            raise UserError(f"{path} has none of the statistics that judge an answer ({', '.join(JUDGING)}). It has: "
                            f"{', '.join(names)}. Write items and scores as a csv")  # fmt: skip
        for row in rows:
            yield from _records(row, asked[_key(row["instance_id"], row)], shared, fields)


def _task(spec: Mapping[str, Any], path: Path, name: str) -> str:
    """The scenario with its arguments, as the run's name has them, less the model."""
    full = str(spec.get("name", path.parent.name))
    _, _, given = full.partition(":")
    kept = [each for each in given.split(",") if each and not each.startswith(("model=", "model_deployment="))]
    return ":".join(part for part in (name, ",".join(kept)) if part)


def _plain(state: Mapping[str, Any]) -> bool:
    return not state["instance"].get("perturbation")


def _key(instance: str, each: Mapping[str, Any]) -> tuple[str, int]:
    return str(instance), int(each.get("train_trial_index", 0))


def _records(
    row: Mapping[str, Any], state: Mapping[str, Any], shared: Mapping[str, Any], fields: Fields
) -> Iterator[Record]:
    instance, mapping = state["instance"], state.get("output_mapping") or {}
    references = instance["references"]
    texts = [str(each["output"]["text"]) for each in references]
    right = [i for i, each in enumerate(references) if "correct" in each["tags"]]
    options = tuple(texts) if len(texts) > 1 else ()
    target = right[0] if options and len(right) == 1 else None
    completions = (state.get("result") or {}).get("completions") or []
    said = mapping.get(str(completions[0]["text"]).strip()) if completions else None
    pick = texts.index(said) if said in texts and options else None
    for stat in row["stats"]:
        name = stat["name"]["name"]
        score = number(stat.get("mean", stat.get("sum")))
        if name not in JUDGING or stat["name"].get("perturbation") or score is None or stat.get("count", 1) < 1:
            continue
        known = bool(mapping) and target is not None and float(pick == target) == score
        yield Record(
            **shared, item=str(row["instance_id"]), metric=name, score=score, text=str(instance["input"]["text"]),
            options=options, target=target, pick=pick if known else None, picked_known=known,
            repeat=str(row.get("train_trial_index", 0)), group=_group(instance, fields),
        )  # fmt: skip


def _group(instance: Mapping[str, Any], fields: Fields) -> str:
    """The cluster of an instance, out of its extra data. Raises KeyError where it lacks it."""
    return str((instance.get("extra_data") or {})[fields.group]) if fields.group else ""
