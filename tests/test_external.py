"""Logs of other programs become cells of their own: matched or counted, whole or not at all, beside nothing of ours."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from src import compare, external
from src.base import metrics
from src.base.errors import UserError
from src.base.files import ROOT
from src.base.frames import as_declared, read_frame
from src.question.examples import Example
from tests import logs, scratch
from tests.tiny import tiny

PICKS = [0, 2, 2, 0, 0, 2, 0, 1, 2, 0]  # right: all but 1 and 4
N, RIGHT = 10, 8


def examples(asked: Sequence[logs.Asked], task: str = "sinks") -> list[Example]:
    """The items as a prepared task of ours holds them, numbered from 100."""
    return [
        Example(f"{task}/{100 + i}", f"{task}/{100 + i}", each.question, each.options, each.target,
                each.options[each.target], None)
        for i, each in enumerate(asked)
    ]  # fmt: skip


def prepare(root: Path, task: str, items: Sequence[Example]) -> None:
    path = root / f"data/tasks/{task}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(asdict(each)) + "\n" for each in items))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with one prepared task."""
    place = tmp_path / "project"
    place.mkdir()
    shutil.copy(ROOT / "params.yaml", place)
    prepare(place, "sinks", examples(logs.items(PICKS)))
    return place


def bring(root: Path, path: Path, *words: str) -> external.Imported:
    return external.bring_in(path, external.parser().parse_args([str(path), *words]), root)[1]


def frames(root: Path) -> dict[str, pd.DataFrame]:
    return external.statistics(external.imports(root), 0.05)


def harness(place: Path, picks: Sequence[int] = PICKS, task: str = "sinks", **more: Any) -> Path:
    return logs.lm_eval(place, {task: logs.lm_eval_rows(logs.items(picks), ("acc",))}, **more)


def plain(place: Path) -> Path:
    place.mkdir(parents=True)
    rows = [{"task": "sinks", "item": a.id, "input": a.question, "pick": a.pick, "target": a.target, "n_options": 3}
            for a in logs.items(PICKS)]  # fmt: skip
    pd.DataFrame(rows).to_csv(place / "one.csv", index=False)
    return place


MADE: dict[str, Callable[[Path], Path]] = {
    "lm_eval": harness,
    "inspect": lambda place: logs.inspect(place / "one.eval", logs.items(PICKS)).parent,
    "helm": lambda place: logs.helm(place, logs.items(PICKS), "sinks"),
    "every_eval_ever": lambda p: logs.write_rows(p / "one.jsonl", logs.every_eval_ever_rows(logs.items(PICKS))).parent,
    "table": plain,
}


@pytest.mark.parametrize("made", MADE)
def test_every_format_gets_the_statistics_of_own_cells(made: str, root: Path, tmp_path: Path) -> None:
    imported = bring(root, MADE[made](tmp_path / "logs"))
    assert imported.ours == {"sinks": "sinks"}
    assert imported.counts == {"sinks": {"matched": N}}
    (row,) = frames(root)["external"].to_dict("records")
    assert (row["source"], row["our_task"], row["n"], row["k"], row["left_out"]) == ("external", "sinks", N, RIGHT, 0)
    assert row["chance"] == pytest.approx(1 / 3)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(proportion_confint(RIGHT, N, method="wilson"))
    assert row["p"] == row["p_holm"] == pytest.approx(stats.binom.sf(RIGHT - 1, N, 1 / 3))
    assert row["trivial"] == pytest.approx(0.4)  # the gold option is the first in 4 of 10
    assert row["p_content"] < 0.05
    assert (row["unparsed_share"], row["gates"]) == (0, "")


def test_what_is_stored_holds_no_text(root: Path, tmp_path: Path) -> None:
    bring(root, harness(tmp_path / "logs"))
    (path,) = external.imports(root)
    stored = read_frame(path.parent, path.name)
    text = stored.to_csv()
    assert list(as_declared("external_scores", stored)) == list(stored)
    for each in logs.items(PICKS):
        assert each.question not in text
        assert not [option for option in each.options if re.search(rf"\b{option}\b", text)]


