"""The authors' outputs scored anew. Files in their format, with sentences of our own and scores known by hand."""

import csv
import json
import sys
from pathlib import Path

import pandas as pd
import pytest

from src import replay
from src.base import conf
from src.base.errors import UserError
from src.base.files import ROOT
from src.base.schema import Compat, Model
from src.cell import authors
from src.cell.authors import Place
from src.pages.tables import load_tables, rows_of, write_table
from src.replay import Reference

PUBLISHED = replay.rules("published", ())
FIXED = Compat(name="fixed")
ASKED = "Is ice cold? The correct answer is"
PLACE = Place("a_model", "some_task", "closed", 0, "1")


def a_run(*items: tuple[str, str, str]) -> dict[str, list[str]]:
    """items: (target, options with tabs between, prediction)."""
    target, options, prediction = (list(column) for column in zip(*items, strict=True))
    return {"input": [ASKED] * len(items), "target": target, "options": options, "prediction": prediction}


def write(path: Path, run: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(run))
    return path


def rescored(tmp_path: Path, run: object, compat: Compat = PUBLISHED, place: Place = PLACE) -> replay.Replayed:
    return replay.rescore(write(tmp_path / "run.json", run), place, compat)


def called(monkeypatch: pytest.MonkeyPatch, out: Path, *arguments: object) -> tuple[object, pd.DataFrame]:
    """(exit code, the table) of the command."""
    monkeypatch.setattr(sys, "argv", ["replay", *map(str, arguments), "--out", str(out)])
    with pytest.raises(SystemExit) as ending:
        replay.main()
    return ending.value.code, pd.read_csv(out) if out.exists() else pd.DataFrame()


# One file: scores known by hand

RIGHT, WRONG, UNPARSED = ' "yes".', ' "no".', " ?"


def test_known_answers_have_known_scores(tmp_path: Path) -> None:
    run = a_run(*(('"yes"', "yes\tno", said) for said in (RIGHT, WRONG, UNPARSED, ' "yes"')))
    found = rescored(tmp_path, run)
    assert found.n == 4
    assert found.scores["exact_match"] == 2 / 4
    # against `"yes"`: a space and a full stop; the same and three letters; nothing shared; a space
    assert found.scores["edit_distance"] == pytest.approx((2 + 5 + 5 + 1) / 4)


def test_options_may_be_a_list(tmp_path: Path) -> None:
    run = a_run(('"yes"', "yes\tno", RIGHT), ('"no"', "yes\tno", RIGHT))
    listed = {**run, "options": [["yes", "no"]] * 2}
    assert rescored(tmp_path, run) == rescored(tmp_path, listed)


def test_lettered_targets(tmp_path: Path) -> None:
    run = a_run(("(b)", "yes\tno", " (b)"), ("(b)", "yes\tno", " (a)"), ("(b)", "yes\tno", " (b) or (a)"))
    found = rescored(tmp_path, run, place=Place("a_model", "some_task", "closed_adv", 0, "1"))
    assert found.scores == {"exact_match": 1 / 3, "edit_distance": pytest.approx((1 + 2 + 8) / 3)}


def test_without_options_the_target_alone_counts(tmp_path: Path) -> None:
    assert rescored(tmp_path, a_run(('"42"', "", ' "42".'), ('"42"', "", ' "41".'))).scores["exact_match"] == 1 / 2


@pytest.mark.parametrize(
    ("prediction", "published", "fixed"),
    [
        (ASKED + RIGHT, 1, 1),
        ("<pad>" + RIGHT, 0, 1),  # stripped as letters, "pad>" stays in front
        ("<pad> " + ASKED + RIGHT + "</s> no", 0, 1),
        ("no" + ASKED, 0, 0),
        (ASKED + RIGHT + ASKED, 1, 1),
        ("<|endoftext|>" + RIGHT + "<|endoftext|>", 0, 1),
    ],
)
def test_prompt_and_special_tokens_go_by_the_rules_named(
    tmp_path: Path, prediction: str, published: int, fixed: int
) -> None:
    run = a_run(('"yes"', "yes\tno", prediction))
    assert rescored(tmp_path, run).scores["exact_match"] == published
    assert rescored(tmp_path, run, FIXED).scores["exact_match"] == fixed


def test_options_lose_their_full_stop_only_in_the_tasks_that_conf_names(tmp_path: Path) -> None:
    run = a_run(('"Ice"', "Ice.\tFire.", ' "Ice".'))
    stripped = next(n for n in conf.known("task") if conf.load_task(n).strip_full_stop_from_options)
    kept = Place("a_model", stripped, "closed", 0, "1")
    assert rescored(tmp_path, run).scores["exact_match"] == 0
    assert rescored(tmp_path, run, place=kept).scores["exact_match"] == 1
    assert rescored(tmp_path, run, replay.rules("published", ["option_full_stop=false"])).scores["exact_match"] == 1


