"""Two sets of results become a comparison, or a question, or an error that says what to do; never a guess."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from src import compare, release
from src.base.errors import UserError
from src.base.files import ROOT
from src.base.schema import Compat
from src.cell.file import Answers, Header, digests, path_of, write_cell
from src.engine.job import Completion, Likelihood
from src.question.prompts import Prompt
from tests import logs

A, B = [0, 1, 2, 0, 1, 2, 0, 2, 0, 0], [0, 1, 2, 0, 1, 2, 1, 2, 2, 1]  # right: 7 of 10; 7 of 10


def outcome(a: Path, b: Path, *words: str) -> compare.Outcome:
    given = compare.parser().parse_intermixed_args([str(a), str(b), *words])
    return compare.compared(a, b, given)


def folder(
    place: Path, name: str, picks: Sequence[int], metrics: Sequence[str] = ("acc",), task: str = "sinks", shots: int = 0
) -> Path:
    rows = logs.lm_eval_rows(logs.items(picks), metrics)
    return logs.lm_eval(place / name, {task: rows}, model=f"org/{name}", shots=shots)


def test_two_folders_of_the_harness_are_one_command(tmp_path: Path) -> None:
    a, b = folder(tmp_path, "a", A), folder(tmp_path, "b", B)
    table, page = tmp_path / "out.csv", tmp_path / "out.html"
    done = subprocess.run(
        [sys.executable, "-m", "src.compare", a, b, "--csv", table, "--html", page],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Items matched by content: 10; left out: 0 only in A, 0 only in B." in done.stdout
    with table.open() as file:
        (row,) = csv.DictReader(file)
    right = [sum(x == i % 3 for i, x in enumerate(side)) for side in (A, B)]
    assert (row["n"], float(row["accuracy_a"]), float(row["accuracy_b"])) == ("10", right[0] / 10, right[1] / 10)
    with (tmp_path / "out.flipped.csv").open() as file:
        flips = {(each["item_a"], each["better"]) for each in csv.DictReader(file)}
    assert flips == {(str(i), "A" if x == i % 3 else "B") for i, (x, y) in enumerate(zip(A, B, strict=True))
                     if (x == i % 3) != (y == i % 3)}  # fmt: skip
    assert row["test"] == "mcnemar"
    html = page.read_text()
    assert "org/a and org/b" in html
    assert "http" not in html  # it loads nothing
    for each in logs.items(A):
        assert each.question not in done.stdout + html + table.read_text()


def test_the_order_of_a_file_and_its_numbers_do_not_count(tmp_path: Path) -> None:
    """The same items in another order, numbered anew, and two of them on one side alone."""
    a = folder(tmp_path, "a", A)
    rows = logs.lm_eval_rows(logs.items(B), ("acc",))[2:][::-1]
    b = logs.lm_eval(tmp_path / "b", {"sinks": [{**row, "doc_id": i} for i, row in enumerate(rows)]}, model="org/b")
    (row,) = outcome(a, b).rows.to_dict("records")
    assert (row["n"], row["only_a"], row["only_b"], row["unclear"]) == (8, 2, 0, 0)
    assert row["accuracy_b"] == sum(x == i % 3 for i, x in enumerate(B) if i >= 2) / 8


def test_equal_numbers_of_other_items_are_no_pairs(tmp_path: Path) -> None:
    a = folder(tmp_path, "a", A)
    other = [{**row, "doc": {"question": f"Another {i}?"}, "doc_hash": f"other {i}"}
             for i, row in enumerate(logs.lm_eval_rows(logs.items(B), ("acc",)))]  # fmt: skip
    b = logs.lm_eval(tmp_path / "b", {"sinks": other}, model="org/b")
    with pytest.raises(UserError, match=r"no item in common, by text \(10 in A, 10 in B\)\. If ids number the same"):
        outcome(a, b)
    assert outcome(a, b, "--by", "id").rows["n"].tolist() == [10]


def test_items_of_one_content_are_told_apart_by_their_number_or_left_out(tmp_path: Path) -> None:
    def of(name: str, first: int) -> Path:
        rows = [{**row, "doc_id": first + i, "doc_hash": "same" if i < 2 else row["doc_hash"]}
                for i, row in enumerate(logs.lm_eval_rows(logs.items(A), ("acc",)))]  # fmt: skip
        return logs.lm_eval(tmp_path / name, {"sinks": rows}, model=f"org/{name}")

    apart = outcome(of("a", 0), of("b", 50)).rows.iloc[0]
    assert (apart["n"], apart["unclear"]) == (8, 4)
    assert outcome(of("c", 0), of("d", 0) / "org__d" / f"samples_sinks_{logs.TIME}.jsonl").rows["n"].tolist() == [10]


def test_several_metrics_are_a_question(tmp_path: Path) -> None:
    a, b = (folder(tmp_path, name, picks, ("acc", "acc_norm")) for name, picks in (("a", A), ("b", B)))
    with pytest.raises(UserError, match=r"several metrics: acc, acc_norm\. Which one\? Name it: --metric 'acc'"):
        outcome(a, b)
    assert outcome(a, b, "--metric", "acc_norm").rows["metric"].tolist() == ["acc_norm"]
    assert outcome(a, b, "--metric", "acc", "acc_norm").rows["metric"].tolist() == ["acc | acc_norm"]
    with pytest.raises(UserError, match=r"Unknown metric in A: 'acc_nrm'\. Did you mean acc_norm"):
        outcome(a, b, "--metric", "acc_nrm")


def test_two_metrics_are_never_compared_unasked(tmp_path: Path) -> None:
    a, b = folder(tmp_path, "a", A, ("acc",)), folder(tmp_path, "b", B, ("exact_match",))
    with pytest.raises(UserError, match="A judges sinks by acc, and B by exact_match"):
        outcome(a, b)


def test_several_filters_are_a_question(tmp_path: Path) -> None:
    sides = []
    for name, picks in (("a", A), ("b", B)):
        rows = logs.lm_eval_rows(logs.items(picks), ("exact_match",))
        both = [{**row, "filter": kind} for row in rows for kind in ("strict-match", "flexible-extract")]
        sides.append(logs.lm_eval(tmp_path / name, {"sinks": both}, model=f"org/{name}"))
    with pytest.raises(UserError, match="exact_match,flexible-extract, exact_match,strict-match"):
        outcome(*sides)
    assert outcome(*sides, "--metric", "exact_match,strict-match").rows["n"].tolist() == [10]


def test_several_models_and_settings_are_a_question(tmp_path: Path) -> None:
    rows = "".join(f"{m},{p},{i},{(i + len(m + p)) % 2}\n" for m in ("m", "mm") for p in ("x", "yy") for i in range(8))
    (tmp_path / "many.csv").write_text(f"model,prompt,item,score\n{rows}")
    (tmp_path / "one.csv").write_text("model,prompt,item,score\n" + "".join(f"n,zzz,{i},1\n" for i in range(8)))
    sides = tmp_path / "many.csv", tmp_path / "one.csv"
    with pytest.raises(UserError, match=r"A holds 2 models: m, mm\. Which one"):
        outcome(*sides)
    words = ("--model", "mm", "n", "--task", "many=one")
    with pytest.raises(UserError, match=r"A puts many in 2 settings \(x; yy\), none of which the other side has"):
        outcome(*sides, *words)
    assert outcome(*sides, *words, "--setting", "yy", "zzz").rows["setting_a"].tolist() == ["yy"]


def test_a_task_of_one_side_is_named_and_left_out(tmp_path: Path) -> None:
    rows = {name: logs.lm_eval_rows(logs.items(A), ("acc",)) for name in ("sinks", "floats")}
    a = logs.lm_eval(tmp_path / "a", rows, model="org/a")
    b = folder(tmp_path, "b", B)
    said = outcome(a, b)
    assert said.rows["task"].tolist() == ["sinks"]
    assert "Not compared: only in A: floats." in said.says
    with pytest.raises(UserError, match=r"no task is on both sides\. A: floats, sinks\. B: other"):
        outcome(a, folder(tmp_path, "c", B, task="other"))
    named = outcome(a, folder(tmp_path, "d", B, task="other"), "--task", "sinks=other")
    assert named.rows["task"].tolist() == ["sinks = other"]


def test_a_different_prompt_is_said_beside_the_difference(tmp_path: Path) -> None:
    said = outcome(folder(tmp_path, "a", A), folder(tmp_path, "b", B, shots=5))
    assert [line for line in said.says if re.match(r"Asked otherwise on 1 of 1 tasks.*0-shot.*5-shot", line)]


def test_items_that_share_a_passage_move_together(tmp_path: Path) -> None:
    a, b = folder(tmp_path, "a", A), folder(tmp_path, "b", B)
    (row,) = outcome(a, b, "--group", "passage").rows.to_dict("records")
    assert (row["n"], row["groups"], row["test"]) == (10, 5, "sign_flip")


def test_the_same_results_twice_are_refused(tmp_path: Path) -> None:
    a = folder(tmp_path, "a", A)
    with pytest.raises(UserError, match="A and B are the same"):
        outcome(a, a / ".." / "a")
    shutil.copytree(a, tmp_path / "copy")
    with pytest.raises(UserError, match="hold the same bytes"):
        outcome(a, tmp_path / "copy")


def test_a_log_of_one_program_and_one_of_another_meet_by_their_questions(tmp_path: Path) -> None:
    a = logs.inspect(tmp_path / "a.eval", logs.items(A))
    b = folder(tmp_path, "b", B)
    (row,) = outcome(a, b, "--metric", "choice", "acc").rows.to_dict("records")
    assert (row["n"], row["matched_by"]) == (10, "text")


def test_one_question_with_other_options_is_another_item(tmp_path: Path) -> None:
    a = logs.inspect(tmp_path / "a.eval", logs.items(A))
    b = logs.lm_eval(tmp_path / "b", {"sinks": logs.lm_eval_rows(logs.items(B, 4), ("acc",))}, model="org/b")
    with pytest.raises(UserError, match="no item in common, by text"):
        outcome(a, b, "--metric", "choice", "acc")


def test_text_is_shown_where_it_is_asked_for(tmp_path: Path) -> None:
    a, b = folder(tmp_path, "a", A), folder(tmp_path, "b", B)
    assert "text" not in outcome(a, b).flips
    assert outcome(a, b, "--show-text").flips["text"].str.startswith("Which of these sinks").all()


def test_a_text_that_looks_like_markup_is_shown_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, score in (("a", 1), ("b", 0)):
        (tmp_path / f"{name}.csv").write_text(f"task,item,score\n[bold]<b>,[red]<i>,{score}\n[bold]<b>,2,1\n")
    said = outcome(tmp_path / "a.csv", tmp_path / "b.csv")
    compare.show(said, 5)
    assert "[bold]<b>" in capsys.readouterr().out
    compare.write(said, None, tmp_path / "o.html")
    assert "<b>" not in (tmp_path / "o.html").read_text()


def test_a_damaged_file_ends_in_one_line_and_exit_code_1(tmp_path: Path) -> None:
    a, b = folder(tmp_path, "a", A), folder(tmp_path, "b", B)
    (file,) = b.rglob("samples_*.jsonl")
    file.write_bytes(file.read_bytes()[:-30])
    done = subprocess.run(
        [sys.executable, "-m", "src.compare", a, b], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert re.fullmatch(r"error: .*line 10: no JSON: the file is cut short\. Copy the file again\n", done.stderr)
    done = subprocess.run(
        [sys.executable, "-m", "src.compare", a], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2


# ---- cells of this project -----------------------------------------------------------------------------------------


def cell(folder: Path, model: str, picks: Sequence[int], condition: str = "closed_zero", data: str = "d") -> Path:
    """A cell whose completions name these options, with two seeds that agree."""
    answers = [
        Answers(
            Prompt(f"sinks/{each.id}", each.group, "", each.question, each.options, each.options, each.target,
                   each.options[each.target]),
            {seed: Completion(each.options[each.pick], 1, "eos") for seed in (1, 2)},
            Likelihood(tuple(-1.0 if i == each.pick else -9.0 for i in range(3)), (1, 1, 1)),
        )
        for each in logs.items(picks)
    ]  # fmt: skip
    prompts, completions = digests(answers)
    head = Header(
        fingerprint="0" * 12, suite="s", model=model, weights="w", task="sinks", condition=condition, prompt="closed",
        lettered=False, shots=0, compat=Compat(name="fixed"), encoder="e", prompts_sha256=prompts,
        completions_sha256=completions, data_sha256=data,
    )  # fmt: skip
    path = path_of(folder / model, "sinks", condition)
    write_cell(path, head, answers)
    return path


@pytest.mark.parametrize("whole", [False, True])
def test_cells_of_this_project_are_compared_by_example_and_by_their_clusters(whole: bool, tmp_path: Path) -> None:
    a, b = (cell(tmp_path, name, picks) for name, picks in (("m", A), ("n", B)))
    sides = (a.parent, b.parent) if whole else (a, b)
    (row,) = outcome(*sides, "--metric", "exact_match").rows.to_dict("records")
    right = [sum(x == i % 3 for i, x in enumerate(side)) / 10 for side in (A, B)]
    assert (row["accuracy_a"], row["accuracy_b"], row["groups"]) == (*right, 5)


def test_two_conditions_of_one_model_are_compared(tmp_path: Path) -> None:
    a, b = cell(tmp_path, "m", A), cell(tmp_path, "m", B, "closed_few")
    assert outcome(a, b, "--metric", "likelihood").rows["n"].tolist() == [10]


def test_cells_on_other_data_have_no_item_in_common(tmp_path: Path) -> None:
    a, b = cell(tmp_path, "m", A), cell(tmp_path, "n", B, data="other")
    with pytest.raises(UserError, match="no item in common"):
        outcome(a, b, "--metric", "likelihood")


@pytest.mark.skipif(not (ROOT / compare.SCORES).exists(), reason="the main job has not run here: no scores")
def test_a_release_gives_what_its_scores_give(tmp_path: Path) -> None:
    scores = pd.read_parquet(ROOT / compare.SCORES)
    bundle = tmp_path / "a.zip"
    files = {compare.SCORES: (ROOT / compare.SCORES).read_bytes()}
    release.zipped(bundle, {**files, release.MANIFEST: release.manifest(files)})
    other = scores[scores["condition"] == "closed_few"].assign(model="other", likelihood=1 - scores["likelihood"])
    (tmp_path / "b").mkdir()
    other.to_parquet(tmp_path / "b/scores.parquet")
    rows = outcome(bundle, tmp_path / "b/scores.parquet", "--metric", "likelihood").rows
    own = scores[scores["condition"] == "closed_few"].dropna(subset=["likelihood"])
    means = own.groupby(["task", "example_id"])["likelihood"].mean().groupby("task").mean()
    found = rows.set_index("task")["accuracy_a"].drop(["all items", "mean over tasks"])
    assert found.to_dict() == pytest.approx(means.astype(float).to_dict())
    broken = tmp_path / "broken.zip"
    release.zipped(broken, {**files, release.MANIFEST: b"0" * 64 + b"  data/scores.parquet\n"})
    with pytest.raises(UserError, match="is damaged"):
        outcome(broken, tmp_path / "b/scores.parquet")


@pytest.mark.slow
def test_ten_thousand_items_take_ten_seconds_of_processor_time(tmp_path: Path) -> None:
    for name, step in (("a", 3), ("b", 4)):
        tasks = {}
        for t in range(20):
            picks = [0 if (i * step + t) % 7 else i % 3 for i in range(500)]
            tasks[f"t{t}"] = logs.lm_eval_rows(logs.items(picks), ("acc",))
        logs.lm_eval(tmp_path / name, tasks, model=f"org/{name}")
    code = (
        "import resource, sys, runpy; sys.argv = ['compare', *sys.argv[1:]]\n"
        "runpy.run_module('src.compare', run_name='__main__')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_utime, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a", tmp_path / "b", "--items", "0"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Items matched by content: 10,000" in done.stdout
    assert float(done.stderr) < 10