def test_an_item_that_is_none_of_ours_is_counted_and_left_out(root: Path, tmp_path: Path) -> None:
    """Of ten items two have another text, one other options, one another right answer."""
    asked = logs.items(PICKS)
    asked[0] = replace(asked[0], question="Something else?")
    asked[1] = replace(asked[1], question="And another?")
    asked[2] = replace(asked[2], options=("iron", "cork", "gold"))
    asked[3] = replace(asked[3], target=1)
    folder = logs.lm_eval(tmp_path / "logs", {"sinks": logs.lm_eval_rows(asked, ("acc",))})
    assert bring(root, folder).counts == {"sinks": {"matched": 6, "not_ours": 3, "other_gold": 1}}
    (row,) = frames(root)["external"].to_dict("records")
    assert (row["n"], row["left_out"]) == (6, 4)


def test_an_item_that_could_be_several_of_ours_is_left_out(root: Path, tmp_path: Path) -> None:
    items = examples(logs.items(PICKS))
    prepare(root, "sinks", [*items, replace(items[0], id="sinks/999")])
    assert bring(root, harness(tmp_path / "logs")).counts == {"sinks": {"matched": 9, "unclear": 1}}


def test_a_task_is_known_by_its_items_or_keeps_its_own_name(root: Path, tmp_path: Path) -> None:
    other = [replace(each, question=f"Which floats, {each.id}?") for each in logs.items(PICKS)]
    rows = {"renamed": logs.lm_eval_rows(logs.items(PICKS), ("acc",)), "floats": logs.lm_eval_rows(other, ("acc",))}
    imported = bring(root, logs.lm_eval(tmp_path / "logs", rows))
    assert imported.ours == {"renamed": "sinks"}
    cells = frames(root)["external"].set_index("task")
    assert cells["n"].to_dict() == {"floats": N, "renamed": N}
    assert pd.isna(cells["our_task"]["floats"])
    assert cells["chance"].tolist() == pytest.approx([1 / 3] * 2)


def test_a_task_that_could_be_two_of_ours_is_a_question(root: Path, tmp_path: Path) -> None:
    prepare(root, "again", examples(logs.items(PICKS), "again"))
    folder = harness(tmp_path / "logs", task="theirs")
    with pytest.raises(UserError, match=r"items of theirs are items of again, sinks\. Which task is it\?"):
        bring(root, folder)
    assert external.imports(root) == []
    assert bring(root, folder, "--task", "theirs=again").ours == {"theirs": "again"}
    assert bring(root, folder, "--task", "theirs=", "--replace").ours == {}


def test_a_task_of_our_name_with_other_items_is_refused(root: Path, tmp_path: Path) -> None:
    other = [replace(each, question=f"Which floats, {each.id}?") for each in logs.items(PICKS)]
    with pytest.raises(UserError, match="no item of sinks is in it, by its text"):
        bring(root, logs.lm_eval(tmp_path / "logs", {"sinks": logs.lm_eval_rows(other)}))


@pytest.mark.parametrize("made", MADE)
def test_a_damaged_log_leaves_what_was_imported_before(made: str, root: Path, tmp_path: Path) -> None:
    folder = MADE[made](tmp_path / "logs")
    bring(root, folder)
    (before,) = (path.read_bytes() for path in external.imports(root))
    file = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(UserError, match=file.name):
        bring(root, folder, "--replace")
    assert [path.read_bytes() for path in external.imports(root)] == [before]
    assert [path.name for path in (root / external.FOLDER).iterdir()] == ["logs.parquet"]


def test_the_same_answers_are_imported_once(root: Path, tmp_path: Path) -> None:
    folder = harness(tmp_path / "logs")
    bring(root, folder)
    with pytest.raises(UserError, match=r"data/external/logs\.parquet is there\. Import it anew: --replace"):
        bring(root, folder)
    with pytest.raises(UserError, match="holds all of these 10 answers"):
        bring(root, folder, "--name", "again")