def test_items_the_file_judges_otherwise_are_counted(tmp_path: Path) -> None:
    run = a_run(*(('"yes"', "yes\tno", said) for said in (RIGHT, WRONG, RIGHT)))
    assert rescored(tmp_path, run).items_differ is None
    assert rescored(tmp_path, {**run, authors.JUDGEMENTS: ["T", "F", "T"]}).items_differ == 0
    assert rescored(tmp_path, {**run, authors.JUDGEMENTS: ["T", "T", "F"]}).items_differ == 2


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"prediction": [RIGHT]}, "unequal length"),
        ({"target": None}, "no list target"),
        ({"target": ['"maybe"', '"yes"']}, "item 0: its target is none of its options"),
        ({"options": ["yes\tno", 3]}, "item 1: options are neither"),
        ({"prediction": [RIGHT, None]}, "item 1: input, target and prediction are texts"),
        ({name: [] for name in authors.LISTS}, "without items"),
    ],
)
def test_a_bad_file_says_what_is_wrong(tmp_path: Path, change: dict[str, object], why: str) -> None:
    run = a_run(('"yes"', "yes\tno", RIGHT), ('"yes"', "yes\tno", RIGHT))
    with pytest.raises(UserError, match=why):
        rescored(tmp_path, {**run, **change})


@pytest.mark.parametrize("text", ["", "[]", "{", "7", "\x00", "[" * 100_000])
def test_what_is_no_run_at_all_is_a_bad_file_and_no_crash(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(UserError):
        replay.rescore(path, PLACE, PUBLISHED)


# All files: agreement with what was published


def published_row() -> dict[str, str]:
    """A small cell of the published scores with three runs, some items right and many characters off."""
    with replay.PUBLISHED.open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if (r["n_runs"], r["prompt"]) == ("3", "closed")]
    rows = [r for r in rows if float(r["exact_match"]) > 0 and float(r["edit_distance"]) > 3]
    return min(rows, key=lambda r: int(r["n_examples"]))


def released(folder: Path, row: dict[str, str], runs: int = 3, lose: int = 0) -> None:
    """Files that score exactly the published row: as many items right, as many characters off; `lose` fewer right."""
    n, k = int(row["n_examples"]), round(float(row["exact_match"]) * int(row["n_examples"]) * 3)
    away = round(float(row["edit_distance"]) * n * 3)  # characters in all runs
    said = ['"yes"' if i < k else '""' for i in range(3 * n)]  # a distance of 0, and of 3
    said[0] += "x" * (away - 3 * (3 * n - k))
    said[1 : 1 + lose] = ['""'] * lose
    for j in range(runs):
        run = a_run(*(('"yes"', "yes\tno", text) for text in said[j::3]))
        write(folder / row["model"] / row["task"] / f"{row['prompt']}_{row['shots']}shot_{j}.json", run)


def test_released_files_agree_with_the_published_scores_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = published_row()
    released(tmp_path / "in", row)
    code, found = called(monkeypatch, tmp_path / "out.csv", tmp_path / "in")
    assert code == 0
    [cell] = found.to_dict("records")
    assert [cell[key] for key in ("model", "task", "prompt")] == [row["model"], row["task"], row["prompt"]]
    assert (cell["status"], cell["seeds"], cell["n"]) == ("agrees", "0;1;2", int(row["n_examples"]))
    assert abs(cell["exact_match_difference"]) < 1e-6
    assert abs(cell["edit_distance_difference"]) < 1e-6
    assert cell["exact_match_published"] == float(row["exact_match"])


def test_one_wrong_item_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = published_row()
    released(tmp_path / "in", row, lose=1)
    _, found = called(monkeypatch, tmp_path / "out.csv", tmp_path / "in")
    assert found["status"].tolist() == ["differs"]
    assert found["exact_match_difference"].item() == pytest.approx(-1 / (3 * int(row["n_examples"])), abs=1e-6)


def test_a_missing_run_is_not_called_agreement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released(tmp_path / "in", published_row(), runs=2)
    _, found = called(monkeypatch, tmp_path / "out.csv", tmp_path / "in")
    assert found["status"].tolist() == ["incomplete: 2 of 3 runs"]


def test_bad_files_are_named_and_the_others_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = published_row()
    folder = tmp_path / "in"
    released(folder, row)
    write(folder / "m/t/closed_0shot_1.json", {"input": []})
    write(folder / "notes.json", {})
    code, found = called(monkeypatch, tmp_path / "out.csv", folder)
    assert code == 1
    assert found.loc[found["file"].isna(), "status"].tolist() == ["agrees"]
    assert sorted(found["file"].dropna()) == ["m/t/closed_0shot_1.json", "notes.json"]
    said = capsys.readouterr().err
    assert "m/t/closed_0shot_1.json: bad file: no list target, options, prediction" in said
    assert "notes.json: bad file: the path does not match the pattern" in said


