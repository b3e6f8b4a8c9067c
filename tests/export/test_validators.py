"""Each exported format by its own validator, in an environment of its own (tests/export/install)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from src import release
from src.base.files import ROOT
from src.base.metrics import LIKELIHOODS
from src.export import croissant, every_eval_ever, formats, lm_eval, parts
from tests.export import made

pytestmark = pytest.mark.slow
HERE = ROOT / "tests/export/validators"
KEPT = Path(os.environ.get("VALIDATORS", ROOT / ".venv/validators"))
UNREACHED = re.compile("NewConnectionError|NameResolutionError|ConnectTimeout|ProxyError|Temporary failure in name")


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The bin folder of a validator's environment: that of `make test-slow`, else one made for this session."""
    folder = tmp_path_factory.mktemp("validators")

    def bin_of(name: str) -> Path:
        if (KEPT / name / "ready").exists():
            return KEPT / name / "bin"
        if not (folder / name / "ready").exists():
            done = subprocess.run(
                [ROOT / "tests/export/install", folder, name], capture_output=True, text=True, check=False
            )
            said = done.stdout + done.stderr
            if done.returncode == 3:
                pytest.skip(said.strip())
            if done.returncode and UNREACHED.search(said):
                pytest.skip(f"PyPI is not reached, so the validator of {name} is not here")
            assert done.returncode == 0, said
        return folder / name / "bin"

    return bin_of


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.finished(tmp_path_factory.mktemp("a place"))


@pytest.fixture(scope="module")
def archive(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release with every format, unpacked."""
    bundle = release.write(place, place / "dist/a.zip", formats.chosen(["all"]), made.given(place))
    folder = tmp_path_factory.mktemp("archive")
    with zipfile.ZipFile(bundle) as opened:
        opened.extractall(folder)
    return folder


def ran(*words: str | Path, cwd: Path = ROOT, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "HF_HUB_OFFLINE": "1", **environ}
    return subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, text=True, check=False, env=env)


def printed(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


# ---- Every Eval Ever


def test_every_eval_ever_finds_no_error_and_no_warning(environment, archive):
    root = archive / every_eval_ever.FOLDER / "pilot"
    words = [path.relative_to(root) for path in sorted(root.rglob("*.json*"))]
    done = ran(environment("every_eval_ever") / "every_eval_ever", "validate", "--format", "json", *words, cwd=root)
    found = json.loads(done.stdout)
    assert len(found) == len(words) > 0
    assert [each for each in found if each["errors"] or each["warnings"] or not each["valid"]] == []
    assert done.returncode == 0


def test_every_eval_ever_refuses_what_is_wrong(environment, archive):
    """So that the test above can fail."""
    root = archive / every_eval_ever.FOLDER / "pilot"
    path = sorted(root.rglob("*_samples.jsonl"))[0]
    before = path.read_bytes()
    try:
        path.write_bytes(before.replace(b'"is_correct": ', b'"is_right": ', 1))
        done = ran(environment("every_eval_ever") / "every_eval_ever", "validate", path.relative_to(root), cwd=root)
        assert done.returncode == 1
    finally:
        path.write_bytes(before)


# ---- Croissant


def test_mlcroissant_reads_the_description_and_every_score(environment, archive):
    found = printed(ran(environment("croissant") / "python", HERE / "croissant.py", archive / croissant.NAME))
    assert (found["errors"], found["warnings"]) == ([], [])
    assert set(found["kept"]) == {
        *(f"rai:{field}" for field in croissant.MINIMAL), "prov:wasDerivedFrom", "prov:wasGeneratedBy",
    }  # fmt: skip
    frame = pd.read_parquet(archive / "data/scores.parquet")
    assert [list(row) for row in found["records"]] == [list(frame)] * len(frame)
    for column in ("example_id", "seed", "exact_match", "condition", "edit_distance"):
        assert [row[column] for row in found["records"]] == frame[column].tolist()


# ---- RO-Crate

LACKING = {
    "ro-crate-1.2_86.2", "ro-crate-1.2_89.0", "ro-crate-1.2_90.1", "ro-crate-1.2_93.0",  # the makers' address
    "ro-crate-1.3_10.1",  # the language of dvc.yaml
}  # fmt: skip
"""Recommendations that are not met, by roc-validator's ids: docs/export.md says why."""


def test_roc_validator_finds_nothing_required_that_is_missing_of_1_3(environment, archive):
    python = environment("ro_crate") / "python"
    found = printed(ran(python, HERE / "ro_crate.py", archive, "ro-crate-1.3", "RECOMMENDED"))
    assert [issue for issue in found["issues"] if issue[0] == "REQUIRED"] == []
    assert {identifier for _, identifier, _ in found["issues"]} == LACKING
    assert found["version"] == "1.3"
    assert (found["type"], found["instrument"]) == ("CreateAction", "dvc.yaml")
    graph = json.loads((archive / release.CRATE).read_text())["@graph"]
    assert found["entities"] == len(graph)


def test_the_run_has_what_a_process_run_crate_requires(environment, archive):
    python = environment("ro_crate") / "python"
    found = printed(ran(python, HERE / "ro_crate.py", archive, "process-run-crate-0.5", "RECOMMENDED"))
    assert {identifier for _, identifier, _ in found["issues"]} == {
        "process-run-crate-0.5_3.2", "process-run-crate-0.5_5.1",  # the program has no public address
    }  # fmt: skip


def test_roc_validator_refuses_what_is_wrong(environment, archive):
    path = archive / release.CRATE
    before = path.read_bytes()
    try:
        path.write_bytes(before.replace(b'"datePublished"', b'"dateOfSomething"'))
        python = environment("ro_crate") / "python"
        found = printed(ran(python, HERE / "ro_crate.py", archive, "ro-crate-1.3", "REQUIRED"))
        assert found["issues"]
    finally:
        path.write_bytes(before)


# ---- lm-evaluation-harness

ITEMS = [{"id": f"a/{i}", "input": f"What sinks, {i}?", "options": ["a cork", "a stone"], "target": 1,
          "answer": "a stone"} for i in range(3)]  # fmt: skip
SHARED = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "items.jsonl"}}, "test_split": "test",
          "doc_to_text": "Q: {{input}}\nA:"}  # fmt: skip
