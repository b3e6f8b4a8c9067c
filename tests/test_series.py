"""Others' scores by model size: judged by the rule of the published scores, or refused with the reason."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from src import series
from src.base import metrics
from src.base.errors import UserError
from src.base.files import ROOT
from src.base.verdict import CONTRADICTED, SUPPORTED
from src.judgement import table2
from src.judgement.rows import analyses, judged
from src.judgement.scores import CLOSED, PRIMARY, Scores
from src.statistics.table2 import emergence, of_table2
from tests.judgement.conftest import ALPHA, published_scores

SIZES = (1e8, 3e8, 1e9, 3e9, 1e10, 3e10, 1e11)
N = 2000
CHANCE = 0.25
JUMP = (505, 490, 512, 498, 507, 493, 1650)  # right of N: at chance, and far above it with the last size
RISE = (599, 686, 779, 876, 975, 1075, 1173)  # as far each time, on the logit scale
CHOICE = "multiple_choice_grade"


@dataclass(frozen=True)
class Given:
    """A made-up score."""

    task: str
    model: int  # its place in SIZES
    k: int
    n: int | None = N
    shots: int = 0
    family: str = "made"
    metric: str = CHOICE
    chance: float | None = CHANCE

    @property
    def score(self) -> float:
        return self.k / (self.n or N)


def points(task: str, right: Sequence[int], **more: Any) -> list[Given]:
    return [Given(task, i, k, **more) for i, k in enumerate(right)]


BOTH = [*points("jump", JUMP), *points("rise", RISE)]


def row_of(given: Given) -> dict[str, Any]:
    return {"model": f"m{given.model}", "family": given.family, "parameters": SIZES[given.model], "task": given.task,
            "shots": given.shots, "metric": given.metric, "score": given.score, "n": given.n,
            "chance": given.chance}  # fmt: skip


def table(path: Path, given: Sequence[Given]) -> Path:
    pd.DataFrame([row_of(each) for each in given]).to_csv(path, index=False)
    return path


def document(given: Sequence[Given], queries: bool = True) -> dict[str, Any]:
    """One model's results on one task, as BIG-bench 1.0.0 writes them; with the examples: a full log."""
    first = given[0]
    scores = [
        {"score_dict": {each.metric: each.score, "log_likelihood": -3.5, "normalized_aggregate_score": 12.0},
         "preferred_score": each.metric, "number_of_shots": each.shots, "low_score": each.chance, "high_score": 1.0,
         "subtask_description": each.task}
        for each in given
    ]  # fmt: skip
    sample = {"input": "", "targets": [], "scores": [], "target_values": {}, "correct": 0.0}
    asked = [
        {"function": "cond_log_prob", "absolute_normalization": True, "samples": [sample] * (each.n or 0),
         "shots": each.shots, "task": each.task}
        for each in given
    ]  # fmt: skip
    size = int(SIZES[first.model])
    model = {"model_family": first.family, "model_name": f"m{first.model}", "total_params": size + 1000,
             "non_embedding_params": size, "flop_matched_non_embedding_params": size, "training_batch_size": 1,
             "training_steps": 1, "description": "", "decoding_params": {}, "additional_details": ""}  # fmt: skip
    found = {"scores": scores, "task": {"task_name": first.task.partition(":")[0]}, "model": model}
    return {**found, "queries": asked} if queries else found