def test_a_task_that_was_never_published_is_scored_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "in/m/t/closed_5shot.json", a_run(('"yes"', "yes\tno", RIGHT)))
    code, found = called(monkeypatch, tmp_path / "out.csv", tmp_path / "in")
    assert code == 0
    assert (found["status"].item(), found["exact_match_rescored"].item()) == ("no published score", 1)


def test_another_naming_needs_another_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "in/t--m--closed-adv--5.json", a_run(("(a)", "yes\tno", " (a)")))
    pattern = r"(?P<task>\w+)--(?P<model>\w+)--(?P<prompt>[a-z-]+)--(?P<shots>\d)\.json"
    code, found = called(monkeypatch, tmp_path / "out.csv", tmp_path / "in", "--pattern", pattern)
    assert code == 0
    [row] = found.to_dict("records")
    assert [row[key] for key in authors.KEY] == ["m", "t", "closed_adv", 5]
    assert row["exact_match_rescored"] == 1


def test_files_named_by_date_are_found_in_the_table_of_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the release: results-<run id>.json, the scores of each run in the table."""
    table = tmp_path / "runs.csv"
    head = "run_id,filename,number_of_data,model,prompt_type,number_of_shots,seed"
    head += ",exact_match_accuracy,bert_score_accuracy,edit_distance"
    model = conf.load("model", "gpt2", Model)
    rows = [
        f"20200101_00000{i},t/task.json,2,{model.hub},closed-adv,5,{i},{em},-100,0.5" for i, em in ((1, 1), (2, 0.5))
    ]
    table.write_text("\n".join([head, *rows]) + "\n")
    for i, other in ((1, " (a)"), (2, " (b)")):
        run = a_run(("(a)", "yes\tno", "(a)"), ("(a)", "yes\tno", other))
        write(tmp_path / f"in/results-20200101_00000{i}.json", run)
    write(tmp_path / "in/results-20200101_000003.json", {})
    code, found = called(monkeypatch, tmp_path / "out.csv", tmp_path / "in", "--runs", table)
    assert code == 1
    cell = found[found["file"].isna()].iloc[0]
    assert [cell[key] for key in authors.KEY] == [model.name, "t", "closed_adv", 5]
    assert (cell["exact_match_published"], cell["exact_match_rescored"]) == (0.75, 0.75)
    assert cell["status"] == "differs"  # an edit distance of (1 / 2 + 2 / 2) / 2 where the table says 0.5
    assert cell["edit_distance_rescored"] == 0.75
    assert pd.isna(cell["bertscore_accuracy_published"])
    assert found["file"].dropna().tolist() == ["results-20200101_000003.json"]


def test_a_repeated_run_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, said in (("a", RIGHT), ("b", WRONG)):
        write(tmp_path / f"in/{folder}/m/t/closed_0shot_1.json", a_run(('"yes"', "yes\tno", said)))
    code, found = called(monkeypatch, tmp_path / "out.csv", tmp_path / "in")
    assert code == 0
    assert found["exact_match_rescored"].iloc[0] == 1
    assert found["status"].tolist() == ["no published score", "repeats a run"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["nowhere"], "nowhere is no folder"),
        ([".", "--pattern", "("], "no regular expression"),
        ([".", "--pattern", "(?P<model>.*)"], "no group task"),
        ([".", "--compat", "publishd"], "Did you mean published"),
        ([".", "--switch", "strip=true"], "Known: template_leak"),
        ([".", "--runs", "nowhere.csv"], "cannot be read"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], why: str
) -> None:
    write(tmp_path / "run.json", {})
    monkeypatch.chdir(tmp_path)
    message, _ = called(monkeypatch, tmp_path / "out.csv", *arguments)
    assert isinstance(message, str)
    assert why in message
    assert message.startswith("error: ")


def test_agreement_is_to_the_digits_published() -> None:
    run = replay.Replayed(PLACE, 3, {"exact_match": 1 / 3, "edit_distance": 2.0}, None)
    assert replay.agreement([run], Reference(3, 1, {"exact_match": 0.333333, "edit_distance": 2}))["status"] == "agrees"
    assert replay.agreement([run], Reference(3, 1, {"exact_match": 0.33333, "edit_distance": 2}))["status"] == "differs"
    assert replay.agreement([run], Reference(4, 1, {"exact_match": 0.25}))["status"] == "n differs: 3, published 4"


def test_the_table_of_the_report_shows_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = next(t for t in load_tables(ROOT) if t.name == "replay_agreement")
    released(tmp_path / "in", published_row())
    write(tmp_path / "in/notes.json", {})
    called(monkeypatch, tmp_path / table.frame, tmp_path / "in")
    rows = rows_of(tmp_path, table)
    write_table(rows, table, tmp_path / "tables")
    assert pd.read_csv(tmp_path / "tables/replay_agreement.csv")["status"].str[:8].tolist() == ["agrees", "bad file"]