def test_two_items_that_are_one_of_ours_are_refused(root: Path, tmp_path: Path) -> None:
    asked = logs.items(PICKS)
    twice = [*asked, replace(asked[0], id="77")]
    with pytest.raises(UserError, match=r"items 0 and 77 of sinks are both sinks/100\. Drop one of them"):
        bring(root, logs.lm_eval(tmp_path / "logs", {"sinks": logs.lm_eval_rows(twice, ("acc",))}))


@pytest.mark.parametrize("word", ["index", "text"])
def test_picks_alone_are_judged_by_our_answers(word: str, root: Path, tmp_path: Path) -> None:
    """model, item, option picked: by its place in our file, or by its text; nothing is a pick that names none."""
    rows = [
        {"model": "m", "task": "sinks", "item": f"sinks/{100 + i}",
         "pick": a.options[a.pick] if word == "text" else a.pick}
        for i, a in enumerate(logs.items(PICKS))
    ]  # fmt: skip
    rows[0]["pick"] = ""
    pd.DataFrame(rows).to_csv(tmp_path / "picks.csv", index=False)
    bring(root, tmp_path / "picks.csv")
    (row,) = frames(root)["external"].to_dict("records")
    assert (row["n"], row["k"], row["unparsed_share"]) == (N, RIGHT - 1, pytest.approx(0.1))
    assert row["chance"] == pytest.approx(1 / 3)
    with pytest.raises(UserError, match="neither score nor target"):
        compare.read(tmp_path / "picks.csv", external.Fields(), ())


def test_a_question_can_be_given_by_its_hash_alone(root: Path, tmp_path: Path) -> None:
    import hashlib

    rows = [{"task": "sinks", "input_sha256": hashlib.sha256(a.question.encode()).hexdigest(), "score": int(a.right)}
            for a in logs.items(PICKS)]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "hashes.csv", index=False)
    assert bring(root, tmp_path / "hashes.csv").counts == {"sinks": {"matched": N}}


def test_a_table_without_ids_leaves_no_text_behind(root: Path, tmp_path: Path) -> None:
    rows = [{"task": "sinks", "input": a.question, "score": int(a.right)} for a in logs.items(PICKS)]
    pd.DataFrame(rows).to_csv(tmp_path / "texts.csv", index=False)
    assert bring(root, tmp_path / "texts.csv").counts == {"sinks": {"matched": N}}
    assert "sinks in case" not in pd.read_parquet(*external.imports(root)).to_csv()


def test_answers_that_are_all_one_option_or_none_raise_a_gate(root: Path, tmp_path: Path) -> None:
    bring(root, harness(tmp_path / "one", [1] * N))
    rows = logs.every_eval_ever_rows(logs.items([1, 1, 1, 1, 0, 0, 0, 0, 0, 0]), model="org/silent")
    for row in rows[:4]:
        row["answer_attribution"][0]["extracted_value"] = "I cannot say"
        row["evaluation"] = {"score": 0.0, "is_correct": False}
    bring(root, logs.write_rows(tmp_path / "none/one.jsonl", rows).parent)
    cells = frames(root)["external"].set_index("name")
    assert cells["gates"].to_dict() == {"none": metrics.GATE_UNPARSED, "one": metrics.GATE_CONSTANT}
    assert cells["p_content"]["one"] == 1.0