def bigbench(folder: Path, given: Sequence[Given], queries: bool = True) -> Path:
    """The files of several models and tasks, where BIG-bench has them."""
    places: dict[tuple[str, str, int], list[Given]] = {}
    for each in given:
        places.setdefault((each.task.partition(":")[0], each.family, each.model), []).append(each)
    for (task, family, model), mine in places.items():
        kind = "full-log" if queries else "scores"
        path = folder / task / "results" / f"{kind}_{family}_m{model}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document(mine, queries)))
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project in which nothing is prepared."""
    place = tmp_path / "project"
    place.mkdir()
    shutil.copy(ROOT / "params.yaml", place)
    return place


def bring(root: Path, path: Path, *words: object) -> list[str]:
    return series.bring_in(path, series.parser().parse_args([str(path), *map(str, words)]), root)[1]


def frames(root: Path) -> dict[str, pd.DataFrame]:
    return series.judged(series.imports(root), root)


def tasks(root: Path) -> pd.DataFrame:
    return frames(root)["external_series"].set_index("task")


def same(left: pd.DataFrame, right: pd.DataFrame, *but: str) -> None:
    pd.testing.assert_frame_equal(left.drop(columns=list(but)), right.drop(columns=list(but)))


# ---- the same rule -------------------------------------------------------------------------------------------------


def test_a_jump_at_the_last_size_is_found_and_a_steady_rise_is_none(root: Path, tmp_path: Path) -> None:
    bring(root, table(tmp_path / "a.csv", BOTH))
    found = tasks(root)
    assert found["predictable"].to_dict() == {"jump": metrics.NO_ABOVE, "rise": metrics.YES}
    assert found["emergent"].to_dict() == {"jump": True, "rise": False}
    assert found["word_predictable"].to_dict() == {"jump": CONTRADICTED, "rise": SUPPORTED}
    assert found["word_emergent"].to_dict() == {"jump": SUPPORTED, "rise": CONTRADICTED}
    (whole,) = frames(root)["external_rq1"].to_dict("records")
    assert (whole["tasks"], whole["checked"], whole["emergent_tasks"], whole["word"]) == (2, 2, 1, SUPPORTED)
    assert set(found["source"]) == {metrics.EXTERNAL}


def test_a_csv_and_the_files_of_bigbench_give_the_same_verdict(root: Path, tmp_path: Path) -> None:
    bring(root, table(tmp_path / "same.csv", BOTH))
    before = tasks(root)
    bring(root, bigbench(tmp_path / "same", BOTH), "--replace")
    after = tasks(root)
    assert set(after["chance_from"]) == {"low_score"}
    assert set(after["axis"]) == {"flop_matched_non_embedding_params"}
    same(before, after, "axis", "chance_from", "fingerprint")


def test_the_order_of_the_rows_does_not_matter(root: Path, tmp_path: Path) -> None:
    bring(root, table(tmp_path / "a.csv", BOTH))
    before = frames(root)
    bring(root, table(tmp_path / "a.csv", BOTH[::-1]), "--replace")
    for name, frame in frames(root).items():
        pd.testing.assert_frame_equal(frame, before[name])


@pytest.fixture(scope="module")
def published() -> Scores:
    return published_scores()


COLUMNS = ("n", "k", "accuracy", "ci_low", "ci_high", "trivial", "forecast", "residual", "residual_low",
           "residual_high", "fit_p", "tau2", "df", "p_jump", "p_differs", "p_within_ten", "p_emergent",
           "predictable")  # fmt: skip


@pytest.fixture(scope="module")
def exported(published: Scores, tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(frame external_series of the paper's own series, its Table 2): zero-shot, closed, each task's main metric."""
    place = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "params.yaml", place)
    cells, setting = published.cells, published.setting
    mine = cells[(cells["condition"] == "closed_zero") & cells["primary"].astype(bool) & cells["family"].notna()]
    names = {"accuracy": "score", "chance_scored": "chance"}
    kept = [
        "model",
        "family",
        "tuned",
        "parameters",
        "task",
        "shots",
        "metric",
        "accuracy",
        "n",
        "seeds",
        "chance_scored",
    ]
    path = place / "paper.csv"
    mine[kept].rename(columns=names).to_csv(path, index=False)
    bring(place, path, *(word for task in mine["task"].unique() for word in ("--task", f"{task}={task}")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(series, "setting", lambda _: replace(setting, tables={}))  # the same made-up items
        found = tasks(place)
    rows = emergence(cells, setting)
    largest = published.setting.models[published.largest].family
    return found[found["family"] == largest], rows[of_table2(rows)].set_index("task")


def test_the_published_series_as_a_csv_has_the_numbers_of_table_2(exported: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    found, table_2 = exported
    assert set(found.index) == set(table_2.index)
    for name in COLUMNS:
        mine, theirs = found[name], table_2[name].reindex(found.index)
        pd.testing.assert_series_equal(mine, theirs, check_dtype=False, check_exact=True)
    assert found["emergent"].equals(table_2["emergent"].reindex(found.index))


@pytest.mark.parametrize("claim", ["predictable", "emergent"])
def test_the_published_series_as_a_csv_has_the_words_of_the_audit(
    claim: str, exported: tuple[pd.DataFrame, pd.DataFrame], published: Scores
) -> None:
    """The audit's own functions, on the claim that each task is so, in the prompt and metric that the csv has."""
    setting = published.setting
    said = {task: {**each, claim: True} for task, each in setting.tables["table2"].items()}
    scores = replace(published, setting=replace(setting, tables={**setting.tables, "table2": said}))
    families = [
        each for each in getattr(table2, claim)(scores)
        if (each.taken["prompt"], each.taken["metric"]) == (CLOSED, PRIMARY)
    ]  # fmt: skip
    rows = analyses(families, ALPHA)
    words = {task: judged([row for row in rows if row["item"] == task])["word"] for task in exported[0].index}
    assert exported[0][f"word_{claim}"].to_dict() == words
    assert len(set(words.values())) >= 3


# ---- what a series is ----------------------------------------------------------------------------------------------


def test_families_and_shots_are_series_of_their_own(root: Path, tmp_path: Path) -> None:
    """The same scores three times: each verdict is that of the series alone."""
    others = [replace(each, family="other") for each in BOTH] + [replace(each, shots=3) for each in BOTH]
    bring(root, table(tmp_path / "a.csv", BOTH))
    alone = tasks(root)
    bring(root, table(tmp_path / "a.csv", [*BOTH, *others]), "--replace")
    found = frames(root)["external_series"]
    assert len(found) == 3 * len(alone)
    for _, part in found.groupby(["family", "shots"]):
        same(part.set_index("task"), alone, "family", "shots", "fingerprint")


def test_an_instruction_tuned_model_is_in_no_series(root: Path, tmp_path: Path) -> None:
    bring(root, table(tmp_path / "a.csv", BOTH))
    alone = tasks(root)
    path = table(tmp_path / "a.csv", BOTH)
    with path.open("a") as file:
        for task in ("jump", "rise"):
            file.write(f"m9-instruct,made,5e11,{task},0,{CHOICE},0.95,400,0.25\n")
    assert "instruction-tuned, in no series: m9-instruct" in bring(root, path, "--replace")
    same(tasks(root), alone, "fingerprint")


def test_the_mean_over_subtasks_is_no_task_beside_them(root: Path, tmp_path: Path) -> None:
    given = [*points("many:jump", JUMP), *points("many:rise", RISE), *points("many", RISE)]
    bring(root, bigbench(tmp_path / "b", given))
    assert sorted(tasks(root).index) == ["many:jump", "many:rise"]


def test_a_subtask_is_ours_where_its_file_is(root: Path, tmp_path: Path) -> None:
    """logical_deduction of ours is one of three subtasks; the whole task of that name is another."""
    given = [*points("logical_deduction:three_objects", JUMP), *points("logical_deduction:five_objects", RISE),
             *points("implicatures", RISE)]  # fmt: skip
    bring(root, bigbench(tmp_path / "b", given))
    ours = tasks(root)["our_task"].dropna().to_dict()
    assert ours == {"logical_deduction:three_objects": "logical_deduction", "implicatures": "implicatures"}
    bring(root, table(tmp_path / "c.csv", points("logical_deduction", RISE)))
    assert tasks(root)["our_task"].dropna().to_dict() == ours


def test_how_a_metric_grades_is_said(root: Path, tmp_path: Path) -> None:
    written = points("written", RISE, metric="exact_str_match", chance=None)
    bring(root, table(tmp_path / "a.csv", [*BOTH, *written]))
    assert tasks(root)["graded"].to_dict() == {"jump": "likelihood", "rise": "likelihood", "written": "generated"}


def test_low_score_is_the_chance_of_multiple_choice_alone(root: Path, tmp_path: Path) -> None:
    written = points("written", RISE, metric="exact_str_match", chance=0.0)
    for each in written:
        bigbench(tmp_path / "b", [each], queries=False)
    sizes = tmp_path / "n.csv"
    sizes.write_text("task,n\nwritten,2000\n")
    bring(root, tmp_path / "b", "--n", sizes)
    (row,) = tasks(root).to_dict("records")
    assert pd.isna(row["chance"])
    assert row["predictable"] == metrics.YES  # the line needs no chance
    assert row["word_emergent"] == "no number"
    assert "no chance level is known" in row["reason"]


# ---- what cannot be checked ----------------------------------------------------------------------------------------


def without(name: str) -> Callable[[Given], Given]:
    return lambda each: replace(each, **{name: None})


REFUSED: dict[str, tuple[Sequence[Given], str]] = {
    "no n": ([without("n")(each) for each in points("t", JUMP)], r"n is not known \(m0\)"),
    "three sizes": (points("t", JUMP[:3]), "2 smaller sizes, and a forecast needs 3"),
    "one size": (points("t", JUMP[:1]), "0 smaller sizes"),
    "no accuracy": (points("t", JUMP, metric="macro_f1"), "macro_f1 is not known to be a share of right answers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_rule_needs_and_is_not_there_is_said(case: str, root: Path, tmp_path: Path) -> None:
    given, reason = REFUSED[case]
    bring(root, table(tmp_path / "a.csv", given))
    (row,) = tasks(root).to_dict("records")
    assert re.search(f"^cannot be checked: {reason}", row["reason"])
    for name in ("predictable", "emergent", "word_predictable", "word_emergent"):
        assert pd.isna(row[name])


def test_an_n_that_the_score_cannot_have_is_no_n(root: Path, tmp_path: Path) -> None:
    """A score of 647 / 1,024 was not measured on 3,264 examples."""
    given = [replace(each, n=1024) for each in points("t", (260, 262, 255, 250, 258, 261, 647))]
    bigbench(tmp_path / "b", given, queries=False)
    sizes = tmp_path / "n.csv"
    sizes.write_text("task,n\nt,3264\n")
    bring(root, tmp_path / "b", "--n", sizes)
    (row,) = tasks(root).to_dict("records")
    assert "is no whole number" in row["reason"]
    assert pd.isna(row["predictable"])
    sizes.write_text("task,n\nt,1024\n")
    bring(root, tmp_path / "b", "--n", sizes, "--replace")
    assert tasks(root)["predictable"].to_dict() == {"t": metrics.NO_ABOVE}


def test_a_score_file_without_n_is_judged_by_the_n_that_a_csv_gives(root: Path, tmp_path: Path) -> None:
    bring(root, bigbench(tmp_path / "same", BOTH))
    with_log = tasks(root)
    bigbench(tmp_path / "again" / "same", BOTH, queries=False)
    said = bring(root, tmp_path / "again" / "same", "--replace")
    assert any("14 scores have no n, and no verdict" in each for each in said)
    assert tasks(root)["predictable"].isna().all()
    sizes = tmp_path / "n.csv"
    sizes.write_text("task,n,shots\njump,2000,0\nrise,2000,\n")
    bring(root, tmp_path / "again" / "same", "--replace", "--n", sizes)
    same(tasks(root), with_log, "fingerprint")


def test_two_largest_models_are_not_told_apart(root: Path, tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", BOTH)
    with path.open("a") as file:
        file.write(f"m6b,made,1e11,rise,0,{CHOICE},0.5,400,0.25\n")
    bring(root, path)
    assert set(tasks(root)["reason"]) == {"cannot be checked: m6 and m6b are both the largest"}


# ---- wrong inputs --------------------------------------------------------------------------------------------------


def changed(column: str, value: str, line: int = 1) -> Callable[[list[dict[str, str]]], None]:
    def change(rows: list[dict[str, str]]) -> None:
        rows[line][column] = value

    return change


def dropped(*columns: str) -> Callable[[list[dict[str, str]]], None]:
    def change(rows: list[dict[str, str]]) -> None:
        for row in rows:
            for column in columns:
                del row[column]

    return change


def again(**values: str) -> Callable[[list[dict[str, str]]], None]:
    return lambda rows: rows.append({**rows[0], **values})


WRONG: dict[str, tuple[Callable[[list[dict[str, str]]], None], str]] = {
    "per cent signs": (changed("score", "58.5%"), "line 3: the score '58.5%' has a per cent sign"),
    "per cent": (changed("score", "58.5"), "the score 58.5 is outside 0 to 1. If all scores are per cent: --percent"),
    "a negative score": (changed("score", "-0.1"), "outside 0 to 1$"),
    "a decimal comma": (changed("score", "0,585"), "line 3: the score '0,585' has a comma"),
    "NaN": (changed("score", "nan"), "line 3: the score 'nan' is no finite number"),
    "Infinity": (changed("score", "inf"), "is no finite number"),
    "no score": (changed("score", ""), "line 3: it has no score"),
    "text": (changed("score", "high"), "line 3: the score 'high' is no number"),
    "half an example": (changed("n", "400.5"), "the n '400.5' is no whole number of 1 or more"),
    "no example": (changed("n", "0"), "the n '0' is no whole number of 1 or more"),
    "negative parameters": (changed("parameters", "-1e9"), "the parameters '-1e9' is no size of a model$"),
    "billions": (changed("parameters", "137"), "is no size of a model. Is it 137M or 137B"),
    "no parameters": (changed("parameters", ""), "line 3: it has no parameters"),
    "two sizes": (changed("parameters", "2e8", 0), "m0 has two sizes, 2e\\+08 and 1e\\+08"),
    "a chance of 30": (changed("chance", "25"), "the chance '25' lies outside 0 to 1"),
    "no column": (dropped("metric", "score"), "has no column metric, score"),
    "no axis": (dropped("parameters"), "has no column of sizes"),
    "no family": (dropped("family"), "has no column family"),
    "two scores": (again(score="0.5"), "m0 on jump .* has two rows, with score 0.2525 .* and 0.5"),
    "two n": (again(n="800"), "m0 on jump .* has two rows, with n 2000 .* and 800"),
}


def rows_of(given: Sequence[Given]) -> list[dict[str, str]]:
    return [{name: str(value) for name, value in row_of(each).items()} for each in given]


def write(path: Path, rows: list[dict[str, str]], encoding: str = "utf-8") -> Path:
    with path.open("w", newline="", encoding=encoding) as file:
        out = csv.DictWriter(file, list(rows[0]))
        out.writeheader()
        out.writerows(rows)
    return path


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_csv_is_refused_with_its_line_and_imports_nothing(case: str, root: Path, tmp_path: Path) -> None:
    change, message = WRONG[case]
    rows = rows_of(BOTH)
    change(rows)
    with pytest.raises(UserError, match=message):
        bring(root, write(tmp_path / "a.csv", rows))
    assert not list(root.rglob("*.parquet*"))


def test_two_axes_are_a_question(root: Path, tmp_path: Path) -> None:
    rows = [{**row, "flops": "1e21"} for row in rows_of(BOTH)]
    with pytest.raises(UserError, match=r"2 columns of sizes \(parameters, flops\).*--axis parameters"):
        bring(root, write(tmp_path / "a.csv", rows))
    bring(root, write(tmp_path / "a.csv", rows), "--axis", "parameters")
    assert set(tasks(root)["axis"]) == {"parameters"}


def test_semicolons_a_cut_line_and_another_encoding_are_refused(root: Path, tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", BOTH)
    text = path.read_text()
    for bad, message in {
        text.replace(",", ";").encode(): "separated by semicolons",
        text[:-20].encode(): "Was the file cut short",
        text.replace("made", "mäde").encode("latin-1"): "no csv in UTF-8",
        text.split("\n")[0].encode(): "has no row",
        b"": "has no",
    }.items():
        path.write_bytes(bad)
        with pytest.raises(UserError, match=message):
            bring(root, path)
    assert not list(root.rglob("*.parquet*"))


def test_a_byte_order_mark_names_like_137b_and_per_cent_that_is_said_are_read(root: Path, tmp_path: Path) -> None:
    bring(root, table(tmp_path / "a.csv", BOTH))
    plain = tasks(root)
    sizes = dict(zip(map(str, SIZES), ("100M", "300m", "1B", "3 B", "10b", "30B", "0.1T"), strict=True))
    rows = [{**row, "parameters": sizes[row["parameters"]], "score": f"{float(row['score']) * 100:.4f}"}
            for row in rows_of(BOTH)]  # fmt: skip
    bring(root, write(tmp_path / "a.csv", rows, "utf-8-sig"), "--replace", "--percent")
    same(tasks(root), plain, "fingerprint")
    with pytest.raises(UserError, match="no score is over 1"):
        bring(root, table(tmp_path / "b.csv", BOTH), "--percent")


def test_a_column_that_nothing_is_read_from_is_named(root: Path, tmp_path: Path) -> None:
    rows = [{**row, "chanse": "0.5"} for row in rows_of(BOTH)]
    assert "a.csv: nothing is read from chanse" in bring(root, write(tmp_path / "a.csv", rows))


def a_field(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(found: Any) -> None:
        for key in path[:-1]:
            found = found[key]
        found[path[-1]] = value

    return change


def gone(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(found: Any) -> None:
        for key in path[:-1]:
            found = found[key]
        del found[path[-1]]

    return change


SCHEMA: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no model": (gone("model"), "it has no 'model'"),
    "no size": (gone("model", "flop_matched_non_embedding_params"), "it has no 'flop_matched_non_embedding_params'"),
    "scores of another layout": (a_field("scores", value={"acc": 1}), "its scores are no list"),
    "a size in words": (a_field("model", "flop_matched_non_embedding_params", value="137B"), "is '137B', no number"),
    "a negative size": (a_field("model", "flop_matched_non_embedding_params", value=-5), "no negative size"),
    "NaN": (a_field("scores", 0, "score_dict", CHOICE, value=float("nan")), f"{CHOICE} of jump is nan, no number"),
    "Infinity": (a_field("scores", 0, "score_dict", CHOICE, value=float("inf")), "is inf, no number"),
    "a score in words": (a_field("scores", 0, "score_dict", CHOICE, value="0.5"), "is '0.5', no number"),
    "0 to 100": (a_field("scores", 0, "score_dict", CHOICE, value=58.5), "outside 0 to 1. If all scores are per cent"),
    "half a shot": (a_field("scores", 0, "number_of_shots", value=0.5), "number_of_shots is 0.5"),
    "no name": (a_field("model", "model_family", value=""), "model_family is ''"),
    "a list": (lambda found: found.update(task=[]), "This reader knows BIG-bench's score files"),
}


@pytest.mark.parametrize("case", SCHEMA)
def test_a_wrong_score_file_is_refused_and_imports_nothing(case: str, root: Path, tmp_path: Path) -> None:
    change, message = SCHEMA[case]
    folder = bigbench(tmp_path / "b", BOTH)
    path = folder / "jump/results/full-log_made_m2.json"
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))
    with pytest.raises(UserError, match=message):
        bring(root, folder)
    assert not list(root.rglob("*.parquet*"))


def test_a_cut_score_file_is_refused_and_what_was_imported_before_stays(root: Path, tmp_path: Path) -> None:
    folder = bigbench(tmp_path / "b", BOTH)
    bring(root, folder)
    (before,) = (path.read_bytes() for path in series.imports(root))
    path = folder / "rise/results/full-log_made_m1.json"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"full-log_made_m1\.json is no whole JSON file"):
        bring(root, folder, "--replace")
    assert [each.read_bytes() for each in series.imports(root)] == [before]


def test_a_family_whose_size_is_not_said_is_not_judged_and_others_are(root: Path, tmp_path: Path) -> None:
    folder = bigbench(tmp_path / "b", [*BOTH, *(replace(each, family="other") for each in BOTH)])
    for path in folder.rglob("full-log_other_m6.json"):
        found = json.loads(path.read_text())
        found["model"]["flop_matched_non_embedding_params"] = 0
        path.write_text(json.dumps(found))
    bring(root, folder)
    by_family = frames(root)["external_series"].groupby("family")["reason"].unique()
    assert by_family["other"] == ["cannot be checked: the flop_matched_non_embedding_params of m6 are not known"]
    assert pd.isna(by_family["made"]).all()


def test_a_wrong_table_of_n_is_refused(root: Path, tmp_path: Path) -> None:
    folder, sizes = bigbench(tmp_path / "b", BOTH, queries=False), tmp_path / "n.csv"
    for text, message in {
        "task,size\njump,400\n": "Needed are task and n",
        "task,n\njump,4e2\n": "line 2: '4e2' is no number of examples",
        "task,n\njumps,400\n": "Unknown task of .*n.csv, line 2: 'jumps'. Did you mean jump",
        "task,n\njump,400\njump,500\n": "has several n: 400, 500",
    }.items():
        sizes.write_text(text)
        with pytest.raises(UserError, match=message):
            bring(root, folder, "--n", sizes)


def test_nothing_of_it_is_a_published_or_own_cell(root: Path, tmp_path: Path) -> None:
    """It lies apart from logs with examples, and no stage reads either folder."""
    bring(root, table(tmp_path / "a.csv", BOTH))
    assert [path.relative_to(root).as_posix() for path in root.rglob("*.parquet")] == ["data/external/series/a.parquet"]
    assert "external" not in (ROOT / "dvc.yaml").read_text()


def test_the_command_shows_writes_and_removes(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = table(tmp_path / "a.csv", BOTH)
    given = series.parser().parse_args(
        [str(path), "--csv", str(tmp_path / "o.csv"), "--html", str(tmp_path / "o.html")]
    )
    series.execute(given, root)
    assert "no_above" in capsys.readouterr().out
    with (tmp_path / "o.csv").open() as file:
        assert [(row["task"], row["predictable"]) for row in csv.DictReader(file)] == [
            ("jump", "no_above"),
            ("rise", "yes"),
        ]
    assert (tmp_path / "o.rq1.csv").exists()
    assert "no claim rests on it" in (tmp_path / "o.html").read_text()
    series.execute(series.parser().parse_args(["--drop", "a"]), root)
    with pytest.raises(UserError, match="no series was imported yet"):
        series.execute(series.parser().parse_args([]), root)