OWN_TASKS = {
    "own__options": {
        "output_type": "multiple_choice", "doc_to_choice": "{{options}}", "doc_to_target": "{{target}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "own__generate": {
        "output_type": "generate_until", "doc_to_target": "{{answer}}", "repeats": 2,
        "generation_kwargs": {"until": ["\n"], "temperature": 0.5, "do_sample": True},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "filter_list": [{"name": "first", "filter": [{"function": "take_first"}]}],
    },
}  # fmt: skip
UNKNOWN = {"batch_size", "device", "use_cache", "transformers_version", "total_evaluation_time_seconds", "limit"}
"""What the harness knows of its run and a cell does not: null."""


@pytest.fixture(scope="module")
def written(environment, tmp_path_factory) -> Path:
    """The folder that lm-eval itself writes, with its model `dummy` on tasks of each type."""
    folder = tmp_path_factory.mktemp("lm_eval")
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    for name, task in OWN_TASKS.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **SHARED, **task}))
    done = ran(
        environment("lm_eval") / "lm_eval", "--model", "dummy", "--tasks", ",".join(OWN_TASKS), "--include_path", ".",
        "--log_samples", "--output_path", "out", cwd=folder, HF_HOME=str(folder / "home"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return next((folder / "out").iterdir())


def shape(value: Any) -> Any:
    """The type of a value: of an object by its keys, of a list by its first element."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    return [shape(value[0])] if isinstance(value, list) and value else type(value).__name__


def of_kind(folder: Path, kind: str) -> list[dict[str, Any]]:
    path = next(path for path in sorted(folder.glob("samples_*.jsonl")) if f"__{kind}_" in path.name)
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("kind", [lm_eval.GENERATE, lm_eval.OPTIONS])
def test_samples_have_the_keys_and_types_of_those_that_lm_eval_writes(written, archive, kind):
    theirs, ours = of_kind(written, kind)[0], of_kind(next((archive / lm_eval.FOLDER / "pilot").iterdir()), kind)[0]
    own = {"doc", "metrics", *theirs["metrics"], *ours["metrics"]}
    a, b = ({key: each for key, each in row.items() if key not in own} for row in (theirs, ours))
    asked = [row.pop("arguments") for row in (a, b)]
    assert list(a) == list(b)
    assert shape(a) == shape(b)
    assert shape(asked[0]["gen_args_0"]["arg_0"]) == shape(asked[1]["gen_args_0"]["arg_0"]) == "str"
    assert type(asked[0]["gen_args_0"]["arg_1"]) is type(asked[1]["gen_args_0"]["arg_1"])
    assert all(isinstance(row[metric], float) for row in (theirs, ours) for metric in row["metrics"])


def test_results_have_the_keys_and_types_of_those_that_lm_eval_writes(written, archive):
    ours = json.loads(next((archive / lm_eval.FOLDER / "pilot").rglob("results_*.json")).read_text())
    theirs = json.loads(next(written.glob("results_*.json")).read_text())
    assert list(ours) == list(theirs)
    for key, value in theirs.items():
        if isinstance(value, dict) and set(value) <= set(OWN_TASKS):  # by task
            assert isinstance(ours[key], dict)
        elif value is not None and key not in UNKNOWN and key != "config":
            assert type(ours[key]) is type(value), key
    assert set(ours["config"]) == set(theirs["config"])
    nulls = {key for key, value in {**ours, **ours["config"]}.items() if value is None}
    assert nulls - {key for key, value in {**theirs, **theirs["config"]}.items() if value is None} <= UNKNOWN


def test_every_eval_ever_converts_our_samples_of_the_harness_with_their_means(environment, archive, place, tmp_path):
    """A reader of lm-eval's files that is none of ours."""
    folder = archive / lm_eval.FOLDER / "pilot"
    done = ran(
        environment("every_eval_ever") / "every_eval_ever", "convert", "lm_eval", "--log_path", folder, "--output_dir",
        tmp_path / "data", "--include_samples", "--source_organization_name", "a test",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    got = {}
    for path in (tmp_path / "data").rglob("*.json"):
        for result in json.loads(path.read_text())["evaluation_results"]:
            got[result["evaluation_name"], result["evaluation_result_id"]] = result["score_details"]["score"]
    wanted = {
        (f"{part.name}__options", metric): part.mean(metric)
        for part in parts.parts_of(place, made.given(place)) for metric in LIKELIHOODS
    }  # fmt: skip
    assert {key: got[key] for key in wanted} == pytest.approx(wanted)


def test_the_datasets_library_loads_our_samples(environment, archive, tmp_path):
    """The harness writes samples so that this library can load them."""
    code = (
        "import datasets, json, sys; print(json.dumps([datasets.load_dataset('json', data_files=name, split='train', "
        "cache_dir=sys.argv[1]).num_rows for name in sys.argv[2:]]))"
    )
    paths = sorted((archive / lm_eval.FOLDER).rglob("samples_*.jsonl"))[:4]
    found = printed(ran(environment("lm_eval") / "python", "-c", code, tmp_path, *paths, HF_HOME=str(tmp_path)))
    assert found == [len(path.read_text().splitlines()) for path in paths]