def test_items_that_share_a_group_widen_the_interval(root: Path, tmp_path: Path) -> None:
    """Twelve items in six passages, right or wrong by passage."""
    picks = [i % 3 if i // 2 % 2 else logs.wrong(i) for i in range(12)]
    prepare(root, "none", [])
    folder = harness(tmp_path / "logs", picks, "passages")
    bring(root, folder, "--task", "passages=")
    alone = frames(root)["external"].iloc[0]
    bring(root, folder, "--task", "passages=", "--group", "passage", "--replace")
    grouped = frames(root)["external"].iloc[0]
    assert (alone["interval"], alone["groups"], grouped["interval"], grouped["groups"]) == ("wilson", 12, "groups", 6)
    assert grouped["ci_high"] - grouped["ci_low"] > alone["ci_high"] - alone["ci_low"]


def test_two_imports_are_paired_as_compare_pairs_their_logs(root: Path, tmp_path: Path) -> None:
    other = [0, 1, 2, 0, 1, 2, 1, 1, 2, 1]
    a, b = harness(tmp_path / "a", model="org/a"), harness(tmp_path / "b", other, model="org/b", shots=5)
    for each in (a, b):
        bring(root, each)
    (pair,) = frames(root)["external_pairs"].to_dict("records")
    assert (pair["side_a"], pair["side_b"]) == ("a: org/a, 0-shot", "b: org/b, 5-shot")
    for left, right in ((a, b), external.imports(root)):
        given = compare.parser().parse_intermixed_args([str(left), str(right)])
        (row,) = compare.compared(left, right, given).rows.to_dict("records")
        for name in ("n", "mean_diff", "ci_low", "ci_high", "p", "a_better", "b_better", "test", "detectable"):
            assert pair[name] == pytest.approx(row[name], nan_ok=True) if name != "test" else pair[name] == row[name]


def test_epochs_are_a_mean_and_not_more_items(root: Path, tmp_path: Path) -> None:
    bring(root, logs.inspect(tmp_path / "one.eval", logs.items(PICKS), epochs=3))
    (row,) = frames(root)["external"].to_dict("records")
    assert (row["n"], row["seeds"], row["k"], row["seed_se"]) == (N, 3, RIGHT, 0)


def test_nothing_of_the_main_job_reads_what_was_imported() -> None:
    """No stage of DVC and no other command knows the folder, so a bare machine needs none of it."""
    assert "external" not in (ROOT / "dvc.yaml").read_text()
    known = r"data/external|statistics\.external|statistics\.series|judgement\.series"
    users = {path.relative_to(ROOT).as_posix() for path in (ROOT / "src").rglob("*.py")
             if re.search(known, path.read_text())}  # fmt: skip
    assert users == {"src/external.py", "src/series.py", "src/judgement/series.py"}


def test_the_command_imports_shows_writes_and_removes(tmp_path: Path) -> None:
    """In the project itself, under a name that no user gives."""
    name = f"test-{os.getpid()}"
    folder = harness(tmp_path / "logs", task=name)

    def run(*words: object, code: int = 0) -> str:
        done = subprocess.run([sys.executable, "-m", "src.external", *map(str, words)], cwd=ROOT, capture_output=True,
                              text=True, check=False)  # fmt: skip
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    try:
        said = run(folder, "--name", name, "--csv", tmp_path / "o.csv", "--html", tmp_path / "o.html")
        assert f"{name} is none of ours: under its own name" in said
        with (tmp_path / "o.csv").open() as file:
            mine = [row for row in csv.DictReader(file) if row["name"] == name]
        assert [(row["n"], row["k"]) for row in mine] == [("10", "8")]
        assert "No claim rests on these numbers" in (tmp_path / "o.html").read_text()
        assert "Unknown import" in run("--drop", f"{name}-other", code=1)
    finally:
        run("--drop", name)
    assert not (ROOT / external.FOLDER / f"{name}.parquet").exists()


# ---- real programs -------------------------------------------------------------------------------------------------


def program(variable: str, package: str, beside: Path | None = None) -> str:
    """The path of a program: what the variable names, or where the Makefile puts it (`beside`)."""
    found = os.environ.get(variable) or (str(beside) if beside and beside.exists() else "")
    how = "make bench" if beside else f"pip install {package} into an environment of its own"
    return found or pytest.skip(f"{package} is not installed here: {how}, and name it: {variable}=<its path>")


YAML = """task: mine
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: target
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""


def items_file(folder: Path) -> Path:
    """Items as both programs read them."""
    rows = [{"question": a.question, "choices": a.options, "target": a.target} for a in logs.items(PICKS)]
    return logs.write_rows(folder / "items.jsonl", rows)


@pytest.mark.slow
def test_a_log_that_the_harness_wrote_itself_is_imported(root: Path, tmp_path: Path) -> None:
    """A random checkpoint, so that the log is made in seconds; its picks explain every score."""
    lm_eval = program("LM_EVAL", "lm-eval", ROOT / ".venv/bench/bin/lm_eval")
    path = items_file(tmp_path)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/mine.yaml").write_text(YAML.format(path=path))
    done = subprocess.run(
        [lm_eval, "--model", "hf", "--model_args", f"pretrained={tiny('llama', tmp_path / 'weights')},dtype=float32",
         "--device", "cpu", "--tasks", "mine", "--include_path", tmp_path / "tasks", "--output_path", tmp_path / "out",
         "--log_samples"],
        capture_output=True, text=True, check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert bring(root, tmp_path / "out").counts == {"mine": {"matched": N}}
    cells = frames(root)["external"].set_index("metric")
    (results,) = (tmp_path / "out").rglob("results_*.json")
    said = json.loads(results.read_text())["results"]["mine"]
    assert cells["accuracy"].to_dict() == pytest.approx({name: said[f"{name},none"] for name in ("acc", "acc_norm")})
    assert cells["unparsed_share"].tolist() == [0, 0]
    assert cells["p_content"].notna().all()


INSPECT = """import json
from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import choice
from inspect_ai.solver import multiple_choice


@task
def mine():
    rows = [json.loads(line) for line in open({path!r})]
    samples = [
        Sample(id=i, input=r["question"], choices=r["choices"], target="ABC"[r["target"]]) for i, r in enumerate(rows)
    ]
    return Task(dataset=MemoryDataset(samples, name="mine"), solver=multiple_choice(), scorer=choice())
"""


@pytest.mark.slow
def test_a_log_that_inspect_wrote_itself_is_imported(root: Path, tmp_path: Path) -> None:
    inspect = program("INSPECT", "inspect-ai")
    path = items_file(tmp_path)
    (tmp_path / "mine.py").write_text(INSPECT.format(path=str(path)))
    words = ["--model", "hf/random", "-M", f"model_path={tiny('llama', tmp_path / 'weights')}", "-M", "device=cpu"]
    done = subprocess.run(
        [inspect, "eval", "mine.py", *words, "--max-tokens", "4", "--epochs", "2", "--log-dir", "logs",
         "--display", "plain"],
        cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
    assert bring(root, tmp_path / "logs").counts == {"mine": {"matched": N}}
    (row,) = frames(root)["external"].to_dict("records")
    assert (row["n"], row["seeds"], row["metric"], row["prompt"]) == (N, 2, "choice", "multiple_choice")


def test_the_page_is_walked(tmp_path: Path) -> None:
    """Every command of docs/external.md, in its order, in a copy of the project with logs of these names."""
    copy = scratch.clone(tmp_path / "copy")
    for name, picks in (("model_a", PICKS), ("model_b", PICKS[::-1])):
        rows = {task: logs.lm_eval_rows(logs.items(picks)) for task in ("sinks", "floats")}
        logs.lm_eval(copy / "runs" / name, rows, model=f"org/{name}")
        scores = "".join(f"{a.id},{int(a.right)}\n" for a in logs.items(picks))
        (copy / f"runs/{name[-1]}.csv").write_text(f"item,score\n{scores}")
    logs.inspect(copy / "runs/one.eval", logs.items(PICKS))
    prepare(copy, "sinks", examples(logs.items(PICKS)))
    page = (ROOT / "docs/external.md").read_text()
    blocks = re.findall(r"^```sh\n(?!# not run here)(.*?)^```", page, re.DOTALL | re.MULTILINE)
    commands = [line for block in blocks for line in block.splitlines()]
    said = [scratch.run(copy, *shlex.split(line)) for line in commands]
    assert len(said) == 9
    assert all("Items matched by" in text for text, line in zip(said, commands, strict=True) if "compare" in line)
    for name in ("compared.csv", "compared.flipped.csv", "compared.html", "external.csv", "external.html"):
        assert (copy / name).stat().st_size
    assert [path.name for path in external.imports(copy)] == ["a.parquet"]
